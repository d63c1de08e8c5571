"""A segmentation model: a network with the facts that are needed to use it, on disk and in memory."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final, Literal

import timm
import torch

from ...datasets.mask_classes import MaskClasses
from ...schemas.errors import JobFailed, SpecError
from .. import records
from ..records import ModelRecord
from ..weights import load_weights, resize_to, save_weights
from .networks import SegFormer, Segmenter, UNet

UNET: Final = "unet"
SEGFORMER: Final = "segformer"
NETWORKS: Final = (UNET, SEGFORMER)


class Record(ModelRecord):
    """A segmentation model."""

    network: Literal["unet", "segformer"]
    masks: MaskClasses
    """What the values of the masks mean that it was trained on."""
    decoder_channels: int = 0

    @property
    def output_shape(self) -> tuple[int, ...]:
        return len(self.classes), self.height, self.width

    @property
    def unit(self) -> str:
        return "pixels"


def parse_record(raw: object, where: str) -> Record:
    """Return the record found in the file `where`; JobFailed when it is of another network."""
    return records.parse_record(raw, where, Record, NETWORKS)


def build(record: Record) -> Segmenter:
    """Return the network with random weights.

    Raises:
        SpecError: there is no such encoder, or it cannot be used for this.
    """
    if record.network == SEGFORMER:
        return SegFormer(record.backbone, record.channels, len(record.classes)).eval()
    if not timm.is_model(record.backbone):
        close = difflib.get_close_matches(record.backbone, timm.list_models(), n=5, cutoff=0.5)
        raise SpecError(
            f"model.arch: timm has no model {record.backbone!r}.",
            hint=f"Similar names: {', '.join(close)}." if close else "timm.list_models() lists the names.",
        )
    try:
        model = UNet(record.backbone, record.channels, len(record.classes), record.decoder_channels).eval()
        with torch.inference_mode():
            logits = model(torch.zeros(1, *record.shape))
        if logits.shape[1:] != record.output_shape:
            raise ValueError(f"it gives {tuple(logits.shape[2:])} for {record.shape[1:]} pixels")
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError) as error:
        raise SpecError(
            f"model.arch: {record.backbone} cannot be the encoder of a U-Net for images of {record.width} x "
            f"{record.height} pixels: {_one_line(error)}.",
            hint="Use a network of convolutions that halves the size at each stage, for example a resnet, a vgg, an "
            "efficientnet or a mobilenet.",
        ) from error
    return model


def save_model(path: Path, state: dict[str, torch.Tensor], record: Record) -> None:
    save_weights(path, state, record.model_dump(mode="json"))


def load_model(path: Path) -> tuple[Segmenter, Record]:
    """Return the network in a weight file, pruned or not, ready to predict on the CPU.

    Raises:
        JobFailed: the file is damaged or of another network.
    """
    state, raw = load_weights(path)
    if raw is None:
        raise JobFailed(
            f"{path.name} holds weights without a description of their network.",
            hint="Such files can only be the base experiment of a train job.",
        )
    record = parse_record(raw, path.name)
    model = build(record)
    resize_to(model, state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise JobFailed(f"The weights in {path.name} do not fit the network they name: {_one_line(error)}.") from error
    return model.eval(), record


def start_from(path: Path, record: Record) -> tuple[Segmenter, str]:
    """Return the network of `record` with what fits of the weights in `path`, and a sentence about it.

    They are of a model of this family, pruned or not, or plain weights of the encoder in the names of its library.
    The last layer is taken over only from a model of the same classes.

    Raises:
        JobFailed: they are of another network.
    """
    state, raw = load_weights(path)
    if raw is None:
        return _start_from_encoder(state, path.name, record)
    base = parse_record(raw, path.name)
    wanted, given = ((r.network, r.backbone, r.channels, r.decoder_channels) for r in (record, base))
    if wanted != given:
        raise JobFailed(
            f"The base weights are of {_described(base)}, and the spec asks for {_described(record)}.",
            hint="Set the spec to what the base weights are of, or choose another base experiment.",
        )
    model, _ = load_model(path)
    same_classes = base.classes == record.classes
    if not same_classes:
        model.replace_head(len(record.classes))
    return model, f"Starting from {path.name}, {'with' if same_classes else 'without'} the last layer."


def _start_from_encoder(state: dict[str, torch.Tensor], name: str, record: Record) -> tuple[Segmenter, str]:
    model = build(record)
    own = model.state_dict()
    head = {f"{layer}.{leaf}" for layer in ("head", "network.decode_head.classifier") for leaf in ("weight", "bias")}
    best: dict[str, torch.Tensor] = {}
    for prefix in ("", "encoder.", "network.", "network.segformer."):
        named = {f"{prefix}{key}": tensor for key, tensor in state.items()}
        fitting = {k: t for k, t in named.items() if k in own and own[k].shape == t.shape and k not in head}
        best = max(best, fitting, key=len)
    encoder = sum(key.startswith(("encoder.", "network.segformer.")) for key in own)
    if len(best) < encoder / 2:
        raise JobFailed(
            f"The base weights in {name} do not belong to {record.backbone}: {len(best)} of the {encoder} tensors of "
            "its encoder are there.",
            hint="Choose the encoder that the weights were trained with.",
        )
    model.load_state_dict(best, strict=False)
    return model, f"Starting from {name}: {len(best)} tensors taken over."


def _described(record: Record) -> str:
    width = f" with a decoder of {record.decoder_channels} channels" if record.network == UNET else ""
    return f"{record.network} on {record.backbone} for {record.channels} channels{width}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
