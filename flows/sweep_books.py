"""What a sweep writes down while it runs: its log, `controller.json`, recommendations, measurements, the best model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..blocks import layout
from ..blocks.storage import INCOMING
from ..schemas.results import Artifact, ArtifactKind, EpochMetrics, JobResult
from ..schemas.sweeps import BEST_MODEL, CONTROLLER_FILE, STUDY_FILE, SweepSettings
from ..sweeps.search import Search
from ..sweeps.trials import Trial
from ..tasks.context import JobContext, JobFolder
from ..tasks.reporter import JobReporter
from ..tasks.sweep_artifacts import Leaderboard
from ..tasks.tracking import Tracking

#: Seconds between two versions of `controller.json` while trials come and go.
_WRITE_S = 1.0

#: Files of a trial that are small and say how it went.
_RECORDS = frozenset({"result.json", "status.json", "mlflow_run.json", "log.txt", "log.1.txt"})


class Books:
    """Keeps the records of one sweep. `spec_of` gives the spec that a trial trains."""

    def __init__(
        self,
        job: JobContext,
        search: Search,
        settings: SweepSettings,
        spec_of: Callable[[Trial], dict[str, Any]],
        folder: JobFolder,
        run: Tracking,
        reporter: JobReporter,
        title: str,
    ) -> None:
        self._job = job
        self._search = search
        self._settings = settings
        self._spec_of = spec_of
        self._folder = folder
        self._run = run
        self._reporter = reporter
        self._leaderboard = Leaderboard(title, search.metric.maximize)
        self._written_at = 0.0
        self._has_news = False
        self._tidied: set[int] = set()
        #: What the log has of each trial; that of an earlier attempt is there already.
        self._told = {trial.number: (trial.status, trial.done) for trial in search.trials}
        self._measured: set[tuple[str, int]] = set()

    def tell(self, at_once: bool = False) -> None:
        """Write down what has changed, files and tables not more often than every second."""
        self._has_news = self._log_changes() or self._has_news
        now = time.monotonic()
        if (self._has_news and now - self._written_at >= _WRITE_S) or at_once:
            self._written_at, self._has_news = now, False
            search = self._search
            self._write_files()
            self._leaderboard.show(search.records, at_once=at_once)
            self._reporter.sweep(search.fraction, sentence(search), search.progress(max(1, len(search.active))))
            self._tidy()

    def close(self) -> None:
        self._leaderboard.close()

    def _log_changes(self) -> bool:
        """Write to the log and to MLflow what has changed since the last time; return whether anything has."""
        search, reporter = self._search, self._reporter
        changed = False
        for trial in search.trials:
            now = trial.status, trial.done
            before = self._told.get(trial.number)
            if before == now:
                continue
            self._told[trial.number] = now
            changed = True
            if before is None:
                reporter.log(f"Trial {trial.number}: {words(trial.params)}.")
            if trial.values and (before is None or before[1] != trial.done):
                value, best = trial.values[trial.done][0], search.best
                mark = ", the best so far" if best is trial else ""
                name = search.metric.name
                reporter.log(f"Trial {trial.number}: {name} {value:.5g} after {trial.done} epochs{mark}.")
                self._measure()
            if trial.status == "failure":
                reporter.log(f"Trial {trial.number} failed: {trial.message}")
            elif trial.status == "pruned":
                reporter.log(f"Trial {trial.number} ends. {trial.message}")
        return changed

    def _measure(self) -> None:
        """Send to MLflow the best value after so many answers, and the value of each trial under its number."""
        search = self._search
        name, best = search.metric.name, search.best
        answers = sum(len(trial.values) for trial in search.trials)
        points = [(t.number, f"trial_{name}", t.values[t.done][0]) for t in search.trials if t.status == "success"]
        if best is not None:
            points.append((answers, f"best_{name}", best.values[best.done][0]))
        for step, what, value in points:
            if (what, step) not in self._measured:
                self._measured.add((what, step))
                self._run.writer.put(EpochMetrics(epoch=step, max_epoch=0, metrics={what: value}, seconds=0.0))

    def _write_files(self) -> None:
        """Write `controller.json` and the spec of every trial as `recommendation_N.yaml`."""
        written, folder = [], self._folder
        for trial in self._search.trials:
            path = folder.work / f"recommendation_{trial.number}.yaml"
            if not path.exists():
                unfinished = path.with_name(f"{INCOMING}{path.name}")
                unfinished.write_text(yaml.safe_dump(self._spec_of(trial), sort_keys=False), encoding="utf-8")
                written.append(unfinished.replace(path))
        records = [record.model_dump(mode="json") for record in self._search.records()]
        self._job.storage.write_json(f"{self._job.path}/{CONTROLLER_FILE}", records)
        folder.push([*written, folder.work / STUDY_FILE])

    def _tidy(self) -> None:
        """Remove the weights and checkpoints of trials that have ended and are not the best."""
        if not self._settings.delete_checkpoints:
            return
        best = self._search.best
        for trial in self._search.trials:
            if not trial.has_ended or trial is best or trial.number in self._tidied:
                continue
            self._tidied.add(trial.number)
            path = layout.trial(self._job.org, self._job.job_id, trial.number)
            for stored in self._job.storage.list_files(path):
                if stored.path not in _RECORDS:
                    self._job.storage.remove(f"{path}/{stored.path}")

    def copy_best(self, best: Trial, trained: JobResult, scratch: Path) -> list[Artifact]:
        """Fill `best_model` with weights, reports, its recommendation and `controller.json`; return its artifacts."""
        folder, path = self._folder, layout.trial(self._job.org, self._job.job_id, best.number)
        target = folder.work / BEST_MODEL
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        copied = []
        for artifact in trained.artifacts:
            if artifact.kind is ArtifactKind.CHECKPOINT:
                continue
            name = Path(artifact.path).name
            source = self._job.storage.local_copy(f"{path}/{artifact.path}", scratch / "best")
            shutil.copyfile(source, target / name)
            copied.append(artifact.model_copy(update={"path": f"{BEST_MODEL}/{name}"}))
        recommendation = f"recommendation_{best.number}.yaml"
        shutil.copyfile(folder.work / recommendation, target / recommendation)
        books = self._job.storage.read_bytes(f"{self._job.path}/{CONTROLLER_FILE}")
        (target / CONTROLLER_FILE).write_bytes(books)
        (folder.work / CONTROLLER_FILE).write_bytes(books)
        return copied


def sentence(search: Search) -> str:
    """Say how far a search is and what was best."""
    best = search.best
    counts: dict[str, int] = {}
    for trial in search.trials:
        counts[trial.status] = counts.get(trial.status, 0) + 1
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    if best is None:
        return f"{len(search.trials)} trials: {told}." if told else "No trial yet."
    value = best.values[best.done][0]
    return (
        f"{len(search.trials)} trials ({told}); the best is trial {best.number} with "
        f"{search.metric.name} {value:.5g}: {words(best.params)}."
    )


def words(params: Mapping[str, Any]) -> str:
    """Say what a trial varies, without the sections of the names."""
    return ", ".join(
        f"{name.rpartition('.')[2]} {value:.4g}" if isinstance(value, float) else f"{name.rpartition('.')[2]} {value}"
        for name, value in params.items()
    )
