"""What the specs of several families share about reading images. Imports no torch."""

from __future__ import annotations

from pydantic import field_validator

from ..schemas.specs import Spec, parameter

#: Of ImageNet, for pixels from 0 to 1.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Reading(Spec):
    """How training reads images."""

    workers: int = parameter(
        2, description="Processes per GPU that read and augment images; 0: the training process does.", ge=0, le=64
    )
    cache_mb: int = parameter(
        1024,
        description="Memory in MiB for decoded images, and as much for masks. A set that fits is decoded once.",
        ge=0,
        le=1048576,
    )
    mean: list[float] = parameter(
        MEAN, description="Mean per channel that is subtracted, for pixels from 0 to 1.", min_length=1, max_length=3
    )
    std: list[float] = parameter(
        STD, description="Standard deviation per channel that is divided by.", min_length=1, max_length=3
    )

    @field_validator("mean", "std")
    @classmethod
    def _one_or_three(cls, value: list[float]) -> list[float]:
        if len(value) == 2:
            raise ValueError("give one number for all channels, or one for each")
        return value

    @field_validator("std")
    @classmethod
    def _positive(cls, value: list[float]) -> list[float]:
        if min(value) <= 0:
            raise ValueError("every standard deviation must be above 0")
        return value
