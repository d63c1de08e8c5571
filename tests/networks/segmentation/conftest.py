from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.specs import parse_spec
from support import ROOT

sys.path.insert(0, str(ROOT / "examples"))

from scenes import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes of scenes with digits: train, eval, raw (the images of eval alone) and few (12 of 32 pixels)."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("scenes")
    write_scenes(raw, counts={"train": 40, "eval": 10})
    write_scenes(raw / "small", size=32, counts={"train": 12})
    for name, source in (("train", raw / "train"), ("eval", raw / "eval"), ("few", raw / "small/train")):
        build_index(source, "unet", root / name)
    build_index(raw / "eval/images", "raw", root / "raw", type="semantic_segmentation")
    return root


@pytest.fixture
def parse() -> Callable[..., Any]:
    def make(network: str, action: str, **sections: Any) -> Any:
        return parse_spec(get_network(network).spec(Action(action)), sections)

    return make


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that indexes noise with the given masks, arrays of 32 x 32."""

    def make(name: str, *masks: np.ndarray) -> Path:
        root = tmp_path / f"{name}-raw"
        for number, mask in enumerate(masks):
            noise = np.random.default_rng(number).integers(0, 256, (*mask.shape[:2], 3), np.uint8)
            for kind, pixels in (("images", noise), ("masks", mask)):
                (root / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / kind / f"{number}.png")
        build_index(root, "unet", tmp_path / name)
        return tmp_path / name

    return make
