"""The device a job runs on, its precision and its seeds."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from ..schemas.errors import MissingFeature


@dataclass(frozen=True)
class Precision:
    """How a step computes: `dtype` None is plain fp32."""

    device: torch.device
    dtype: torch.dtype | None

    def autocast(self) -> AbstractContextManager[object]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler; it does nothing unless this is fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def __str__(self) -> str:
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]


def choose_device(local_rank: int = 0) -> torch.device:
    """Return this process's GPU of those that the worker assigned, else the CPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision that a spec calls `auto`, `fp32`, `bf16` or `fp16`."""
    if name == "auto":
        if device.type != "cuda":
            return Precision(device, None)
        return Precision(device, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    if name == "fp16" and device.type != "cuda":
        raise MissingFeature("Precision fp16 needs a GPU, and there is none here.", hint="Use auto, fp32 or bf16.")
    return Precision(device, {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name])


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def algorithms(deterministic: bool) -> Iterator[None]:
    """Choose torch's algorithms for the block: bit-for-bit repeatable ones, or the fastest."""
    if deterministic:
        # why: cuBLAS reads this when the first handle is made; without it torch refuses to be deterministic.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
