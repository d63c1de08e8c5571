"""Names of backbones: those of the API documents beside those of timm. Imports no timm: the API process reads this."""

from __future__ import annotations

#: Words of the API documents -> timm.
_TIMM = {
    "resnet_10": "resnet10t",
    **{f"resnet_{layers}": f"resnet{layers}" for layers in (18, 34, 50, 101)},
    **{f"vgg_{layers}": f"vgg{layers}_bn" for layers in (16, 19)},
    **{f"efficientnet-b{size}": f"efficientnet_b{size}" for size in range(8)},
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "darknet_53": "darknet53",
    "cspdarknet_53": "cspdarknet53",
    **{f"gc_vit_{size}": f"gcvit_{size}" for size in ("xxtiny", "xtiny", "tiny", "small", "base")},
}

#: Beginnings of words of the API documents that no library here has -> what there is instead.
_MISSING = {
    "fan_": "convnext_tiny, gc_vit_tiny or vit_small_patch16_224",
    "faster_vit_": "gc_vit_tiny, convnext_tiny or fastvit_t8",
    "gc_vit_": "gc_vit_tiny, gc_vit_small or gc_vit_base",
    "googlenet": "inception_v3 or resnet_18",
    "squeezenet": "mobilenet_v2 or efficientnet-b0",
    "alexnet": "resnet_10 or vgg_16",
    "darknet_": "darknet_53",
    "cspdarknet_": "cspdarknet_53",
    "resnet_": "resnet_10, resnet_18, resnet_34, resnet_50 or resnet_101",
    "vgg_": "vgg_16 or vgg_19",
    "efficientnet-": "efficientnet-b0 to efficientnet-b7",
}

#: Architectures of the v4 document whose size is a second parameter.
_WITH_LAYERS = frozenset({"resnet", "vgg", "darknet", "cspdarknet"})


def timm_name(word: str) -> str:
    """Return what timm calls a backbone. Names of timm are returned as they are, and so are unknown ones.

    Raises:
        ValueError: a word of the API documents for which no library here has a network.
    """
    if word in _TIMM:
        return _TIMM[word]
    for start, instead in _MISSING.items():
        if word.startswith(start):
            raise ValueError(f"there is no {word!r} here; use {instead}, or any other timm model")
    return word


def with_layers(arch: str, layers: int) -> str:
    """Return the word for an architecture of the v4 document; `layers` counts only where it has several sizes."""
    return f"{arch}_{layers}" if arch in _WITH_LAYERS else arch
