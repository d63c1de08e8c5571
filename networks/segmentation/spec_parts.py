"""What the specs of both segmentation networks share. Imports no torch: the API process reads this."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from ...datasets.mask_classes import IGNORED_NAME, ValueClass
from ...datasets.masks import color_value
from ...schemas.specs import Spec, parameter

Metric = Literal["mIoU", "pixel_accuracy", "loss"]


class InputSize(Spec):
    """The sizes that both networks take."""

    input_width: int = parameter(
        0,
        description="Width in pixels that images are resized to, a multiple of 32. 0 takes it from the training "
        "images: their median size, a multiple of 32 from 32 to 512.",
        ge=0,
        le=4096,
        multiple_of=32,
        popular=True,
    )
    input_height: int = parameter(
        0,
        description="Height in pixels that images are resized to. 0: as for the width.",
        ge=0,
        le=4096,
        multiple_of=32,
        popular=True,
    )
    input_channels: Literal[1, 3] = parameter(3, description="3 for colour, 1 for grey.")

    @model_validator(mode="after")
    def _both_or_none(self) -> InputSize:
        if (self.input_width == 0) != (self.input_height == 0):
            raise ValueError("set both input_width and input_height, or none")
        return self


class Augmentation(Spec):
    """What happens to a training image and its mask alike, by torchvision transforms v2."""

    horizontal_flip: float = parameter(
        0.5, description="Probability of a left-right flip.", ge=0, le=1, popular=True, automl=True, search=(None, 0.5)
    )
    vertical_flip: float = parameter(0.0, description="Probability of a top-bottom flip.", ge=0, le=1, automl=True)
    rotation: float = parameter(
        0.0, description="Largest rotation to either side, in degrees.", ge=0, le=180, automl=True, search=(None, 30.0)
    )
    crop_min_scale: float = parameter(
        0.5,
        description="Smallest share of the area that a random crop keeps; 1 means no crop.",
        gt=0,
        le=1,
        popular=True,
        automl=True,
        search=(0.2, None),
    )
    brightness: float = parameter(0.2, description="Strength of brightness jitter.", ge=0, le=1, automl=True)
    contrast: float = parameter(0.2, description="Strength of contrast jitter.", ge=0, le=1, automl=True)
    saturation: float = parameter(0.0, description="Strength of saturation jitter.", ge=0, le=1)
    hue: float = parameter(0.0, description="Strength of hue jitter.", ge=0, le=0.5)


class MaskClass(Spec):
    """A class of the masks."""

    label_id: int = parameter(
        description="Value of its pixels in the masks; classes are in this order.", ge=0, le=65535
    )
    rgb: list[int] | None = parameter(
        None, description="Colour of its pixels, where the masks hold colours.", min_length=3, max_length=3
    )
    mapping_class: str = parameter(
        "",
        description="Class that it counts as, for several values of one class; `ignore` leaves its pixels out of loss "
        "and metrics. Empty: itself.",
        max_length=200,
    )

    @field_validator("rgb")
    @classmethod
    def _bytes(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and not all(0 <= number <= 255 for number in value):
            raise ValueError("colours are numbers from 0 to 255")
        return value

    def as_value(self, name: str) -> ValueClass:
        red, green, blue = self.rgb or (self.label_id,) * 3
        value = color_value(red, green, blue) if self.rgb is not None else self.label_id
        return ValueClass(self.mapping_class or name, value)


def checked_classes(classes: list[ValueClass]) -> list[ValueClass]:
    """Return the classes; ValueError when a value is there twice or fewer than two classes are left."""
    if not classes:
        return classes
    values = [entry.value for entry in classes]
    if len(set(values)) < len(values):
        raise ValueError("two classes have the same label_id or rgb")
    if len({entry.name for entry in classes} - {IGNORED_NAME}) < 2:
        raise ValueError("segmentation needs at least two classes")
    return classes


class ReadDataset(Spec):
    batch_size: int = parameter(8, description="Images per step.", ge=1, le=1024, popular=True)


class Evaluate(Spec):
    samples: int = parameter(8, description="Images in the picture of samples, worst first.", ge=1, le=50)


class Inference(Spec):
    overlays: bool = parameter(True, description="Also write each image with its classes painted over it.")
    samples: int = parameter(8, description="Images in the picture of samples.", ge=1, le=50)
