"""Training actions as Prefect tasks, for flows of your own."""

from __future__ import annotations

from .convert import convert
from .engine import gen_trt_engine
from .evaluate import evaluate
from .export import export
from .infer import inference
from .prune import prune
from .retrain import retrain
from .train import train

__all__ = ["convert", "evaluate", "export", "gen_trt_engine", "inference", "prune", "retrain", "train"]
