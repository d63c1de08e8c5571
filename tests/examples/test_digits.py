from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from prefect_trainyard.datasets.archive import extract_archive
from prefect_trainyard.datasets.image_folder import check_layout, scan_images

SCRIPT = Path(__file__).parents[2] / "examples" / "digits.py"
ARCHIVES = ["train_1", "train_2", "eval", "test_raw", "test_labelled"]


def run(out: Path, *options: str) -> list[Path]:
    done = subprocess.run([sys.executable, SCRIPT, out, *options], check=True, capture_output=True, text=True)
    return [Path(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # why: writing 2,067 images takes two seconds.
    out = tmp_path_factory.mktemp("digits")
    assert [path.name for path in run(out)] == [f"{name}.tar.gz" for name in ARCHIVES]
    return out


def test_the_splits_hold_all_1797_digits_once_with_every_digit_in_each(digits: Path) -> None:
    names: list[str] = []
    for split, count in (("train", 1257), ("eval", 270), ("test_labelled", 270)):
        report = check_layout(digits / split, "classification_pyt", for_training=True)
        assert report.count == count
        assert list(report.classes) == list("0123456789")
        assert min(report.classes.values()) > 0.09 * count
        names += [image.path.name for image in scan_images(digits / split, "default").images]
    assert len(names) == len(set(names)) == 1797


def test_the_raw_test_set_is_the_labelled_one_without_labels(digits: Path) -> None:
    raw = {path.name: path.read_bytes() for path in (digits / "test/images").iterdir()}
    labelled = {path.name: path.read_bytes() for path in (digits / "test_labelled/images").rglob("*.png")}
    assert raw == labelled
    assert check_layout(digits / "test", "raw").count == 270


def test_the_archives_hold_the_folders_and_the_train_pieces_merge(digits: Path, tmp_path: Path) -> None:
    for name in ARCHIVES:
        extract_archive(digits / f"{name}.tar.gz", tmp_path / name)
    for name in ("eval", "test_labelled"):
        assert check_layout(tmp_path / name, "default") == check_layout(digits / name, "default")
    assert check_layout(tmp_path / "test_raw", "raw").count == 270
    pieces = [check_layout(tmp_path / f"train_{i}", "default", for_training=True).count for i in (1, 2)]
    assert pieces == [629, 628]


def test_a_second_run_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    for path in run(tmp_path):
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256((digits / path.name).read_bytes()).digest()


def test_the_size_can_be_chosen(digits: Path, tmp_path: Path) -> None:
    run(tmp_path, "--size", "16")
    for out, size in ((digits, 32), (tmp_path, 16)):
        with Image.open(next((out / "test/images").iterdir())) as image:
            assert (image.mode, image.size) == ("L", (size, size))
