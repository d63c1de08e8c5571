"""What a sweep shows in the Prefect UI: a leaderboard while it runs, and pictures of the search."""

from __future__ import annotations

import base64
import json
import math
import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import FlowRunContext
from prefect.logging import get_logger
from prefect.utilities.slugify import slugify

from ..schemas.sweeps import TrialRecord

if TYPE_CHECKING:
    import optuna

logger = get_logger("trainyard.sweep")

#: Seconds between two versions of the leaderboard.
INTERVAL_S = 2.0

#: Rows of the leaderboard. The whole table is `controller.json`.
ROWS = 50

#: Trials in a picture of parameters; more of them hide each other.
_PICTURED = 1000


class Leaderboard:
    """A table of the best trials in the Prefect UI, brought up to date while the sweep runs.

    From a thread: the next trial never waits for a table.
    """

    def __init__(self, title: str, maximize: bool) -> None:
        self._key = slugify(f"{title} leaderboard")
        self._maximize = maximize
        self._id: UUID | None = None
        self._next = 0.0
        self._rows: queue.SimpleQueue[list[dict[str, Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if FlowRunContext.get() is not None:
            work = copy_context().run
            self._thread = threading.Thread(
                target=work, args=(self._send_all,), name="trainyard-leaderboard", daemon=True
            )
            self._thread.start()

    def show(self, read: Callable[[], Sequence[TrialRecord]], *, at_once: bool = False) -> None:
        """Show the trials soon, unless the last time was just now."""
        now = time.monotonic()
        if self._thread is None or (now < self._next and not at_once):
            return
        self._next = now + INTERVAL_S
        self._rows.put(leaderboard(read(), self._maximize))

    def close(self) -> None:
        """Send what is left; a server that is away does not hold up the sweep."""
        if self._thread is not None:
            self._rows.put(None)
            self._thread.join(timeout=10)

    def _send_all(self) -> None:
        while (rows := self._rows.get()) is not None:
            try:
                if self._id is None:
                    made = create_table_artifact(rows, key=self._key, description="Trials of the sweep, the best first")
                    assert isinstance(made, UUID)  # a coroutine only where an event loop runs
                    self._id = made
                else:
                    with get_client(sync_client=True) as client:
                        client.update_artifact(self._id, ArtifactUpdate(data=json.dumps(rows)))
            except Exception as error:  # noqa: BLE001 - a table must never stop a sweep
                logger.warning("The leaderboard was not shown: %s", error)


def leaderboard(trials: Sequence[TrialRecord], maximize: bool) -> list[dict[str, Any]]:
    """Return the rows of the table: trials with a result, the best first, then the others."""
    sign = -1 if maximize else 1

    def order(trial: TrialRecord) -> tuple[bool, bool, float, int]:
        value = trial.result if trial.result is not None and math.isfinite(trial.result) else None
        return trial.status == "failure", value is None, sign * (value or 0.0), trial.id

    return [
        {
            "place": place,
            "trial": trial.id,
            "status": trial.status,
            "result": "" if trial.result is None else f"{trial.result:.5g}",
            "epochs": trial.epochs,
            **{name.rpartition(".")[2]: _short(value) for name, value in trial.specs.items()},
            "seconds": f"{trial.seconds:.1f}",
        }
        for place, trial in enumerate(sorted(trials, key=order)[:ROWS], 1)
    ]


def draw(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """Draw history, parallel coordinates and importances of a study; return the pictures that make sense for it."""
    import matplotlib

    matplotlib.use("Agg")
    import optuna
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if not 2 <= len(complete) <= _PICTURED:
        return []
    shown = _first_metric(study, complete)
    pictures: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(shown, target_name=metric),
        "parallel_coordinate": lambda: plots.plot_parallel_coordinate(shown, target_name=metric),
        "importance": lambda: plots.plot_param_importances(shown, target_name=metric),
    }
    if len({trial.values[0] for trial in complete}) < 2:
        del pictures["importance"]  # nothing has made a difference
    drawn = []
    for name, plot in pictures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its plots experimental, matplotlib dislikes their layout
            try:
                axes = plot()
            except (ValueError, RuntimeError) as error:  # too few trials for this one
                logger.info("No picture of the %s: %s", name, error)
                continue
            figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
            figure.set_size_inches(9, 5)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=110, bbox_inches="tight")
            pyplot.close(figure)
        drawn.append(path)
    return drawn


def _first_metric(study: optuna.Study, complete: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    """Return a study in memory with the first metric only and with parameters by the last word of their names."""
    import optuna

    names = {name for trial in complete for name in trial.params}
    short = {name: name.rpartition(".")[2] for name in names}
    short = {name: word if list(short.values()).count(word) == 1 else name for name, word in short.items()}
    shown = optuna.create_study(direction=study.directions[0])
    for trial in complete:
        shown.add_trial(
            optuna.trial.create_trial(
                params={short[name]: value for name, value in trial.params.items()},
                distributions={short[name]: kind for name, kind in trial.distributions.items()},
                value=trial.values[0],
            )
        )
    return shown


def show_pictures(title: str, pictures: Sequence[Path]) -> None:
    """Leave pictures in the Prefect UI, inside the artifacts, so that they outlive servers and ports."""
    if FlowRunContext.get() is None:
        return
    for path in pictures:
        picture = base64.b64encode(path.read_bytes()).decode()
        what = path.stem.replace("_", " ")
        create_image_artifact(
            f"data:image/png;base64,{picture}", key=slugify(f"{title} {path.stem}"), description=what.capitalize()
        )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
