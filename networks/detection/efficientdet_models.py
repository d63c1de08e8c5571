"""EfficientDet as its record describes it."""

from __future__ import annotations

from .efficientdet import COMPOUND, EfficientDet
from .model import Record


def build(record: Record) -> EfficientDet:
    name = record.options["model_name" if record.network == "efficientdet" else "name"]
    width, repeats, head_repeats = COMPOUND[int(name[-1])]
    return EfficientDet(
        record.backbone,
        len(record.classes),
        channels=record.channels,
        width=width,
        repeats=repeats,
        head_repeats=head_repeats,
        anchor_scale=record.options["anchor_scale"],
    )
