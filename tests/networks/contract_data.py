"""A few real items for each kind of data that networks read: two dozen digits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from prefect_trainyard.datasets.box_index import build_box_index
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.testing import ContractData
from sklearn.datasets import load_digits
from support import ROOT

sys.path.insert(0, str(ROOT / "examples"))

from digit_scenes import write_scenes as write_digit_scenes
from scenes import write_scenes

_COLOURS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 1.0, 0.2), "blue": (0.3, 0.3, 1.0)}


def _digits(count: int = 24) -> list[tuple[str, Image.Image]]:
    """Return that many digits of three classes, each as a picture of 32 x 32."""
    data = load_digits()
    chosen = np.flatnonzero(data.target < 3)[:count]
    pictures = [Image.fromarray((data.images[i] * 255 / 16).astype(np.uint8)).resize((32, 32)) for i in chosen]
    return [(str(data.target[i]), picture) for i, picture in zip(chosen, pictures, strict=True)]


def _unlabelled(raw: Path, destination: Path) -> Path:
    for number, (_, picture) in enumerate(_digits(6)):
        (raw / "raw").mkdir(parents=True, exist_ok=True)
        picture.save(raw / "raw" / f"{number}.png")
    build_index(raw / "raw", "raw", destination)
    return destination


def class_folders(root: Path) -> ContractData:
    for number, (name, picture) in enumerate(_digits()):
        folder = root / "folders" / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    build_index(root / "folders", "default", root / "labelled")
    return ContractData(labelled=root / "labelled", unlabelled=_unlabelled(root, root / "unlabelled"))


def table_of_tasks(root: Path) -> ContractData:
    """Coloured digits with two tasks; the name `type` is one that a module cannot have, and one cell is empty."""
    folder = root / "table" / "images"
    folder.mkdir(parents=True)
    lines = ["fname,type,colour"]
    for number, (name, picture) in enumerate(_digits()):
        colour = list(_COLOURS)[number % len(_COLOURS)]
        pixels = np.asarray(picture)[..., None] * np.array(_COLOURS[colour])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{name},{colour if number else ''}")
    (root / "table" / "train.csv").write_text("\n".join(lines))
    build_index(root / "table", "custom", root / "labelled")
    return ContractData(labelled=root / "labelled", unlabelled=_unlabelled(root, root / "unlabelled"))


def masked_scenes(root: Path) -> ContractData:
    write_scenes(root / "raw", size=32, counts={"train": 12})
    build_index(root / "raw/train", "unet", root / "labelled")
    build_index(root / "raw/train/images", "raw", root / "unlabelled", type="semantic_segmentation")
    return ContractData(labelled=root / "labelled", unlabelled=root / "unlabelled")


def boxed_scenes(root: Path) -> ContractData:
    write_digit_scenes(root / "raw", "kitti", pictures=12, size=(64, 64))
    build_box_index(root / "raw", "kitti", root / "labelled")
    build_box_index(root / "raw" / "images", "raw", root / "unlabelled")
    return ContractData(labelled=root / "labelled", unlabelled=root / "unlabelled")


def masked_objects(root: Path) -> ContractData:
    write_digit_scenes(root / "raw", "coco", pictures=12, size=(64, 64))
    kind = "instance_segmentation"
    build_box_index(root / "raw", "coco", root / "labelled", type=kind)
    build_box_index(root / "raw" / "images", "raw", root / "unlabelled", type=kind)
    return ContractData(labelled=root / "labelled", unlabelled=root / "unlabelled")


def prompted_objects(root: Path) -> ContractData:
    """Objects with masks; for predictions, the same with their boxes alone."""
    data = masked_objects(root)
    write_digit_scenes(root / "boxes", "kitti", pictures=4, size=(64, 64))
    build_box_index(root / "boxes", "kitti", root / "prompts")
    return replace(data, prompts=root / "prompts")


#: By type of data and the first format that a network reads.
CONTRACT_DATA: dict[tuple[str, str], Callable[[Path], ContractData]] = {
    ("image_classification", "default"): class_folders,
    ("image_classification", "custom"): table_of_tasks,
    ("semantic_segmentation", "unet"): masked_scenes,
    ("object_detection", "kitti"): boxed_scenes,
    ("object_detection", "coco"): boxed_scenes,
    ("instance_segmentation", "coco"): masked_objects,
}

#: Of networks that predict from more than items alone.
OF_NETWORKS = {"mal": prompted_objects}
