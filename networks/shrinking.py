"""The prune action of all families of dense networks: prune, save, build anew from the file and compare."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..schemas.errors import JobFailed
from ..schemas.reporting import Reporter
from ..schemas.results import Artifact, ArtifactKind, Output
from .deployment_specs import Prune
from .predictors import side_by_side
from .pruning import Bounds, prune_share, prune_threshold
from .records import ModelRecord, normalize, random_pixels
from .weights import count_parameters

R = TypeVar("R", bound=ModelRecord)


def prune_model(
    options: Prune,
    *,
    network: nn.Module,
    record: R,
    outputs: Sequence[nn.Module],
    out: Path,
    reporter: Reporter,
    save: Callable[[Path, dict[str, torch.Tensor], R], None],
    load: Callable[[Path], tuple[nn.Module, R]],
    measure: Callable[[nn.Module], dict[str, float]] | None,
    trace: Callable[[nn.Module, torch.Tensor], object] | None = None,
    section: str = "",
) -> Output:
    """Prune everything but the channels of `outputs`; `measure` gives metrics of the pruned network.

    `trace` is for networks whose own computation cannot be followed, see `Bounds`.

    `section` stands before the names of the options in messages, with a dot.

    Raises:
        JobFailed: the network cannot be pruned, or nothing can go.
    """
    before = count_parameters(network)
    reporter.progress(0.1, f"pruning {before:,} parameters")
    if not outputs:
        raise cannot_prune(record)
    bounds = Bounds(outputs, options.granularity, options.min_channels, trace)
    example = torch.zeros(1, *record.shape)
    noise = normalize(random_pixels(record, 2), record)
    try:
        with warnings.catch_warnings():
            # why: torch-pruning warns of parameters outside of layers, which the comparison below watches over.
            warnings.simplefilter("ignore")
            if options.method == "ratio":
                prune_share(network, example, options.pruning_ratio, bounds)
            else:
                prune_threshold(network, example, options.pruning_threshold, bounds)
        with torch.inference_mode():
            expected = side_by_side(network.eval()(noise))
    # why: backbones that reshape by hard-coded sizes fail inside the pruner or in their forward in many ways.
    except (RuntimeError, ValueError, IndexError, KeyError, AttributeError, TypeError, AssertionError) as error:
        raise cannot_prune(record) from error
    after = count_parameters(network)
    removed = 1 - after / before
    # why not for a threshold: that no channel is weak enough is an answer, and what comes after can go on.
    if options.method == "ratio" and removed < options.pruning_ratio:
        raise JobFailed(
            f"Pruning removed {removed:.1%} of the parameters, and no more can go with these bounds.",
            hint=f"Lower {section}granularity or {section}min_channels, or ask for a smaller {section}pruning_ratio.",
        )

    path = out / "prune" / "model.safetensors"
    record = record.model_copy(update={"metrics": {}})
    save(path, network.state_dict(), record)
    rebuilt, _ = load(path)
    with torch.inference_mode():
        if not torch.allclose(side_by_side(rebuilt(noise)), expected, atol=1e-5, rtol=1e-4):
            path.unlink()
            raise cannot_prune(record)
    reporter.saved([path])
    kpi = {"parameters_before": float(before), "parameters_after": float(after), "removed_share": removed}
    if measure is not None:
        kpi |= measure(rebuilt)
    return Output(
        artifacts=[Artifact.at(path, out, ArtifactKind.WEIGHTS, "Pruned weights", record.epoch)],
        kpi=kpi,
        classes=record.classes,
        parameter_count=after,
        best_epoch=record.epoch,
        latest_epoch=record.epoch,
        message=_message(options, section, before, after),
    )


def _message(options: Prune, section: str, before: int, after: int) -> str:
    if after == before:
        return (
            f"Removed nothing: no channel is below {options.pruning_threshold:g} of the strongest of its layer, or "
            f"{section}granularity and {section}min_channels keep it. Raise {section}pruning_threshold, or use the "
            "method ratio."
        )
    share = 1 - after / before
    return f"Removed {share:.1%} of {before:,} parameters; {after:,} are left. Retrain to win back accuracy."


def cannot_prune(record: ModelRecord) -> JobFailed:
    return JobFailed(
        f"The backbone {record.backbone} cannot be pruned: its layers depend on fixed sizes.",
        hint="Prune a network of plain convolutions, for example a resnet, an efficientnet or a mobilenet.",
    )
