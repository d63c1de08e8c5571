from __future__ import annotations

from pathlib import Path

import pytest
from box_sets import digit_scenes
from prefect_trainyard.datasets.box_index import BoxIndex, build_box_index, open_box_index
from prefect_trainyard.networks.detection.model import Record, build, save_model
from prefect_trainyard.networks.detection.yolo_anchors import with_anchors
from prefect_trainyard.networks.detection.yolo_spec import YoloV4TinyConfig
from prefect_trainyard.schemas.errors import DatasetError, SpecError
from prefect_trainyard.schemas.specs import parse_spec

SHAPES = ("mid_anchor_shape", "big_anchor_shape")


def scenes(root: Path, pictures: int) -> BoxIndex:
    digit_scenes().write_scenes(root / "raw", "kitti", pictures=pictures, size=(64, 64))
    build_box_index(root / "raw", "kitti", root / "index")
    return open_box_index(root / "index")


def record(**options: object) -> Record:
    config = parse_spec(YoloV4TinyConfig, options)
    return Record(
        network="yolo_v4_tiny",
        backbone=config.backbone,
        options=config.model_dump(),
        classes=["a", "b"],
        channels=3,
        width=64,
        height=64,
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )


def test_anchors_are_found_in_the_boxes_the_same_every_time(tmp_path: Path) -> None:
    index = scenes(tmp_path, 12)
    found = with_anchors(record(), index, None).options
    assert found == with_anchors(record(), index, None).options
    areas = [width * height for name in SHAPES for width, height in found[name]]
    assert len(areas) == 6 and areas == sorted(areas)
    asked = record(mid_anchor_shape="[(8, 8)]", big_anchor_shape="[(20.5, 24), (30, 30)]")
    assert with_anchors(asked, index, None) is asked
    assert asked.options["big_anchor_shape"] == [[20.5, 24.0], [30.0, 30.0]]


def test_a_base_experiment_gives_its_anchors(tmp_path: Path) -> None:
    own = {"mid_anchor_shape": [[5.0, 6.0]], "big_anchor_shape": [[30.0, 31.0]]}
    model, made = build(record(**own))
    save_model(tmp_path / "base.safetensors", model.state_dict(), made)
    found = with_anchors(record(), scenes(tmp_path, 12), tmp_path / "base.safetensors").options
    assert {name: found[name] for name in SHAPES} == own


def test_what_is_wrong_names_the_parameters(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="too few for 6 anchors") as few:
        with_anchors(record(), scenes(tmp_path, 1), None)
    assert "big_anchor_shape" in few.value.hint
    for wrong in ([[1.0, 2.0]], [[1.0]], "import os", "(" * 900, "(" * 5000):
        with pytest.raises(SpecError):
            parse_spec(YoloV4TinyConfig, {"big_anchor_shape": wrong})
