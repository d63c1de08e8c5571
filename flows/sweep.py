"""The flow of a sweep: one job that searches for a good spec. Every trial is a flow run of its own.

Its process trains nothing: it decides, waits and keeps the books, so it needs no slot of a worker. Killed at any
moment, the next attempt reads the study, looks what has become of the trials, and goes on.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from ..blocks import layout, load_storage
from ..networks.registry import Network, get_network, load_implementation
from ..schemas.actions import Action
from ..schemas.errors import ActionNotAllowed, JobFailed, NotFound
from ..schemas.jobs import TAG, Datasets, ExperimentRecord, JobRequest, Org
from ..schemas.results import Artifact, ArtifactKind, JobResult
from ..schemas.specs import parse_spec
from ..schemas.states import PAUSING
from ..schemas.sweeps import STUDIES_VARIABLE, STUDY_FILE, SWEEP_FLOW, SweepSettings
from ..sweeps.conduct import conduct
from ..sweeps.search import Search
from ..sweeps.space import Space, build_space, set_value, value_at
from ..sweeps.study import Study, open_storage, read_trials
from ..sweeps.trials import Metric, Trial
from ..tasks.artifacts import publish_artifacts
from ..tasks.context import STORAGE_PATIENCE_S, JobContext, JobFolder, job_folder, read_result, running_as
from ..tasks.reporter import STATUS_FILE, JobReporter
from ..tasks.sweep_artifacts import draw, show_pictures
from ..tasks.tracking import Tracking, log_model, tracking
from .download import build_download
from .job import read_experiment, run_name, tag_run
from .joblog import job_log
from .sweep_books import Books, sentence
from .trial_pool import TrialPool
from .trial_runs import TrialRuns

#: Job variables of a sweep that are for its trials.
_OF_TRIALS = frozenset({"gpus_up_to", "gpu_type", "memory_mb", "disk_mb"})


@flow(name=SWEEP_FLOW, flow_run_name=run_name, log_prints=True, persist_result=False)
def sweep(
    org: Org,
    experiment_id: UUID,
    network: str | None = None,
    parent_job_id: UUID | None = None,
    datasets: Datasets | None = None,
    base_experiment_id: UUID | None = None,
    name: str | None = None,
    spec: dict[str, Any] | None = None,
    settings: SweepSettings | None = None,
) -> JobResult:
    """Search for a good spec: train it with other parameters again and again, and keep the best model."""
    storage = load_storage().patient(STORAGE_PATIENCE_S)
    run = FlowRunContext.get()
    assert run is not None and run.flow_run is not None
    job_id = str(run.flow_run.id)
    request = JobRequest(
        action=Action.TRAIN,
        org=org,
        experiment_id=experiment_id,
        network=network,
        parent_job_id=parent_job_id,
        datasets=datasets,
        base_experiment_id=base_experiment_id,
        name=name,
        spec=spec or {},
    )
    with job_log(storage, org, job_id):
        record = read_experiment(storage, request)
        assert record is not None
        tag_run(request, record, run.flow_run.tags)
        wanted = settings or SweepSettings()
        if storage.exists(changed := layout.resume(org, job_id)):
            changes = dict(storage.read_json(changed))
            if "settings" in changes:
                wanted = SweepSettings.model_validate(changes.pop("settings"))
            request = JobRequest.model_validate({**request.model_dump(), **changes})
        job = JobContext(org=org, job_id=job_id, experiment=f"{org}/{record.id}", storage=storage)
        with running_as(job):
            result = _Sweep(job, request, record, wanted, run.flow_run).run()
        build_download(job)
    return result


class _Sweep:
    def __init__(
        self,
        job: JobContext,
        request: JobRequest,
        record: ExperimentRecord,
        settings: SweepSettings,
        flow_run: FlowRun,
    ) -> None:
        self._job = job
        self._flow_run = flow_run
        self._request = request
        self._record = record
        self._settings = settings
        self._network: Network = get_network(request.network or record.network)
        model = self._network.spec(Action.TRAIN)
        self._spec = parse_spec(model, dict(request.spec)).model_dump(mode="json")
        reserved = {self._network.epochs_parameter, self._network.metric_parameter or ""}
        self._space: Space = build_space(model, self._spec, settings, reserved=reserved)
        self._metrics = [Metric(*metric) for metric in self._network.find_metrics(settings.metrics).items()]
        if (request.datasets or record.datasets).eval is None:
            raise ActionNotAllowed(
                "A sweep compares its trials on evaluation data, and the experiment has none.",
                hint="PATCH the experiment with eval_dataset.",
            )
        self._title = f"sweep {self._network.name}"

    def run(self) -> JobResult:
        """Search, and return the record of the sweep: that of its best trial.

        Raises:
            JobFailed: no trial has come to an end.
        """
        started, began = datetime.now(UTC), time.monotonic()
        with job_folder(self._job, apart=layout.TRIAL) as (folder, scratch), tracking(self._job, folder) as run:
            reporter = JobReporter(self._job, folder, self._title)
            reporter.send_metrics_to(run.writer)
            try:
                run.describe(
                    title=self._title,
                    action=Action.TRAIN,
                    network=self._network.name,
                    spec={"sweep": self._settings.model_dump(mode="json"), **self._spec},
                    parent=None,
                    datasets={},
                )
                with reporter.stop.installed():
                    search = self._open(folder, scratch, reporter)
                    books = Books(self._job, search, self._settings, self._spec_of, folder, run, reporter, self._title)
                    self._conduct(search, books, folder, reporter)
                    reporter.allow_interruption()
                result = self._conclude(search, books, folder, scratch, run, started, began)
            finally:
                reporter.close()
            folder.push([folder.work / STATUS_FILE])
            folder.write_result(result)
            reporter.progress(1.0, result.message)
        return result

    def _open(self, folder: JobFolder, scratch: Path, reporter: JobReporter) -> Search:
        url = os.environ.get(STUDIES_VARIABLE)
        storage = open_storage(folder.work / STUDY_FILE, url)
        self._study = Study(storage, self._job.job_id, self._metrics, self._space.distributions)
        for source in map(str, self._settings.warm_start):
            path = f"{layout.job(self._job.org, source)}/{STUDY_FILE}"
            try:
                earlier = read_trials(source, url or self._job.storage.local_copy(path, scratch / source))
            except NotFound as error:
                raise NotFound(f"warm_start: the job {source} has no study.", hint="Name a sweep.") from error
            added = self._study.learn_from(source, earlier)
            reporter.log(f"Learned from {added} trials of the sweep {source}.")
        epochs = int(value_at(self._spec, self._network.epochs_parameter))
        search = Search(self._study, self._space, self._settings, self._metrics, epochs)
        varied = ", ".join(self._space.distributions)
        before = f" {len(search.trials)} trials are there already." if search.trials else ""
        reporter.log(f"{self._settings.algorithm} searches {varied} for the best {search.metric.name}.{before}")
        return search

    def _conduct(self, search: Search, books: Books, folder: JobFolder, reporter: JobReporter) -> None:
        def keep() -> None:
            folder.push([folder.work / STUDY_FILE])
            folder.finish()

        with TrialRuns(self._job.job_id, f"trial/{self._network.name}") as runs:
            pool = TrialPool(
                search,
                runs,
                parameters=self._parameters,
                read_result=self._read_result,
                keep=keep,
                tags=[
                    f"{TAG}org:{self._job.org}",
                    f"{TAG}network:{self._network.name}",
                    f"{TAG}experiment:{self._record.id}",
                ],
                work_queue=self._flow_run.work_queue_name,
                # What the sweep itself does not need, its trials do.
                job_variables={k: v for k, v in (self._flow_run.job_variables or {}).items() if k in _OF_TRIALS},
            )
            pool.take_up()
            delays = conduct(search, pool, is_stopping=reporter.stop_requested, tell=books.tell)
            if reporter.stop_requested():
                self._stop_trials(pool, reporter)
        books.tell(at_once=True)
        books.close()
        if why := search.why_ended():
            reporter.log(why)
        if delays.seconds:
            middle = sorted(delays.seconds)[len(delays.seconds) // 2]
            reporter.log(f"From a free slot to the next trial: {1000 * middle:.0f} ms in the middle.")

    def _stop_trials(self, pool: TrialPool, reporter: JobReporter) -> None:
        """Do to the trials what is done to the sweep. When only its worker ends, they go on."""
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(self._job.job_id)).state
        if state is None or state.is_running() or state.is_pending():
            reporter.log("The worker ends; the trials go on, and another worker goes on with the sweep.")
            return
        pool.stop(pause=state.is_paused() or state.name == PAUSING)

    # --- trials

    def _parameters(self, trial: Trial) -> dict[str, Any]:
        request = self._request
        datasets = request.datasets or self._record.datasets
        return {
            "org": self._job.org,
            "sweep_job_id": self._job.job_id,
            "number": trial.number,
            "until_epoch": trial.asked,
            "max_epochs": trial.horizon,
            "experiment_id": str(self._record.id),
            "network": self._network.name,
            "datasets": datasets.model_dump(mode="json"),
            "base_experiment_id": str(request.base_experiment_id) if request.base_experiment_id else None,
            "spec": self._spec_of(trial),
        }

    def _spec_of(self, trial: Trial) -> dict[str, Any]:
        """Return the spec that a trial trains."""
        spec = self._space.apply(trial.params)
        set_value(spec, self._network.epochs_parameter, trial.horizon)
        if self._network.metric_parameter is not None:
            set_value(spec, self._network.metric_parameter, self._metrics[0].name)
        return spec

    def _path(self, trial: Trial) -> str:
        return layout.trial(self._job.org, self._job.job_id, trial.number)

    def _read_result(self, trial: Trial) -> JobResult:
        return read_result(self._job.storage, self._path(trial))

    # --- the end

    def _conclude(
        self,
        search: Search,
        books: Books,
        folder: JobFolder,
        scratch: Path,
        run: Tracking,
        started: datetime,
        began: float,
    ) -> JobResult:
        best = search.best
        if best is None:
            reasons = {trial.message for trial in search.trials if trial.status == "failure"}
            raise JobFailed(
                f"None of {len(search.trials)} trials came to an end. {' '.join(sorted(reasons)[:3])}".strip(),
                hint="Mend the spec or the ranges, then resume the sweep or start a new one.",
            )
        trained = self._read_result(best)
        artifacts = books.copy_best(best, trained, scratch)
        pictures = draw(self._study.optuna, search.metric.name, folder.work)
        show_pictures(self._title, pictures)
        artifacts += [
            Artifact(path=path.name, kind=ArtifactKind.FIGURE, title=path.stem.replace("_", " ").capitalize())
            for path in pictures
        ]
        result = JobResult(
            **trained.model_dump(
                include={"kpi", "categorical", "confusion", "classes", "parameter_count", "best_epoch", "latest_epoch"}
            ),
            artifacts=folder.publish(artifacts),
            key_metric=search.metric.name,
            message=sentence(search),
            action=Action.TRAIN,
            network=self._network.name,
            uri=self._job.storage.address(self._job.path),
            job_id=self._job.job_id,
            spec=self._spec_of(best),
            history=trained.history,
            mlflow_run_id=run.run_id,
            dataset_digests=trained.dataset_digests,
            started_at=started,
            seconds=round(time.monotonic() - began, 3),
        )
        publish_artifacts(self._title, result, folder.work, run.url)
        log_model(run, result, folder.work, load_implementation(self._network))
        run.finish(result)
        return result
