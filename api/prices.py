"""The price table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_HOUR = 3600.0
_ANY_GPU = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What an hour costs; GPUs by their type, `default` for all others."""

    currency: str
    cpu_hour: float
    gpu_hour: Mapping[str, float]

    def of(self, cpu_seconds: float, gpu_seconds: float, gpu_type: str | None) -> float:
        gpu = self.gpu_hour.get(gpu_type or _ANY_GPU, self.gpu_hour.get(_ANY_GPU, 0.0))
        return (cpu_seconds * self.cpu_hour + gpu_seconds * gpu) / _HOUR

    def dearest_hour(self, *, cpus: int, gpus: int) -> float:
        """Return what an hour costs at most: with GPUs of the dearest type."""
        return cpus * self.cpu_hour + gpus * max(self.gpu_hour.values(), default=0.0)
