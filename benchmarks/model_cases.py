"""What each network learns from in `models.py`, and the plain script that it is compared with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import digit_scenes
from digits import write_digits
from scenes import write_scenes

COLOURS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 1.0, 0.2), "blue": (0.3, 0.3, 1.0)}


@dataclass(frozen=True)
class Data:
    """Two raw folders, as the plain script reads them, and their format here."""

    train: Path
    eval: Path
    format: str


@dataclass(frozen=True)
class Case:
    network: str
    data: Callable[[Path], Data]
    epochs: int
    script: str
    arguments: tuple[str, ...]
    """The model, as the script calls it, and its learning rate if there are several."""
    spec: Callable[[int, int], dict[str, Any]]
    """Of epochs and seed."""
    rival: str
    """The class of the script; the nearest one where no library has the network."""


def digits(folder: Path) -> Data:
    write_digits(folder)
    return Data(folder / "train/images", folder / "eval/images", "default")


def large_digits(folder: Path) -> Data:
    """For networks that make an image 32 times as small."""
    write_digits(folder, size=64)
    return Data(folder / "train/images", folder / "eval/images", "default")


def coloured_digits(folder: Path) -> Data:
    """Each digit in one of three colours, and a table with both."""
    write_digits(folder / "grey")
    random = np.random.default_rng(1)
    for split in ("train", "eval"):
        rows = ["fname,digit,colour"]
        (folder / split / "images").mkdir(parents=True)
        for path in sorted((folder / "grey" / split).rglob("*.png")):
            colour = str(random.choice(list(COLOURS)))
            pixels = np.asarray(Image.open(path), float)[..., None] * np.array(COLOURS[colour])
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / "images" / path.name)
            rows.append(f"{path.name},{path.parent.name},{colour}")
        (folder / split / "train.csv").write_text("\n".join(rows))
    return Data(folder / "train", folder / "eval", "custom")


def scenes(folder: Path) -> Data:
    write_scenes(folder, counts={"train": 96, "eval": 48})
    return Data(folder / "train", folder / "eval", "unet")


def classification_pyt(epochs: int, seed: int) -> dict[str, Any]:
    return {
        "model": {"backbone": {"type": "resnet10t"}},
        "dataset": {"batch_size": 64, "workers": 0, "augmentation": {"horizontal_flip": 0.0, "crop_min_scale": 1.0}},
        "train": {
            "train_config": {
                "runner": {"max_epochs": epochs},
                "optimizer": {"type": "adamw", "lr": 0.001, "weight_decay": 0.01},
                "lr_config": {"policy": "cosine", "warmup_epochs": 0.0, "min_lr_ratio": 0.0},
            },
            "exp_config": {"manual_seed": seed},
        },
    }


_TF_COSINE = {"scheduler": "cosine", "learning_rate": 0.001, "soft_start": 0.0, "min_lr_ratio": 0.0}
_TF_LOOP = {
    "batch_size_per_gpu": 64,
    "n_workers": 0,
    "lr_config": _TF_COSINE,
    "reg_config": {"type": "L2", "weight_decay": 0.01},
}
_STILL = {"enable_random_crop": False, "disable_horizontal_flip": True}


def classification_tf1(epochs: int, seed: int) -> dict[str, Any]:
    train = {"n_epochs": epochs, "random_seed": seed, "optimizer": {"type": "adamw"}}
    return {"model_config": {"arch": "resnet", "n_layers": 18}, "train_config": {**_TF_LOOP, **_STILL, **train}}


def classification_tf2(epochs: int, seed: int) -> dict[str, Any]:
    train = {"num_epochs": epochs, "random_seed": seed, "optim_config": {"optimizer": "adamw"}}
    return {
        "model": {"backbone": "efficientnet-b0"},
        "dataset": {"augmentation": _STILL},
        "train": {**_TF_LOOP, **train, "lr_config": {**_TF_COSINE, "learning_rate": 0.003}},
    }


def multitask(epochs: int, seed: int) -> dict[str, Any]:
    schedule = {"max_learning_rate": 0.001, "min_learning_rate": 0.0, "soft_start": 0.0}
    return {
        "random_seed": seed,
        "model_config": {"arch": "resnet10t"},
        "training_config": {
            "num_epochs": epochs,
            "batch_size_per_gpu": 64,
            "n_workers": 0,
            "learning_rate": {"soft_start_cosine_annealing_schedule": schedule},
            "optimizer": {"type": "adamw"},
            "regularizer": {"type": "L2", "weight": 0.01},
            "augmentation": _STILL,
        },
    }


_NO_CHANGES = {"horizontal_flip": 0.0, "crop_min_scale": 1.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0}


def unet(epochs: int, seed: int) -> dict[str, Any]:
    return {
        "model": {"arch": "resnet18"},
        "dataset_config": {"workers": 0, "augmentation_config": _NO_CHANGES},
        "training_config": {
            "epochs": epochs,
            "batch_size": 8,
            "loss": "cross_entropy",
            "optimizer": "adamw",
            "learning_rate": 0.001,
            "weight_decay": 0.01,
            "lr_policy": "cosine",
            "warmup_epochs": 0.0,
            "random_seed": seed,
        },
    }


def segformer(epochs: int, seed: int) -> dict[str, Any]:
    steps = 96 // 8
    return {
        "dataset": {"workers": 0, "batch_size": 8, "augmentation": _NO_CHANGES},
        "train": {
            "num_rounds": epochs,
            "max_iters": epochs * steps,
            "loss": "cross_entropy",
            "optim": {"type": "adamw", "lr": 0.001, "weight_decay": 0.01, "policy": "cosine", "warmup_share": 0.0},
            "seed": seed,
        },
    }


#: Side of the pictures of detectors: effdet takes multiples of 128.
_SIDE = 128


def boxes(folder: Path) -> Data:
    for split, count in (("train", 160), ("eval", 100)):
        digit_scenes.write_scenes(folder / split, "coco", pictures=count, split=split, size=(_SIDE, _SIDE))
    return Data(folder / "train", folder / "eval", "coco")


_STILL_BOXES = {"horizontal_flip": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def detector(section: str, rate: float, **architecture: Any) -> Callable[[int, int], dict[str, Any]]:
    """Return the spec of a detector in the words of the v4 document."""

    def spec(epochs: int, seed: int) -> dict[str, Any]:
        schedule = {"max_learning_rate": rate, "min_learning_rate": 0.0, "soft_start": 0.0}
        return {
            section: architecture,
            "random_seed": seed,
            "dataset_config": {"workers": 0},
            "augmentation_config": _STILL_BOXES,
            "training_config": {
                "num_epochs": epochs,
                "batch_size_per_gpu": 8,
                "learning_rate": {"soft_start_annealing_schedule": schedule},
                "regularizer": {"type": "L2", "weight": 0.01},
            },
            "eval_config": {"validation_period_during_training": epochs},
        }

    return spec


def mask_rcnn(epochs: int, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "num_epochs": epochs,
        "train_batch_size": 8,
        "init_learning_rate": 0.0005,
        "l2_weight_decay": 0.01,
        "warmup_steps": 1,
        "data_config": {"workers": 0},
        "augmentation_config": _STILL_BOXES,
        "maskrcnn_config": {"nlayers": 18},
        "eval_config": {"validation_period_during_training": epochs},
    }


def mal(epochs: int, seed: int) -> dict[str, Any]:
    still = {name: value for name, value in _STILL_BOXES.items() if name != "zoom"}
    return {
        "dataset": {"crop_size": 96, "min_obj_size": 0.0, "workers": 0, "augmentation": still},
        "train": {"num_epochs": epochs, "seed": seed, "batch_size": 8, "val_interval": epochs},
    }


def efficientdet_tf2(epochs: int, seed: int) -> dict[str, Any]:
    return {
        "dataset": {"workers": 0, "augmentation": _STILL_BOXES},
        "train": {
            "num_epochs": epochs,
            "seed": seed,
            "clip_grad_norm": 10.0,
            "validation_interval": epochs,
            "lr_schedule": {"warmup_epoch": 0.0, "learning_rate": 0.002, "min_lr_ratio": 0.0},
            "optimizer": {"name": "adamw", "weight_decay": 0.01},
        },
    }


def transformer(epochs: int, seed: int) -> dict[str, Any]:
    """Return the spec of a transformer as small as that of the script."""
    return {
        "model": {
            "backbone": "resnet18",
            "num_queries": 50,
            "hidden_dim": 128,
            "enc_layers": 2,
            "dec_layers": 3,
            "dim_feedforward": 256,
            "dropout_ratio": 0.0,
        },
        "dataset": {"workers": 0, "batch_size": 8, "augmentation": _STILL_BOXES},
        "train": {
            "num_epochs": epochs,
            "seed": seed,
            "clip_grad_norm": 0.1,
            "validation_interval": epochs,
            "optim": {"lr": 0.0004, "weight_decay": 0.0001, "warmup_share": 0.0, "min_lr_ratio": 0.0},
        },
    }


_RESNET = {"arch": "resnet", "nlayers": 18}
_DETR, _SETS = "transformers DeformableDetr", ("resnet18", "0.0004")
_SSD, _RESNET_SSD = "torchvision SSD", ("ssd", "resnet18", "0.001")

CASES = (
    Case("classification_pyt", digits, 5, "classify", ("resnet10t", "0.001"), classification_pyt, "timm ResNet"),
    Case("classification", digits, 3, "classify", ("resnet18", "0.001"), classification_tf1, "timm ResNet"),
    Case(
        "classification_tf2",
        large_digits,
        20,
        "classify",
        ("efficientnet_b0", "0.003"),
        classification_tf2,
        "timm EfficientNet",
    ),
    Case("multitask_classification", coloured_digits, 5, "tasks", ("resnet10t",), multitask, "timm ResNet"),
    Case("unet", scenes, 15, "segment", ("unet",), unet, "timm ResNet"),
    Case("segformer", scenes, 30, "segment", ("segformer",), segformer, "transformers SegFormer"),
    Case("ssd", boxes, 20, "detect", _RESNET_SSD, detector("ssd_config", 0.001, **_RESNET), _SSD),
    Case("dssd", boxes, 20, "detect", _RESNET_SSD, detector("dssd_config", 0.001, **_RESNET), f"nearest: {_SSD}"),
    Case(
        "retinanet",
        boxes,
        20,
        "detect",
        ("retinanet", "resnet18", "0.0005"),
        detector("retinanet_config", 0.0005, **_RESNET),
        "torchvision RetinaNet",
    ),
    Case(
        "faster_rcnn",
        boxes,
        6,
        "detect",
        ("faster_rcnn", "resnet18", "0.0005"),
        detector("model_config", 0.0005, **_RESNET),
        "torchvision FasterRCNN",
    ),
    Case("efficientdet_tf2", boxes, 20, "detect_effdet", ("0.002",), efficientdet_tf2, "effdet EfficientDet"),
    Case(
        "efficientdet",
        boxes,
        20,
        "detect_effdet",
        ("0.002",),
        detector("model_config", 0.002),
        "effdet EfficientDet",
    ),
    Case(
        "detectnet_v2",
        boxes,
        20,
        "detect",
        _RESNET_SSD,
        detector("model_config", 0.001, **_RESNET),
        f"nearest: {_SSD}",
    ),
    Case(
        "yolo_v4_tiny",
        boxes,
        15,
        "detect",
        ("ssd", "resnet10t", "0.001"),
        detector("yolov4_config", 0.001),
        f"nearest: {_SSD}",
    ),
    Case(
        "yolo_v3",
        boxes,
        10,
        "detect",
        ("ssd", "darknet53", "0.001"),
        detector("yolov3_config", 0.001),
        f"nearest: {_SSD}",
    ),
    Case(
        "yolo_v4",
        boxes,
        10,
        "detect",
        ("ssd", "cspdarknet53", "0.001"),
        detector("yolov4_config", 0.001),
        f"nearest: {_SSD}",
    ),
    Case(
        "deformable_detr", boxes, 30, "detect_sets", ("resnet18", "0.0004"), transformer, "transformers DeformableDetr"
    ),
    Case("dino", boxes, 30, "detect_sets", _SETS, transformer, f"nearest: {_DETR}"),
    Case("mask_rcnn", boxes, 6, "detect_masks", ("0.0005",), mask_rcnn, "torchvision MaskRCNN"),
    Case("mal", boxes, 6, "fill_boxes", (), mal, "none: boxes as masks"),
)
