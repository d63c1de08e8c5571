"""Pictures a second of the loaders against torchvision's ImageFolder and CocoDetection, on the same files in one run.

Both bring JPEGs to one size, flip them and, in every other row, change their colours, in one process without workers
and with one thread of torch; only the cache is filled by a thread per core. The rivals are ImageFolder and
`wrap_dataset_for_transforms_v2(CocoDetection)` with transforms on uint8 tensors, as torchvision recommends; the
pycocotools of the latter is faster_coco_eval, which is the quicker one. The three take turns epoch by epoch.
`first_epoch` opens the files and, with a cache, fills it; `later_epoch` is what the other epochs of a training cost.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faster_coco_eval
import torch
import torchvision
from prefect_trainyard.datasets.box_index import build_box_index, open_box_index
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.networks.classification import data as classification
from prefect_trainyard.networks.classification.model import Record
from prefect_trainyard.networks.classification.spec import TrainDataset
from prefect_trainyard.networks.detection.augmentation import Augmentation
from prefect_trainyard.networks.detection.data import TrainingBatches
from prefect_trainyard.networks.detection.pictures import Pictures
from prefect_trainyard.networks.images import Images
from prefect_trainyard.networks.ranks import ALONE
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import CocoDetection, ImageFolder, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from digit_scenes import write_scenes

BATCH = 16
COLOURS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05}
CLASSES = 4

#: Of an epoch: its batches.
Loader = Callable[[int], Iterable[object]]


def steps(size: int, colours: dict[str, float]) -> list[v2.Transform]:
    made = [v2.ToImage(), v2.Resize((size, size), antialias=True), v2.RandomHorizontalFlip(0.5)]
    return [*made, *([v2.ColorJitter(**colours)] if colours else [])]


def coco_detection(raw: Path, size: int, colours: dict[str, float]) -> Loader:
    transforms = v2.Compose([*steps(size, colours), v2.ClampBoundingBoxes()])
    data = CocoDetection(raw / "images", raw / "annotations.json", transforms=transforms)
    wrapped = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels"))
    loader = DataLoader(wrapped, BATCH, shuffle=True, collate_fn=collate)
    return lambda epoch: loader


def collate(
    examples: list[tuple[tv_tensors.Image, dict[str, object]]],
) -> tuple[torch.Tensor, list[dict[str, object]]]:
    return torch.stack([image for image, _ in examples]), [target for _, target in examples]


def boxes(index: Path, size: int, colours: dict[str, float], cache_mb: int) -> Loader:
    opened = open_box_index(index)
    pictures = Pictures(opened, (size, size), classes=opened.classes, resizing="stretch", cache_mb=cache_mb)
    batches = TrainingBatches(pictures, BATCH, augmentation=Augmentation(flip=0.5, **colours), seed=1, ranks=ALONE)
    return lambda epoch: batches.epoch(epoch, 0, False)


def image_folder(raw: Path, size: int, colours: dict[str, float]) -> Loader:
    loader = DataLoader(ImageFolder(str(raw), v2.Compose(steps(size, colours))), BATCH, shuffle=True)
    return lambda epoch: loader


def images(index: Path, size: int, colours: dict[str, float], cache_mb: int) -> Loader:
    opened = open_index(index)
    augmentation = {"crop_min_scale": 1.0, "horizontal_flip": 0.5, **colours}
    spec = TrainDataset.model_validate({"batch_size": BATCH, "workers": 0, "augmentation": augmentation})
    look = {"mean": [0.0] * 3, "std": [1.0] * 3, "channels": 3, "width": size, "height": size}
    record = Record(network="classification_pyt", backbone="resnet10t", classes=opened.classes, **look)
    read = Images(opened, record.shape, cache_mb=cache_mb)
    batches = classification.TrainingBatches(read, opened.labels, spec, record, 1, ALONE)
    return lambda epoch: batches.epoch(epoch, 0, False)


def compare(loaders: dict[str, Loader], count: int, epochs: int) -> dict[str, object]:
    """Return pictures a second, and ratios to the loader called `theirs`; above 1 is in our favour."""
    taken: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(1, epochs + 1):
        for name, loader in loaders.items():
            start = time.perf_counter()
            for _ in loader(epoch):
                pass
            taken[name].append(time.perf_counter() - start)
    first = {name: times[0] for name, times in taken.items()}
    # why the minimum: what else runs on the machine only ever adds.
    later = {name: min(times[1:]) for name, times in taken.items()}
    return {
        "pictures_per_second": {name: round(count / s) for name, s in later.items()},
        "first_epoch_ratio": {name: round(first["theirs"] / s, 2) for name, s in first.items() if name != "theirs"},
        "later_epoch_ratio": {name: round(later["theirs"] / s, 2) for name, s in later.items() if name != "theirs"},
    }


def in_folders(raw: Path, folders: Path) -> None:
    """Link the pictures of `raw` into one folder for each of some classes."""
    for number, path in enumerate(sorted((raw / "images").iterdir())):
        folder = folders / "images" / f"class_{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).hardlink_to(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--size", type=int, nargs="+", default=[416, 224], help="side of the network's canvas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faster_coco_eval.init_as_pycocotools()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = arguments.width, arguments.height
        write_scenes(folder / "raw", "coco", pictures=arguments.pictures, size=picture, suffix=".jpg")
        in_folders(folder / "raw", folder / "folders")
        build_box_index(folder / "raw", "coco", folder / "boxes")
        build_index(folder / "folders", "default", folder / "images")
        ways: dict[str, Any] = {
            "CocoDetection": (coco_detection, folder / "raw", boxes, folder / "boxes"),
            "ImageFolder": (image_folder, folder / "folders" / "images", images, folder / "images"),
        }
        for rival, (theirs, raw, ours, index) in ways.items():
            for size in arguments.size:
                for colours in ({}, COLOURS):
                    loaders = {
                        "theirs": theirs(raw, size, colours),
                        "ours_uncached": ours(index, size, colours, 0),
                        "ours_cached": ours(index, size, colours, 4096),
                    }
                    found = compare(loaders, arguments.pictures, arguments.epochs)
                    rows.append({"rival": rival, "size": size, "colours": bool(colours), **found})
    print(
        json.dumps(
            {
                "benchmark": "loaders",
                "torchvision": torchvision.__version__,
                "pictures": [arguments.pictures, *picture],
                "rows": rows,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
