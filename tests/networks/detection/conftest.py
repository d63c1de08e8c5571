from __future__ import annotations

from pathlib import Path

import pytest
import torch
from box_sets import digit_scenes
from networks.detection.detector_contract import Few, Learned, few_pictures, learn
from prefect_trainyard.datasets.box_index import BoxIndex, build_box_index, open_box_index


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> BoxIndex:
    """Forty scenes of 160 x 120 with digits 3, 5 and 8."""
    root = tmp_path_factory.mktemp("scenes")
    digit_scenes().write_scenes(root / "raw", "kitti", pictures=40, size=(160, 120))
    build_box_index(root / "raw", "kitti", root / "index")
    return open_box_index(root / "index")


@pytest.fixture
def one_jpeg(tmp_path: Path) -> BoxIndex:
    """One JPEG of 640 x 480."""
    digit_scenes().write_scenes(tmp_path / "raw", "coco", pictures=1, size=(640, 480), suffix=".jpg")
    build_box_index(tmp_path / "raw", "coco", tmp_path / "index")
    return open_box_index(tmp_path / "index")


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Few:
    return few_pictures(tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="class")
def learned(request: pytest.FixtureRequest, few: Few) -> Learned:
    """The detector of a contract after learning, which takes seconds: once for all tests that only look at it."""
    torch.manual_seed(0)
    detector = request.cls.build()
    return Learned(detector, learn(detector, few, request.cls.steps, request.cls.rate))
