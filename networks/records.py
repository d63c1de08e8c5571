"""What a model file says about itself: in the header of weights and in the metadata of ONNX graphs."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from ..schemas.errors import JobFailed

Floats = npt.NDArray[np.floating]

R = TypeVar("R", bound="ModelRecord")


class ModelRecord(BaseModel):
    """The facts that are needed to use a model on images. Families add their own."""

    model_config = ConfigDict(frozen=True)

    INT8_OPERATIONS: ClassVar[tuple[str, ...] | None] = None
    """What an int8 engine computes in 8 bits; None: all that can be."""

    network: str
    backbone: str
    classes: list[str]
    channels: int
    width: int
    height: int
    mean: list[float]
    std: list[float]
    resize: Literal["stretch-bilinear", "letterbox"] = "stretch-bilinear"
    epoch: int | None = None
    metrics: dict[str, float] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one input."""
        return self.channels, self.height, self.width

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the logits of one input."""
        raise NotImplementedError

    @property
    def unit(self) -> str:
        """What gets a label, in the plural."""
        return "images"

    def labels(self, logits: Floats) -> npt.NDArray[np.int64]:
        """Return the most likely class of everything that gets a label; `logits` are of shape B, C, ..."""
        return logits.argmax(axis=1)

    def difference(self, expected: Floats, found: Floats) -> float:
        """Return the largest difference of two outputs for the same images."""
        return float(np.abs(found - expected).max())

    def agreement(self, expected: Floats, found: Floats) -> tuple[int, int]:
        """Return how many of what gets a label got the same one in two outputs for the same images, and of how many."""
        labels = self.labels(expected)
        return int((labels == self.labels(found)).sum()), labels.size


def normalize(pixels_BCHW: torch.Tensor, record: ModelRecord) -> torch.Tensor:
    """Return pixels (0 to 255, any type) as the input of the network."""
    mean = torch.tensor(record.mean, device=pixels_BCHW.device).view(1, -1, 1, 1) * 255
    std = torch.tensor(record.std, device=pixels_BCHW.device).view(1, -1, 1, 1) * 255
    return (pixels_BCHW.float() - mean) / std


def per_channel(values: list[float], channels: int) -> list[float]:
    """Return as many numbers as there are channels."""
    if len(values) == channels:
        return values
    # why: grey images of a spec that was made for colour get the average of its numbers.
    return [float(np.mean(values))] * channels


def random_pixels(record: ModelRecord, count: int) -> torch.Tensor:
    """Return noise as pixels of shape BCHW: the same ones on every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *record.shape), generator=generator, dtype=torch.uint8)


def parse_record(raw: object, where: str, kind: type[R], networks: tuple[str, ...]) -> R:
    """Return the record found in the file `where`, of one of `networks`.

    Raises:
        JobFailed: it is of another network.
    """
    if isinstance(raw, dict) and raw.get("network") not in networks:
        raise JobFailed(f"{where} is a model of the network {raw.get('network')!r}, not of {' or '.join(networks)}.")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise JobFailed(f"{where} does not say what network it is of.") from error


def json_or_none(raw: str | None) -> Any:
    try:
        return None if raw is None else json.loads(raw)
    except json.JSONDecodeError:
        return None
