"""Models and metrics of a bundle while it trains: what its stages report, and what lies in its folder of models."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from ..blocks.layout import MODELS, TRAINING
from ..datasets.manifest import RawFile, digest_of, hash_file
from ..datasets.names import name_problem
from ..schemas.bundles import ModelFile, Report, TrainedModel, TrainingRecord
from .context import JobFolder

_POLL_S = 0.5
_LINE_MAX_BYTES = 1 << 16
_MODELS_MAX = 1000
_BAD_LINES_SHOWN = 5


class BundleModels:
    """Keeps `training.json`, and brings each model to the storage when it is complete.

    A stage says that by a line with the name of the model; what no line named is complete when its stage has ended.
    """

    def __init__(
        self,
        folder: JobFolder,
        reports: Path,
        record: TrainingRecord,
        *,
        on_report: Callable[[Report], None],
        say: Callable[[str], None],
    ) -> None:
        self.record = record
        self.models = folder.work / MODELS
        self._folder = folder
        self._reports = reports
        self._on_report = on_report
        self._say = say
        self._offset = 0
        self._bad_lines = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take what is reported inside the block as it comes, and when it ends well all that is there."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="trainyard-models", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._read()
        self._find()

    def save(self) -> None:
        """Write `training.json`."""
        file = self._folder.work / TRAINING
        temporary = file.with_name(f".{TRAINING}.tmp")
        temporary.write_text(self.record.model_dump_json(indent=1), encoding="utf-8")
        temporary.replace(file)
        self._folder.push([file])

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_POLL_S):
            self._read()

    def _read(self) -> None:
        """Take the complete new lines."""
        try:
            with self._reports.open("rb") as file:
                file.seek(self._offset)
                while (line := file.readline(_LINE_MAX_BYTES)).endswith(b"\n") or len(line) == _LINE_MAX_BYTES:
                    self._offset += len(line)
                    self._take(line)
        except FileNotFoundError:
            return

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            report = Report.model_validate_json(line)
        except ValidationError as error:
            self._bad_lines += 1
            if self._bad_lines <= _BAD_LINES_SHOWN:
                problem = error.errors(include_input=False, include_url=False)[0]
                self._say(f"A line of $TRAINYARD_METRICS is not understood: {problem['loc']}: {problem['msg']}.")
            return
        finite = {name: value for name, value in report.metrics.items() if math.isfinite(value)}
        report = report.model_copy(update={"metrics": finite})
        if report.model is not None:
            self._add(report.model, report)
        self.record.metrics.update(finite)
        self._on_report(report)

    def _find(self) -> None:
        """Take what nobody has named."""
        known = {model.name for model in self.record.models}
        for path in sorted(self.models.iterdir()):
            if path.name not in known:
                self._add(path.name, Report())

    def _add(self, name: str, report: Report) -> None:
        # The name of something that is there, and nothing else: it is text of the user's program.
        path = next((path for path in self.models.iterdir() if path.name == name), None)
        if path is None or path.is_symlink() or name_problem(name) or len(self.record.models) >= _MODELS_MAX:
            if path is not None or report.model is not None:
                self._say(f"{name!r} is not taken for a model: there is none of the name, or too many are there.")
            return
        files = self._files(path)
        if not files:
            return
        before = next((model for model in self.record.models if model.name == name), None)
        model = TrainedModel(
            number=before.number if before else len(self.record.models) + 1,
            name=name,
            files=[ModelFile(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256) for f in files],
            sha256=digest_of(files),
            metrics={**(before.metrics if before else {}), **report.metrics},
            step=report.step or (before.step if before else 0),
            created_at=datetime.now(UTC),
        )
        self.record.models = [m for m in self.record.models if m.name != name] + [model]
        self.record.models.sort(key=lambda model: model.number)
        self._folder.push([self.models / file.path for file in files])
        self.save()

    def _files(self, path: Path) -> list[RawFile]:
        """Return the files of a model; a link could lead to anybody's."""
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() or p.is_symlink())
        found = []
        for file in inside:
            if file.is_symlink() or name_problem(file.name):
                self._say(f"{file.name!r} is not kept: it is a link, or has a name that does not print.")
                continue
            found.append(hash_file(self.models, PurePosixPath(file.relative_to(self.models))))
        return found


def read_record(folder: JobFolder) -> TrainingRecord:
    """Return what an earlier attempt of the job has written, or an empty record."""
    file = folder.work / TRAINING
    try:
        return TrainingRecord.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return TrainingRecord()
