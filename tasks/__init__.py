"""Training actions as Prefect tasks, for flows of your own."""

from __future__ import annotations

from .analyze import analyze, validate
from .annotations import annotation_format_convert
from .augment import augment
from .calibration import calibration_tensorfile
from .convert import convert
from .engine import gen_trt_engine
from .evaluate import evaluate
from .export import export
from .infer import inference
from .kmeans import kmeans
from .prune import prune
from .retrain import retrain
from .train import train

__all__ = [
    "analyze",
    "annotation_format_convert",
    "augment",
    "calibration_tensorfile",
    "convert",
    "evaluate",
    "export",
    "gen_trt_engine",
    "inference",
    "kmeans",
    "prune",
    "retrain",
    "train",
    "validate",
]
