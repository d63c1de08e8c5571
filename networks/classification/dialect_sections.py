"""What the specs of several classifiers have in common beside the spec of their family, `spec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from ...schemas.specs import Spec, like, parameter, section
from .. import deployment_specs as shared
from ..dialects import DialectSpec
from . import spec as family


def under(section_name: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return `names` for a section that is called `section_name` here."""
    return {f"{section_name}.{name}": path for name, path in names.items()}


class Augmentation(Spec):
    """Augmentation as switches, where the API documents have switches."""

    enable_random_crop: bool = parameter(
        True, description="Train on random crops of at least three quarters of the image.", automl=True
    )
    enable_color_augmentation: bool = parameter(
        False, description="Vary brightness, contrast, saturation and hue.", automl=True
    )
    disable_horizontal_flip: bool = parameter(False, description="Do not flip images left-right.", popular=True)
    vertical_flip: float = like(family.Augmentation, "vertical_flip")
    rotation: float = like(family.Augmentation, "rotation")
    translation: float = like(family.Augmentation, "translation")
    policy: Literal["none", "randaugment", "trivialaugment"] = like(family.Augmentation, "policy")
    erasing: float = like(family.Augmentation, "erasing")

    def converted(self) -> dict[str, Any]:
        """Return the augmentation of the family."""
        jitter = 0.2 if self.enable_color_augmentation else 0.0
        return {
            "horizontal_flip": 0.0 if self.disable_horizontal_flip else 0.5,
            "crop_min_scale": 0.75 if self.enable_random_crop else 1.0,
            **dict.fromkeys(("brightness", "contrast", "saturation"), jitter),
            "hue": jitter / 4,
            **{name: getattr(self, name) for name in _SAME_AUGMENTATION if hasattr(self, name)},
        }


class MixingAugmentation(Augmentation):
    """With what mixes images and their labels, where an image has one."""

    mixup_alpha: float = like(family.Augmentation, "mixup_alpha")
    cutmix_alpha: float = like(family.Augmentation, "cutmix_alpha")


_SAME_AUGMENTATION = ("vertical_flip", "rotation", "translation", "policy", "erasing", "mixup_alpha", "cutmix_alpha")


class Loop(Spec):
    """How a training goes on: the parameters that all dialects have in one section, under these names."""

    batch_size_per_gpu: int = like(family.TrainDataset, "batch_size", 64)
    n_workers: int = like(family.TrainDataset, "workers")
    cache_mb: int = like(family.TrainDataset, "cache_mb")
    checkpoint_interval: int = like(family.CheckpointConfig, "interval")
    checkpoint_keep_last: int = like(family.CheckpointConfig, "keep_last")
    checkpoint_pinned: list[Annotated[int, Field(ge=1, le=100000)]] = like(family.CheckpointConfig, "pinned")
    checkpoint_minutes: float = like(family.CheckpointConfig, "minutes")
    early_stopping: family.EarlyStopping = section(family.EarlyStopping)
    label_smoothing: float = like(family.TrainConfig, "label_smoothing")
    grad_clip: float = like(family.TrainConfig, "grad_clip")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = like(family.TrainConfig, "precision")
    deterministic: bool = like(family.ExperimentConfig, "deterministic")

    NAMES: ClassVar[Mapping[str, str]] = {
        "batch_size_per_gpu": "dataset.batch_size",
        "n_workers": "dataset.workers",
        "cache_mb": "dataset.cache_mb",
        "checkpoint_interval": "train.train_config.checkpoint_config.interval",
        "checkpoint_keep_last": "train.train_config.checkpoint_config.keep_last",
        "checkpoint_pinned": "train.train_config.checkpoint_config.pinned",
        "checkpoint_minutes": "train.train_config.checkpoint_config.minutes",
        "early_stopping": "train.train_config.early_stopping",
        "label_smoothing": "train.train_config.label_smoothing",
        "grad_clip": "train.train_config.grad_clip",
        "precision": "train.train_config.precision",
        "deterministic": "train.exp_config.deterministic",
    }


class LrConfig(Spec):
    scheduler: Literal["cosine", "soft_anneal", "step"] = parameter(
        "cosine", description="How the learning rate falls after its rise.", popular=True, automl=True
    )
    learning_rate: float = like(family.Optimizer, "lr", 0.05)
    soft_start: float = parameter(
        0.05,
        description="Share of the epochs in which the rate rises to its peak.",
        ge=0,
        lt=1,
        automl=True,
        search=(None, 0.3),
    )
    min_lr_ratio: float = like(family.LrConfig, "min_lr_ratio", 0.001)
    annealing_points: list[Annotated[float, Field(gt=0, lt=1)]] = parameter(
        [0.3, 0.6, 0.8],
        description="Shares of the epochs after which soft_anneal divides the rate by annealing_divider.",
        min_length=1,
        max_length=100,
    )
    annealing_divider: float = parameter(10.0, description="What soft_anneal divides the rate by.", gt=1, le=1e6)
    step_size: float = parameter(
        10.0, description="Per cent of the epochs after which step multiplies the rate by gamma.", gt=0, lt=100
    )
    gamma: float = like(family.LrConfig, "gamma")

    NAMES: ClassVar[Mapping[str, str]] = {
        "learning_rate": "train.train_config.optimizer.lr",
        "scheduler": "train.train_config.lr_config.policy",
        "soft_start": "train.train_config.lr_config.warmup_epochs",
        "min_lr_ratio": "train.train_config.lr_config.min_lr_ratio",
        "gamma": "train.train_config.lr_config.gamma",
    }

    @field_validator("annealing_points")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value:
            raise ValueError("shares rise")
        return value

    def converted(self, epochs: int) -> dict[str, Any]:
        """Return the schedule of the family for so many epochs."""
        if self.scheduler == "cosine":
            falls: list[int] = []
        elif self.scheduler == "soft_anneal":
            falls = sorted({max(1, round(share * epochs)) for share in self.annealing_points})
        else:
            size = max(1, round(self.step_size / 100 * epochs))
            falls = list(range(size, epochs, size))
        policy = "cosine" if self.scheduler == "cosine" else "step" if falls else "constant"
        return {
            "policy": policy,
            "warmup_epochs": min(1000.0, self.soft_start * epochs),
            "step_epochs": falls,
            "gamma": 1 / self.annealing_divider if self.scheduler == "soft_anneal" else self.gamma,
        }


