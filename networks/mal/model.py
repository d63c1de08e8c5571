"""The model with the facts that are needed to use it, on disk and in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...schemas.errors import JobFailed, SpecError
from .. import records
from ..devices import choose_device
from ..records import ModelRecord, normalize
from ..weights import count_parameters, load_weights, save_weights
from .network import MaskLabeller, MaskNet

NETWORK = "mal"

#: Which network makes the masks: the one that learned, its running mean, or both together.
Maker = Literal["student", "teacher", "both"]

Floats = npt.NDArray[np.float32]


class Record(ModelRecord):
    """A model that makes masks of boxes. `width` and `height` are those of a crop; classes are nothing to it."""

    mask_head_num_convs: int
    mask_head_hidden_channel: int
    mask_head_out_channel: int
    mask_scale_ratio: float
    vit_dpr: float = 0.0
    margin: float
    """How far crops reach beyond their box, when masks are made."""
    threshold: float
    """Pixels this sure are of the object."""
    mask_size: tuple[int, int] = (0, 0)
    """Height and width of a mask of the network."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one input: pixels, and last the box, 255 inside."""
        return self.channels + 1, self.height, self.width

    @property
    def heads(self) -> list[float]:
        """What the layers behind the backbone are made of."""
        return [
            self.mask_head_num_convs,
            self.mask_head_hidden_channel,
            self.mask_head_out_channel,
            self.mask_scale_ratio,
        ]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.mask_size

    @property
    def unit(self) -> str:
        return "boxes"


def parse_record(raw: object, where: str) -> Record:
    """Return the record found in the file `where`; JobFailed when it is of another network."""
    return records.parse_record(raw, where, Record, (NETWORK,))


def build(record: Record) -> tuple[MaskLabeller, Record]:
    """Return the network with random weights, and the record with the size of its masks.

    Raises:
        SpecError: there is no such backbone, or it cannot be used for this.
    """
    try:
        student = MaskNet(
            record.backbone,
            record.width,
            convolutions=record.mask_head_num_convs,
            hidden=record.mask_head_hidden_channel,
            out=record.mask_head_out_channel,
            scale=record.mask_scale_ratio,
            drop_path=record.vit_dpr,
        ).eval()
        with torch.no_grad():
            crop = torch.zeros(1, record.channels, record.height, record.width)
            masks = student(crop, torch.ones(1, record.height, record.width))
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError) as error:
        raise SpecError(
            f"model.arch: {record.backbone} cannot be the backbone for crops of {record.width} x {record.height} "
            f"pixels: {_one_line(error)}.",
            hint="Use a timm model that gives maps of features, for example resnet18 or vit_tiny_patch16_224, or "
            "another dataset.crop_size.",
        ) from error
    return MaskLabeller(student), record.model_copy(update={"mask_size": (masks.shape[-2], masks.shape[-1])})


def save_model(path: Path, state: dict[str, torch.Tensor], record: Record) -> None:
    save_weights(path, state, record.model_dump(mode="json"))


def load_model(path: Path) -> tuple[MaskLabeller, Record]:
    """Return the network in a weight file, ready to predict on the CPU.

    Raises:
        JobFailed: the file is damaged or of another network.
    """
    if path.suffix != ".safetensors":
        raise JobFailed(f"{path.name} is no model of {NETWORK}.", hint="Its models are .safetensors files.")
    state, raw = load_weights(path)
    if raw is None:
        raise JobFailed(
            f"{path.name} holds weights without a description of their network.",
            hint="Such files can only be the base experiment of a train job.",
        )
    model, record = build(parse_record(raw, path.name))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise JobFailed(f"The weights in {path.name} do not fit the network they name: {_one_line(error)}.") from error
    return model.eval(), record


def start_from(path: Path, record: Record) -> tuple[MaskLabeller, Record, str]:
    """Return the network of `record` with the weights in `path`, its record, and a sentence about it.

    They are of a model of this network, or plain weights of the backbone in the names of timm.

    Raises:
        JobFailed: they are of another network.
    """
    state, raw = load_weights(path)
    model, record = build(record)
    own = model.student.state_dict()
    if raw is None:
        fitting = {f"backbone.{name}": tensor for name, tensor in state.items()}
        fitting = {name: tensor for name, tensor in fitting.items() if name in own and own[name].shape == tensor.shape}
        # why: features_only wraps plain transformers and gives their weights a longer name.
        wrapped = {f"backbone.model.{name}": tensor for name, tensor in state.items()}
        wrapped = {name: tensor for name, tensor in wrapped.items() if name in own and own[name].shape == tensor.shape}
        taken = max(fitting, wrapped, key=len)
        count = sum(name.startswith("backbone.") for name in own)
        if len(taken) < count / 2:
            raise JobFailed(
                f"The base weights in {path.name} do not belong to {record.backbone}: {len(taken)} of the {count} "
                "tensors of the backbone are there.",
                hint="Choose the backbone that the weights were trained with.",
            )
    else:
        parse_record(raw, path.name)
        taken = {name.removeprefix("student."): tensor for name, tensor in state.items() if name.startswith("student.")}
        if {name: tensor.shape for name, tensor in taken.items()} != {name: own[name].shape for name in own}:
            raise JobFailed(
                f"The base weights in {path.name} are of another backbone, head or crop size than the spec asks for.",
                hint="Set model and dataset.crop_size to what the base weights are of, or choose another base "
                "experiment.",
            )
    model.student.load_state_dict(taken, strict=False)
    model.teacher.load_state_dict(model.student.state_dict())
    return model, record, f"Starting from {path.name}: {len(taken)} tensors taken over."


class Labeller:
    """A model that is ready to use, on the GPU where there is one."""

    def __init__(self, path: Path, maker: Maker = "student") -> None:
        """Raise JobFailed when `path` is no model of this network."""
        model, self.record = load_model(path)
        self.parameter_count: int | None = count_parameters(model)
        self._device = choose_device()
        both = {"student": [model.student], "teacher": [model.teacher], "both": [model.student, model.teacher]}
        self._networks: list[nn.Module] = [network.to(self._device) for network in both[maker]]

    @torch.inference_mode()
    def probabilities(self, pixels_B3HW: torch.Tensor, boxes_BHW: torch.Tensor) -> torch.Tensor:
        """Return how likely each pixel of a crop is of the object, at the size of the crop; 0 outside its box.

        `pixels_B3HW` are from 0 to 255.
        """
        images, boxes = normalize(pixels_B3HW.to(self._device), self.record), boxes_BHW.to(self._device).float()
        found = torch.stack([network(images, boxes).float().sigmoid() for network in self._networks]).mean(dim=0)
        return at_size(found, boxes.shape[-2:]) * boxes

    def logits(self, pixels_BCHW: torch.Tensor) -> Floats:
        """Return the logits of masks at the size of the network; the last channel of the input is the box."""
        images = normalize(pixels_BCHW[:, :-1].to(self._device), self.record)
        boxes = (pixels_BCHW[:, -1].to(self._device) > 0).float()
        with torch.inference_mode():
            found = torch.stack([network(images, boxes).float() for network in self._networks]).mean(dim=0)
        return found.cpu().numpy()


def at_size(masks_BHW: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Return masks at another size."""
    return nn.functional.interpolate(masks_BHW[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
