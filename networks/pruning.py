"""Structured pruning: whole channels go, so the smaller network is faster everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import nn

from .weights import count_parameters

#: The share method goes towards removing nearly everything in so many steps, until enough is gone.
_STEPS = 60
_HIGHEST_RATIO = 0.97


@dataclass(frozen=True)
class Bounds:
    """What pruning leaves alone."""

    keep_outputs_of: Sequence[nn.Module]
    granularity: int
    """Channel counts stay multiples of this."""
    min_channels: int
    trace: Callable[[nn.Module, torch.Tensor], object] | None = None
    """Computes outputs that depend on all layers in the way that pruning follows; None: the model does when called."""


def prune_share(
    model: nn.Module,
    example: torch.Tensor,
    share: float,
    bounds: Bounds,
) -> None:
    """Remove the least important channels of every layer until `share` of the parameters is gone.

    May end with less removed, when the bounds allow no more.
    """
    before = count_parameters(model)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        forward_fn=bounds.trace,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=_HIGHEST_RATIO,
        max_pruning_ratio=_HIGHEST_RATIO,
        iterative_steps=_STEPS,
        ignored_layers=list(bounds.keep_outputs_of),
        round_to=bounds.granularity,
    )
    for _ in range(_STEPS):
        for group in pruner.step(interactive=True):
            if _channels(pruner.DG, group) - len(group[0].idxs) >= bounds.min_channels:
                group.prune()
        if 1 - count_parameters(model) / before >= share:
            return


def prune_threshold(
    model: nn.Module,
    example: torch.Tensor,
    threshold: float,
    bounds: Bounds,
) -> None:
    """Remove every channel whose importance is below `threshold` of the greatest in its group of layers."""
    graph = tp.DependencyGraph().build_dependency(model, example, forward_fn=bounds.trace)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    for found in list(graph.get_all_groups(ignored_layers=list(bounds.keep_outputs_of))):
        scores = importance(found)
        if scores is None or any(_is_grouped(item.dep.target.module) for item in found):
            continue
        count = len(scores)
        weak = int((scores < threshold * scores.max()).sum())
        kept = max(bounds.min_channels, -(-(count - weak) // bounds.granularity) * bounds.granularity)
        if kept >= count:
            continue
        root = found[0].dep
        indices = scores.argsort()[: count - kept].tolist()
        group = graph.get_pruning_group(root.target.module, root.handler, indices)
        if graph.check_pruning_group(group):
            group.prune()


def _channels(graph: tp.DependencyGraph, group: tp.dependency.Group) -> int:
    layer, function = group[0].dep.target.module, group[0].dep.handler
    if graph.is_out_channel_pruning_fn(function):
        return int(graph.get_out_channels(layer))
    return int(graph.get_in_channels(layer))


def _is_grouped(layer: nn.Module) -> bool:
    """True for convolutions in groups that are not depthwise: their channels cannot go one by one."""
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups != layer.in_channels