class RegConfig(Spec):
    type: Literal["L2", "none"] = parameter("L2", description="L2 decays weights, none does not.")
    weight_decay: float = like(family.Optimizer, "weight_decay", 0.00005)


class ClassWeighting(Spec):
    """Mixed into the section that holds the weights of the classes."""

    class_weighting: Literal["none", "balanced", "explicit"] = like(family.TrainDataset, "class_weighting")
    class_weights: dict[str, float] = like(family.TrainDataset, "class_weights")

    NAMES: ClassVar[Mapping[str, str]] = {
        "class_weighting": "dataset.class_weighting",
        "class_weights": "dataset.class_weights",
    }


Preprocess = Literal["torch", "tf", "caffe"]

#: Mean and standard deviation of a preprocess mode, for pixels from 0 to 1.
_PREPROCESS: Mapping[Preprocess, tuple[list[float], list[float]]] = {
    "torch": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "tf": ([0.5] * 3, [0.5] * 3),
    "caffe": ([0.485, 0.456, 0.406], [1 / 255] * 3),
}


def preprocess_mode() -> Any:
    return parameter(
        "torch",
        description="How pixels become input. torch: the mean of ImageNet goes and its deviation divides; tf: from -1 "
        "to 1; caffe: the mean goes, and values stay as large as pixels are.",
    )


def preprocessing(mode: Preprocess) -> dict[str, Any]:
    mean, std = _PREPROCESS[mode]
    return {"dataset.mean": mean, "dataset.std": std}


# The other actions of networks whose documents have flat specs.


class InferenceSpec(DialectSpec):
    batch_size: int = like(family.ReadDataset, "batch_size")
    top_k: int = like(family.Inference, "top_k")
    samples: int = like(family.Inference, "samples")

    FAMILY = family.InferenceSpec
    NAMES: ClassVar = {"batch_size": "dataset.batch_size", "top_k": "inference.top_k", "samples": "inference.samples"}


class PruneSpec(DialectSpec):
    pruning_threshold: float = like(
        shared.Prune,
        "pruning_threshold",
        0.7,
        description="A channel whose norm is below this share of the largest in its layer goes.",
    )
    pruning_granularity: int = like(shared.Prune, "granularity")
    min_num_filters: int = like(shared.Prune, "min_channels", 16)
    method: Literal["ratio", "threshold"] = like(shared.Prune, "method", "threshold")
    pruning_ratio: float = like(shared.Prune, "pruning_ratio")

    FAMILY = family.PruneSpec
    NAMES: ClassVar = {
        "pruning_threshold": "prune.pruning_threshold",
        "pruning_granularity": "prune.granularity",
        "min_num_filters": "prune.min_channels",
        "method": "prune.method",
        "pruning_ratio": "prune.pruning_ratio",
    }


class ExportSpec(DialectSpec):
    batch_size: int = like(shared.Export, "batch_size")
    target_opset: int = like(shared.Export, "opset_version")
    tolerance: float = like(shared.Export, "tolerance")

    FAMILY = shared.ExportSpec
    NAMES: ClassVar = {
        "batch_size": "export.batch_size",
        "target_opset": "export.opset_version",
        "tolerance": "export.tolerance",
    }


class EngineSpec(DialectSpec):
    data_type: Annotated[Literal["fp32", "fp16", "int8"], BeforeValidator(shared.lower)] = like(
        shared.TensorRT, "data_type"
    )
    backend: Annotated[Literal["auto", "tensorrt", "onnxruntime"], BeforeValidator(shared.lower)] = like(
        shared.Engine, "backend"
    )
    max_workspace_size: int = like(shared.TensorRT, "workspace_size")
    min_batch_size: int = like(shared.TensorRT, "min_batch_size")
    opt_batch_size: int = like(shared.TensorRT, "opt_batch_size")
    max_batch_size: int = like(shared.TensorRT, "max_batch_size")
    cal_images: int = like(shared.Calibration, "images")
    cal_method: Literal["minmax", "entropy"] = like(shared.Calibration, "method")

    FAMILY = shared.EngineSpec
    NAMES: ClassVar = {
        "data_type": "gen_trt_engine.tensorrt.data_type",
        "backend": "gen_trt_engine.backend",
        "max_workspace_size": "gen_trt_engine.tensorrt.workspace_size",
        "min_batch_size": "gen_trt_engine.tensorrt.min_batch_size",
        "opt_batch_size": "gen_trt_engine.tensorrt.opt_batch_size",
        "max_batch_size": "gen_trt_engine.tensorrt.max_batch_size",
        "cal_images": "gen_trt_engine.tensorrt.calibration.images",
        "cal_method": "gen_trt_engine.tensorrt.calibration.method",
    }
