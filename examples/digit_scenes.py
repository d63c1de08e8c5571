"""Write a detection set: handwritten digits of scikit-learn, pasted into pieces of its two photographs.

    python examples/digit_scenes.py OUT --format kitti --pictures 300 --digits 3,5,8

gives OUT/train and OUT/eval (a fifth of the pictures) in the format, and train.tar.gz and eval.tar.gz to upload.
No digit of one is in the other. Digits do not overlap; each box is tight around the ink, and COCO has its mask.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image
from prefect_trainyard.datasets.box_formats import LABELLED, write_boxes
from prefect_trainyard.datasets.boxes import Box, BoxClass, BoxSet, Picture
from prefect_trainyard.datasets.run_lengths import encode_runs
from sklearn.datasets import load_digits, load_sample_images

SEED = 2024

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def write_scenes(
    out: Path,
    format: str,
    *,
    pictures: int = 100,
    split: str = "train",
    digits: Sequence[int] = (3, 5, 8),
    size: tuple[int, int] = (160, 128),
    suffix: str = ".png",
    seed: int = SEED,
) -> BoxSet:
    """Write `pictures` scenes of `size` (width, height) below `out` in `format` and return them.

    `split` decides which digits are used: every fifth is for `eval`. The same call writes the same bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes(
            Path(folder), pictures=pictures, split=split, digits=digits, size=size, suffix=suffix, seed=seed
        )
        out.mkdir(parents=True, exist_ok=True)
        write_boxes(scenes, format, out)
    return scenes


def make_scenes(
    root: Path,
    *,
    pictures: int,
    split: str,
    digits: Sequence[int],
    size: tuple[int, int],
    suffix: str,
    seed: int,
) -> BoxSet:
    scans = load_digits()
    is_eval = np.arange(len(scans.target)) % 5 == 0
    usable = np.flatnonzero((is_eval == (split == "eval")) & np.isin(scans.target, digits))
    photographs = load_sample_images().images
    rng = np.random.default_rng([seed, split == "eval"])
    made = []
    for number in range(pictures):
        scene = _background(photographs, size, rng)
        boxes: list[Box] = []
        for scan in rng.choice(usable, rng.integers(1, 5)):
            placed = _paste(scene, scans.images[scan], boxes, rng)
            if placed is not None:
                mask, edges = placed
                label = list(digits).index(int(scans.target[scan]))
                x1, y1, x2, y2 = edges
                boxes.append(
                    Box(x1=x1, y1=y1, x2=x2, y2=y2, label=label, area=float(mask.sum()), mask=encode_runs(mask))
                )
        name = PurePosixPath(f"scene_{number:05d}{suffix}")
        Image.fromarray(scene).save(root / name)
        made.append(Picture(path=name, name=name, width=size[0], height=size[1], boxes=tuple(boxes)))
    classes = tuple(BoxClass(name=f"digit_{digit}") for digit in digits)
    return BoxSet(root=root, pictures=tuple(made), classes=classes)


def _background(photographs: Sequence[Pixels], size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    photograph = photographs[rng.integers(len(photographs))]
    height, width = photograph.shape[:2]
    share = rng.uniform(0.3, 1.0)
    w, h = int(share * width), int(share * height)
    x, y = rng.integers(width - w + 1), rng.integers(height - h + 1)
    piece = Image.fromarray(photograph[y : y + h, x : x + w]).resize(size, Image.Resampling.BILINEAR)
    # why: paler than the ink, so that a person sees every digit.
    return (np.asarray(piece) * 0.5 + 96).astype(np.uint8)


def _paste(
    scene: Pixels, scan: npt.NDArray[np.float64], others: Sequence[Box], rng: np.random.Generator
) -> tuple[Mask, tuple[int, int, int, int]] | None:
    """Draw a digit where there is room; return its mask in the scene and its edges, or None without room."""
    height, width = scene.shape[:2]
    side = int(rng.integers(20, min(60, height, width)))
    grey = Image.fromarray((scan * 255 / 16).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.asarray(grey).astype(np.float64)[..., None] / 255
    shape = ink[..., 0] > 0.4
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    colour = rng.integers(0, 70, 3)
    for _ in range(20):
        left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        edges = left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1
        if any(edges[0] < o.x2 and o.x1 < edges[2] and edges[1] < o.y2 and o.y1 < edges[3] for o in others):
            continue
        piece = scene[top : top + side, left : left + side]
        piece[...] = (piece * (1 - ink) + colour * ink).astype(np.uint8)
        mask = np.zeros((height, width), np.bool_)
        mask[top : top + side, left : left + side] = shape
        return mask, edges
    return None


def _pack(folder: Path) -> Path:
    archive = folder.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=".")
    return archive


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to; it is made when it does not exist")
    parser.add_argument("--format", choices=LABELLED, default="kitti")
    parser.add_argument("--pictures", type=int, default=300, help="in the training set; a fifth more for eval")
    parser.add_argument("--digits", default="3,5,8", help="the classes (default 3,5,8)")
    arguments = parser.parse_args()
    chosen = [int(digit) for digit in arguments.digits.split(",")]
    for name, count in (("train", arguments.pictures), ("eval", max(1, arguments.pictures // 5))):
        write_scenes(arguments.out / name, arguments.format, pictures=count, split=name, digits=chosen)
        print(_pack(arguments.out / name))
