from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from prefect_trainyard.networks.classification.model import Record, build, load_model, save_model
from prefect_trainyard.networks.pruning import Bounds, prune_share, prune_threshold
from prefect_trainyard.networks.weights import count_parameters, load_weights, resize_to, save_weights
from prefect_trainyard.schemas.errors import JobFailed, SpecError
from safetensors.torch import save_file

BACKBONES = [
    "resnet10t",
    "mobilenetv2_050",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "efficientnet_b0", "regnetx_002")),
]


def record(backbone: str, size: int = 64) -> Record:
    return Record(
        backbone=backbone,
        classes=["cat", "dog", "owl"],
        channels=3,
        width=size,
        height=size,
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", ["share", "threshold"])
def test_a_pruned_network_is_rebuilt_from_the_shapes_in_its_file(tmp_path: Path, backbone: str, method: str) -> None:
    torch.manual_seed(0)
    facts = record(backbone)
    model = build(facts)
    before = count_parameters(model)
    bounds = Bounds([model.get_classifier()], granularity=8, min_channels=8)
    example = torch.zeros(1, *facts.shape)
    if method == "share":
        prune_share(model, example, 0.4, bounds)
        assert count_parameters(model) <= 0.6 * before
    else:
        prune_threshold(model, example, 0.95, bounds)
        assert count_parameters(model) < before
    save_model(tmp_path / "model.safetensors", model.state_dict(), facts)
    rebuilt, read = load_model(tmp_path / "model.safetensors")
    assert read == facts
    images = torch.randn(2, *facts.shape)
    with torch.inference_mode():
        assert torch.equal(rebuilt(images), model.eval()(images))


def test_pruning_spares_small_layers_and_keeps_multiples() -> None:
    model = build(record("resnet10t"))
    before = _widths(model)
    prune_share(model, torch.zeros(1, 3, 64, 64), 0.9, Bounds([model.get_classifier()], 16, 48))
    after = _widths(model)
    assert after != before
    assert all(new == old or (new >= 48 and new % 16 == 0) for old, new in zip(before, after, strict=True))


def _widths(model: torch.nn.Module) -> list[int]:
    return [layer.out_channels for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]


def test_resizing_to_the_same_shapes_changes_nothing() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    before = [id(p) for p in model.parameters()]
    resize_to(model, model.state_dict())
    assert [id(p) for p in model.parameters()] == before


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "x.safetensors", {"w": torch.zeros(1)}, {"network": "segformer"})
    with pytest.raises(JobFailed, match="segformer"):
        load_model(tmp_path / "x.safetensors")


def test_weights_without_a_description_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(JobFailed, match="description"):
        load_model(tmp_path / "x.safetensors")


def test_weights_that_do_not_fit_their_description_are_refused(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    save_model(tmp_path / "x.safetensors", model.state_dict(), record("resnet18"))
    with pytest.raises(JobFailed, match="do not fit"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_file_that_is_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(JobFailed, match=r"x\.safetensors"):
        load_weights(tmp_path / "x.safetensors")
    with pytest.raises(JobFailed, match="missing"):
        load_weights(tmp_path / "missing.safetensors")


def test_an_unknown_backbone_is_answered_with_similar_names() -> None:
    with pytest.raises(SpecError, match="resnet18") as failure:
        build(record("resnet_18"))
    assert "model.backbone.type" in failure.value.message


def test_a_backbone_that_cannot_take_such_images_is_refused() -> None:
    with pytest.raises(SpecError, match="input_width"):
        build(record("inception_v3", size=32))


def test_a_transformer_is_built_for_the_size_of_the_images() -> None:
    model = build(record("vit_tiny_patch16_224", size=64))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
