from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.specs import parse_spec
from sklearn.datasets import load_digits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Recorder:
    """A reporter that keeps everything, and asks to stop when `stop` says so."""

    def __init__(self, stop: Callable[[Recorder], bool] = lambda _: False) -> None:
        self.lines: list[str] = []
        self.fractions: list[float] = []
        self.epochs: list[tuple[int, dict[str, float]]] = []
        self.files: list[Path] = []
        self.checks = 0
        self._stop = stop

    def log(self, message: str) -> None:
        self.lines.append(message)

    def progress(self, fraction: float, message: str) -> None:
        self.fractions.append(fraction)

    def epoch(self, epoch: int, max_epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.epochs.append((epoch, dict(metrics)))

    def saved(self, paths: Sequence[Path]) -> None:
        assert all(path.is_file() for path in paths)
        self.files += paths

    def stop_requested(self) -> bool:
        self.checks += 1
        return self._stop(self)

    def allow_interruption(self) -> None: ...


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def spec() -> Callable[..., Any]:
    def make(action: str, **sections: Any) -> Any:
        return parse_spec(get_network("classification_pyt").spec(Action(action)), sections)

    return make


def write_images(root: Path, images: np.ndarray, labels: np.ndarray | None, size: int = 32) -> None:
    for number, image in enumerate(images):
        folder = root / "images" if labels is None else root / "images" / str(labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        scan = Image.fromarray((image * 255 / 16).astype(np.uint8))
        scan.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.png")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes of scikit-learn's digits: train, eval, test (labelled), raw (the test images without labels)
    and few (96 images of four classes)."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("digits")
    data = load_digits()
    images, labels = data.images, data.target
    four = np.flatnonzero(labels < 4)[:96]
    parts = {
        "train": (np.flatnonzero(~np.isin(np.arange(len(labels)) % 8, [1, 3])), labels),
        "eval": (slice(1, None, 8), labels),
        "test": (slice(3, None, 8), labels),
        "raw": (slice(3, None, 8), None),
        "few": (four, labels),
    }
    for name, (chosen, known) in parts.items():
        write_images(raw / name, images[chosen], None if known is None else known[chosen])
        build_index(raw / name, "raw" if known is None else "default", root / name)
    return root
