"""How the TAO dialects say times and the results of jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...schemas.results import JobResult
from ...schemas.sweeps import SweepProgress
from ..services.jobs.reasons import JobView

#: `detailed_status.status` by the status of the job.
_DETAILED = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Pausing": "RUNNING",
    "Canceling": "RUNNING",
    "Paused": "PAUSED",
    "Done": "SUCCESS",
    "Error": "FAILURE",
}


def time_out(moment: datetime) -> str:
    """Return a time without a zone, at most 26 characters."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()


def result_out(view: JobView, status: str) -> dict[str, Any]:
    job, message = view.row, view.message
    moment = time_out(job.progress_at or job.state_at)
    out: dict[str, Any] = {
        "detailed_status": {
            "date": moment[:10],
            "time": moment[11:19],
            "message": message,
            "status": _DETAILED.get(status, "CANCELED"),
        },
        "message": message,
    }
    if job.history:
        last = job.history[-1]
        seconds = [epoch["seconds"] for epoch in job.history]
        out |= {
            "epoch": last["epoch"],
            "max_epoch": last["max_epoch"],
            "time_per_epoch": _duration(sum(seconds) / len(seconds)),
            "graphical": _curves(job.history),
        }
    if job.eta_s is not None:
        out["eta"] = _duration(job.eta_s)
    if job.result is not None:
        out |= _kpi_out(JobResult.model_validate(job.result))
    if job.sweep:
        progress = SweepProgress.model_validate(job.sweep)
        out["stats"] = [*_sweep_stats(progress), *out.get("stats", [])]
        if progress.best is not None:
            out["automl_result"] = [{"metric": f"best_{progress.metric}"[:100], "value": number_out(progress.best)}]
    return out


def _sweep_stats(progress: SweepProgress) -> list[dict[str, str]]:
    """Return how far a search is, in the words that the documents have for it; what is not known yet is left out."""
    each, eta = progress.seconds_per_epoch, progress.eta_s
    stats = {
        "Estimated time for automl completion": _duration(eta) if eta is not None else None,
        "Current experiment number": progress.current_trial,
        "Number of epochs yet to start": progress.epochs_left,
        "Time per epoch in seconds": f"{each:.2f}" if each is not None else None,
        **{f"Number of {status} experiments": count for status, count in progress.trials.items()},
    }
    return [{"metric": name, "value": str(value)} for name, value in stats.items() if value is not None]


def _kpi_out(result: JobResult) -> dict[str, Any]:
    epoch = str(result.best_epoch or result.latest_epoch or 1)
    out: dict[str, Any] = {
        "kpi": [{"metric": name[:100], "values": {epoch: number_out(value)}} for name, value in result.kpi.items()],
        "categorical": [
            {
                "metric": metric[:100],
                "category_wise_values": [
                    {"category": name[:500], "value": number_out(value)} for name, value in by_class.items()
                ],
            }
            for metric, by_class in result.categorical.items()
        ],
    }
    if result.key_metric is not None and result.key_metric in result.kpi:
        out["key_metric"] = number_out(result.kpi[result.key_metric])
    stats = {
        "parameters": result.parameter_count,
        "model_size_bytes": result.model.size_bytes if result.model is not None else None,
    }
    out["stats"] = [{"metric": name, "value": str(value)} for name, value in stats.items() if value is not None]
    return out


def _curves(history: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the metrics of the epochs, one curve for each."""
    curves: dict[str, dict[str, float | None]] = {}
    for epoch in history:
        for metric, value in epoch["metrics"].items():
            curves.setdefault(metric, {})[str(epoch["epoch"])] = number_out(value)
    out = []
    for metric, values in curves.items():
        known = [value for value in values.values() if value is not None]
        epochs = [int(number) for number in values]
        out.append(
            {
                "metric": metric[:100],
                "values": values,
                "x_min": min(epochs),
                "x_max": max(epochs),
                "y_min": min(known, default=None),
                "y_max": max(known, default=None),
                "units": "",
            }
        )
    return out


def number_out(value: float | None) -> float | None:
    """Return a number as JSON can say it."""
    return value if value is not None and math.isfinite(value) else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:05.2f}"
