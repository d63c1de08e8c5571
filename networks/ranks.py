"""The processes that train one model together, seen from one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """Rank and number of processes. A training by one process is `ALONE` and pays nothing for this."""

    rank: int = 0
    world: int = 1
    control: distributed.ProcessGroup | None = None
    """A gloo group: decisions and small objects go over the CPU and never wait for a GPU."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over the ranks."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def decide(self, code: int) -> int:
        """Return what the first rank says, on every rank."""
        if self.world == 1:
            return code
        decision = torch.tensor([code])
        distributed.broadcast(decision, 0, group=self.control)
        return int(decision.item())

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order; on other ranks than the first, an empty list."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.is_first else None
        distributed.gather_object(value, values, 0, group=self.control)
        return values or []

    def share_buffers(self, model: nn.Module) -> None:
        """Give all ranks the first one's running statistics, which DDP aligns only before a step."""
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)


ALONE = Ranks()
