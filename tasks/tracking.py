"""MLflow: one experiment per org and experiment, one run per job, metrics in batches from a thread."""

from __future__ import annotations

import json
import platform
import queue
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.logging import get_logger

from .. import __version__
from ..schemas.results import ArtifactKind, EpochMetrics, JobResult
from .context import JobContext, JobFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = get_logger("trainyard.tracking")

RUN_FILE = "mlflow_run.json"

#: How long the end of a job waits for an MLflow server that is away.
FLUSH_TIMEOUT_S = 180.0


class MetricsWriter:
    """Sends metrics from a thread of its own: training never waits for MLflow, nothing is dropped."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._queue: queue.SimpleQueue[EpochMetrics | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="trainyard-metrics", daemon=True)
        self._thread.start()

    def put(self, epoch: EpochMetrics) -> None:
        self._queue.put(epoch)

    def close(self, timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
        """Wait until everything is sent; False when it did not happen in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _send_all(self) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        try:
            # Here, because reading 200 package descriptions takes a tenth of a second.
            self._client.log_text(self._run_id, _environment(), "environment.txt")
        except MlflowException as error:
            logger.warning("The environment was not recorded: %s", error)
        while (first := self._queue.get()) is not None:
            batch, ended = [first], False
            while not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    ended = True
                    break
                batch.append(item)
            now = int(time.time() * 1000)
            metrics = [Metric(k, v, now, epoch.epoch) for epoch in batch for k, v in epoch.metrics.items()]
            while metrics:
                try:
                    self._client.log_batch(self._run_id, metrics=metrics[:1000])
                    metrics = metrics[1000:]
                except MlflowException as error:
                    logger.warning("MLflow does not take metrics at the moment, trying again: %s", error)
                    time.sleep(1)
            if ended:
                return


class Tracking:
    """The MLflow run of one job. A job that goes on after a stop goes on in the same run."""

    def __init__(self, job: JobContext, folder: JobFolder) -> None:
        import mlflow

        self._job = job
        self._folder = folder
        self._client = mlflow.MlflowClient()
        self.experiment_id = self._experiment()
        self.is_continued = (folder.work / RUN_FILE).is_file()
        self.run_id = self._run()
        self.writer = MetricsWriter(self._client, self.run_id)

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
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run = self._client.create_run(self.experiment_id, run_name=self._job.job_id)
        file.write_text(json.dumps({"run_id": run.info.run_id, "experiment_id": self.experiment_id}))
        self._folder.push([file])
        return str(run.info.run_id)

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
            if parent.mlflow_run_id:
                tags["mlflow.parentRunId"] = parent.mlflow_run_id
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
            self._client.log_inputs(self.run_id, datasets=inputs)

    def finish(self, result: JobResult) -> None:
        """Record what came out and end the run."""
        from mlflow.entities import Metric

        if not self.writer.close():
            logger.warning("MLflow was away; the last metrics are in result.json only.")
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

    def abort(self, status: str) -> None:
        """End the run as FAILED or KILLED; what was measured until now is kept."""
        self.writer.close(timeout_s=5.0)
        self._client.set_terminated(self.run_id, status=status)


@contextmanager
def tracking(job: JobContext, folder: JobFolder) -> Iterator[Tracking]:
    """Give the MLflow run of the job; an exception ends it as FAILED, a cancellation as KILLED."""
    run = Tracking(job, folder)
    try:
        yield run
    except Exception:
        run.abort("FAILED")
        raise
    except BaseException:
        # Prefect's TerminationSignal and KeyboardInterrupt: somebody stopped the job.
        run.abort("KILLED")
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
    model = result.model
    if model is None or model.kind is ArtifactKind.ENGINE:
        return  # an engine is bound to the machine that built it
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    record = implementation.open_predictor(folder / model.path).record
    pixels = TensorSpec(np.dtype(np.float32), (-1, *record.shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, len(record.classes)))
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
