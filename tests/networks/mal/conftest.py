from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from box_sets import digit_scenes
from prefect_trainyard.datasets.box_index import BoxIndex, build_box_index, open_box_index
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.specs import parse_spec


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes of 96 x 96 with a mask for each digit."""
    root = tmp_path_factory.mktemp("masked")
    digit_scenes().write_scenes(root / "raw", "coco", pictures=12, size=(96, 96))
    build_box_index(root / "raw", "coco", root / "index", type="instance_segmentation")
    return root / "index"


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes with their boxes alone."""
    root = tmp_path_factory.mktemp("boxed")
    digit_scenes().write_scenes(root / "raw", "kitti", pictures=12, size=(96, 96))
    build_box_index(root / "raw", "kitti", root / "index")
    return root / "index"


@pytest.fixture(scope="session")
def scenes(masked: Path) -> BoxIndex:
    return open_box_index(masked)


@pytest.fixture
def spec() -> Callable[..., Any]:
    """Return the quick spec of train with changes: `train__lr=0.1`."""

    def make(**changes: Any) -> Any:
        raw = json.loads(json.dumps(get_network("mal").quick[Action.TRAIN]))
        raw["train"] |= {"num_epochs": 2}
        for name, value in changes.items():
            *sections, last = name.split("__")
            inner = raw
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[last] = value
        return parse_spec(get_network("mal").spec(Action.TRAIN), raw)

    return make
