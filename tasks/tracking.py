"""MLflow: one experiment per org and experiment, one run per job, metrics in batches from a thread."""

from __future__ import annotations

import json
import os
import platform
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.logging import get_logger

from .. import __version__
from ..blocks.patience import patiently
from ..schemas.errors import Unavailable
from ..schemas.results import ArtifactKind, EpochMetrics, JobResult
from ..schemas.sweeps import SWEEP_TAG
from .context import JobContext, JobFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

T = TypeVar("T")

logger = get_logger("trainyard.tracking")

RUN_FILE = "mlflow_run.json"

#: MLflow's own tag for nested runs.
_PARENT_RUN = "mlflow.parentRunId"

#: How long the start and the end of a job wait for an MLflow server that is away.
PATIENCE_S = 600.0

#: How long a job that failed waits for MLflow, and one that was stopped: its worker does not wait long either.
FAILED_PATIENCE_S, KILLED_PATIENCE_S = 60.0, 3.0

#: What an MLflow server says, as if the request were bad, when it has no database connection left.
_OVERLOADED = "QueuePool limit"

#: MLflow's own retries, unless the user has set others: it tries for four minutes and says nothing.
_HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def _ask(call: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """Return MLflow's answer, waiting for it while it is away.

    Raises:
        Unavailable: it still is after `timeout_s`.
        MlflowException: it does not want to.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    def once() -> T:
        try:
            return call()
        except MlflowException as error:
            is_refused = int(error.get_http_status_code()) < 500  # type: ignore[no-untyped-call]
            if is_refused and _OVERLOADED not in str(error):
                raise
            raise Unavailable(f"MLflow does not answer: {error}") from error
        except RequestException as error:
            raise Unavailable(f"MLflow does not answer: {error}") from error

    return patiently(once, timeout_s, lambda error: logger.warning("Waiting for MLflow. %s", error))


class MetricsWriter:
    """Sends metrics from a thread of its own: training never waits for MLflow, nothing is dropped or doubled."""

    def __init__(self, client: MlflowClient, run_id: str, is_continued: bool = False) -> None:
        self._client = client
        self._run_id = run_id
        self._is_continued = is_continued
        #: Names and epochs that MLflow has. An epoch is trained twice when the first attempt was killed after it.
        self._sent: set[tuple[str, int]] = set()
        self._is_abandoned = False
        self._queue: queue.SimpleQueue[EpochMetrics | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="trainyard-metrics", daemon=True)
        self._thread.start()

    def put(self, epoch: EpochMetrics) -> None:
        self._queue.put(epoch)

    def close(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until everything is sent; False when it did not happen in time, and then no more is sent."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        # why: the job may go on in this process, and sends then what is missing.
        self._is_abandoned = True
        return not self._thread.is_alive()

    def _send_all(self) -> None:
        if self._is_continued:
            self._deliver(self._read_sent)
        # Here, because reading 200 package descriptions takes a tenth of a second.
        self._deliver(lambda: self._client.log_text(self._run_id, _environment(), "environment.txt"))
        ended = False
        while not (ended or self._is_abandoned) and (first := self._queue.get()) is not None:
            batch = [first]
            while not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    ended = True
                    break
                batch.append(item)
            self._send(batch)

    def _read_sent(self) -> None:
        names = self._client.get_run(self._run_id).data.metrics
        self._sent = {(name, m.step) for name in names for m in self._client.get_metric_history(self._run_id, name)}

    def _send(self, batch: list[EpochMetrics]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, epoch.epoch)
            for epoch in batch
            for name, value in epoch.metrics.items()
            if (name, epoch.epoch) not in self._sent
        ]
        for start in range(0, len(metrics), 1000):
            if self._is_abandoned:
                return
            some = metrics[start : start + 1000]
            self._deliver(partial(self._client.log_batch, self._run_id, metrics=some))
            self._sent |= {(metric.key, metric.step) for metric in some}

    def _deliver(self, call: Callable[[], object]) -> None:
        """Call until MLflow has answered, however long that takes."""
        from mlflow.exceptions import MlflowException

        while not self._is_abandoned:
            try:
                _ask(call)
            except Unavailable:
                continue
            except MlflowException as error:
                # It has answered, and will not answer otherwise the next time: the run was deleted, for example.
                logger.warning("MLflow refuses what this job measures: %s", error)
            return


class Tracking:
    """The MLflow run of one job. A job that goes on after a stop goes on in the same run."""

    def __init__(self, job: JobContext, folder: JobFolder) -> None:
        import mlflow

        for name, value in _HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        self._job = job
        self._folder = folder
        self._client = mlflow.MlflowClient()
        self.experiment_id = _ask(self._experiment)
        self.is_continued = (folder.work / RUN_FILE).is_file()
        self.run_id = self._run()
        self.writer = MetricsWriter(self._client, self.run_id, self.is_continued)

    @property
    def url(self) -> str | None:
        """Address of the run in the MLflow UI, when the tracking server has one."""
        import mlflow

        base = mlflow.get_tracking_uri()
        return f"{base}/#/experiments/{self.experiment_id}/runs/{self.run_id}" if base.startswith("http") else None

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self._job.experiment
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return found.experiment_id
        tags = {"trainyard.org": self._job.org, "mlflow.experimentKind": "custom_model_development"}
        try:
            return str(self._client.create_experiment(name, tags=tags))
        except MlflowException:
            # Another job of the same experiment was faster.
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def _run(self) -> str:
        file = self._folder.work / RUN_FILE
        if self.is_continued:
            run_id = str(json.loads(file.read_text())["run_id"])
            _ask(lambda: self._client.update_run(run_id, status="RUNNING"))
            return run_id
        run_id = _ask(self._find_or_create_run)
        file.write_text(json.dumps({"run_id": run_id, "experiment_id": self.experiment_id}))
        self._folder.push([file])
        return run_id

    def _find_or_create_run(self) -> str:
        # why look first: the answer to an earlier request, or the attempt that made it, may have got lost.
        mine = f"tags.`trainyard.job_id` = '{self._job.job_id}'"
        if found := self._client.search_runs([self.experiment_id], mine, max_results=1):
            self.is_continued = True
            return str(found[0].info.run_id)
        tags = {"trainyard.job_id": self._job.job_id}
        if (sweep := self._job.sweep) is not None:
            tags |= {SWEEP_TAG: sweep.job_id, _PARENT_RUN: sweep.mlflow_run_id}
        return str(self._client.create_run(self.experiment_id, run_name=self._job.job_id, tags=tags).info.run_id)

    def describe(
        self,
        *,
        title: str,
        action: str,
        network: str | None,
        spec: Mapping[str, Any],
        parent: JobResult | None,
        datasets: Mapping[str, tuple[str, str]],
    ) -> None:
        """Record what goes into the job. `datasets` maps a role to address and digest."""
        _ask(lambda: self._describe(title, action, network, spec, parent, datasets))

    def _describe(
        self,
        title: str,
        action: str,
        network: str | None,
        spec: Mapping[str, Any],
        parent: JobResult | None,
        datasets: Mapping[str, tuple[str, str]],
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        tags = {
            "mlflow.runName": title,
            "mlflow.source.name": f"prefect-trainyard {__version__}",
            "mlflow.source.type": "PROJECT",
            "trainyard.job_id": self._job.job_id,
            "trainyard.org": self._job.org,
            "trainyard.action": action,
            "trainyard.network": network or "",
            "trainyard.version": __version__,
            "trainyard.python": platform.python_version(),
            "trainyard.host": platform.node(),
        }
        if parent is not None:
            tags["trainyard.parent_job_id"] = parent.job_id or ""
            if parent.mlflow_run_id and self._job.sweep is None:
                tags[_PARENT_RUN] = parent.mlflow_run_id
        self._client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        known = self._client.get_run(self.run_id).data.params if self.is_continued else {}
        params = [Param(k, str(v)[:6000]) for k, v in _flat(spec) if k not in known]
        for start in range(0, len(params), 100):
            self._client.log_batch(self.run_id, params=params[start : start + 100])
        inputs = [
            DatasetInput(
                Dataset(name=role, digest=digest[:32], source_type="trainyard", source=f'{{"uri": "{address}"}}'),
                [InputTag("mlflow.data.context", role), InputTag("trainyard.sha256", digest)],
            )
            for role, (address, digest) in datasets.items()
        ]
        if inputs:
            self._log_inputs(inputs)

    def _log_inputs(self, inputs: list[DatasetInput]) -> None:
        from mlflow.exceptions import MlflowException

        # why: MLflow looks which data sets it knows and then adds the others. Of two jobs that bring the same new one
        # at the same time the second is refused for a data set that is known by now: once for each, at most.
        for _ in inputs:
            try:
                self._client.log_inputs(self.run_id, datasets=inputs)
            except MlflowException as error:
                logger.debug("MLflow is asked again to take the data sets of this job: %s", error)
            else:
                return
        self._client.log_inputs(self.run_id, datasets=inputs)

    def finish(self, result: JobResult) -> None:
        """Record what came out and end the run.

        Raises:
            Unavailable: MLflow has not taken all metrics; the job can be resumed and sends them then.
        """
        if not self.writer.close():
            raise Unavailable("MLflow was away for too long: it does not have all metrics of this job.")
        _ask(lambda: self._finish(result))

    def _finish(self, result: JobResult) -> None:
        from mlflow.entities import Metric

        step, now = result.latest_epoch or 0, int(time.time() * 1000)
        metrics = [Metric(f"final.{name}", value, now, step) for name, value in result.kpi.items()]
        if result.parameter_count is not None:
            metrics.append(Metric("final.parameter_count", float(result.parameter_count), now, step))
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics)
        for artifact in result.artifacts:
            if artifact.kind in (ArtifactKind.FIGURE, ArtifactKind.PREDICTIONS, ArtifactKind.REPORT):
                self._client.log_artifact(self.run_id, str(self._folder.work / artifact.path))
        self._client.set_terminated(self.run_id, status="FINISHED")

    def abort(self, status: str, timeout_s: float) -> None:
        """End the run as FAILED or KILLED; what was measured until now is kept.

        What MLflow does not take now is sent when the job is resumed.
        """
        thread = threading.Thread(target=self._abort, args=(status, timeout_s), daemon=True)
        thread.start()
        thread.join(timeout_s)

    def _abort(self, status: str, timeout_s: float) -> None:
        from mlflow.exceptions import MlflowException

        self.writer.close(timeout_s)
        try:
            self._client.set_terminated(self.run_id, status=status)
        except MlflowException as error:
            logger.warning("MLflow does not know that the job has ended: %s", error)


@contextmanager
def tracking(job: JobContext, folder: JobFolder) -> Iterator[Tracking]:
    """Give the MLflow run of the job; an exception ends it as FAILED, a cancellation as KILLED."""
    run = Tracking(job, folder)
    try:
        yield run
    except Exception:
        run.abort("FAILED", FAILED_PATIENCE_S)
        raise
    except BaseException:
        # Prefect's TerminationSignal and KeyboardInterrupt: somebody stopped the job.
        run.abort("KILLED", KILLED_PATIENCE_S)
        raise


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in spec.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _environment() -> str:
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions() if d.metadata["Name"]})
    return "\n".join([f"# Python {platform.python_version()} on {platform.platform()}", *packages, ""])


def log_model(run: Tracking, result: JobResult, folder: Path, implementation: Any) -> None:
    """Record the model of a job with its signature, loadable by `mlflow.pyfunc.load_model`."""
    _ask(lambda: _log_model(run, result, folder, implementation))


def _log_model(run: Tracking, result: JobResult, folder: Path, implementation: Any) -> None:
    model = result.model
    if model is None or model.kind is ArtifactKind.ENGINE:
        return  # an engine is bound to the machine that built it
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    record = implementation.open_predictor(folder / model.path).record
    pixels = TensorSpec(np.dtype(np.float32), (-1, *record.shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, *record.output_shape))
    with mlflow.start_run(run_id=run.run_id, log_system_metrics=False), warnings.catch_warnings():
        # It would like an input example and type hints; the signature says all that they would.
        warnings.filterwarnings("ignore", category=UserWarning)
        mlflow.pyfunc.log_model(
            name=str(result.action),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": str(folder / model.path)},
            model_config={"network": result.network},
            signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema([logits])),
            pip_requirements=[f"prefect-trainyard=={__version__}"],
            metadata={"job_id": result.job_id, "sha256": model.sha256},
        )
