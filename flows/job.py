"""One flow per action. A flow run of one of these is a job; its id is the job id."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from ..blocks import ArtifactStorage, layout, load_storage
from ..networks.registry import network_name
from ..schemas.actions import CONVERSIONS, TRAINING, Action
from ..schemas.base_experiments import WEIGHTS_FILE
from ..schemas.errors import ActionNotAllowed, NotFound
from ..schemas.jobs import TAG, CheckpointChoice, Datasets, ExperimentRecord, JobRequest, ModelChoice, Org
from ..schemas.results import JobResult
from ..tasks import analyze as analyze_task
from ..tasks import annotation_format_convert as annotations_task
from ..tasks import augment as augment_task
from ..tasks import calibration_tensorfile as tensorfile_task
from ..tasks import convert as convert_task
from ..tasks import evaluate as evaluate_task
from ..tasks import export as export_task
from ..tasks import gen_trt_engine as engine_task
from ..tasks import inference as inference_task
from ..tasks import kmeans as kmeans_task
from ..tasks import prune as prune_task
from ..tasks import retrain as retrain_task
from ..tasks import train as train_task
from ..tasks import validate as validate_task
from ..tasks.context import STORAGE_PATIENCE_S, JobContext, running_as
from ..tasks.redaction import REDACTION, given_secrets
from ..tasks.secrets import read_secrets
from .download import build_download
from .joblog import job_log


def run_name() -> str:
    """Name a flow run so that a person finds it in a list."""
    parameters = runtime.flow_run.parameters
    subject = parameters.get("name") or parameters.get("network") or "job"
    return f"{runtime.flow_run.flow_name} {subject} {str(runtime.flow_run.id)[:8]}"


def _experiment_flow(action: Action, summary: str) -> Any:
    """Return the flow of an action of an experiment."""

    def job(
        org: Org,
        experiment_id: UUID,
        network: str | None = None,
        parent_job_id: UUID | None = None,
        datasets: Datasets | None = None,
        base_experiment_id: UUID | None = None,
        checkpoint: CheckpointChoice | None = None,
        checkpoint_epoch: int | None = None,
        name: str | None = None,
        spec: dict[str, Any] | None = None,
    ) -> JobResult:
        return _run(
            JobRequest(
                action=action,
                org=org,
                experiment_id=experiment_id,
                network=network,
                parent_job_id=parent_job_id,
                datasets=datasets,
                base_experiment_id=base_experiment_id,
                checkpoint=checkpoint,
                checkpoint_epoch=checkpoint_epoch,
                name=name,
                spec=spec or {},
            )
        )

    return _as_flow(job, action, summary)


def _dataset_flow(action: Action, summary: str) -> Any:
    """Return the flow of an action of a data set."""

    def job(
        org: Org,
        dataset_id: UUID,
        parent_job_id: UUID | None = None,
        name: str | None = None,
        spec: dict[str, Any] | None = None,
    ) -> JobResult:
        return _run(
            JobRequest(
                action=action, org=org, dataset_id=dataset_id, parent_job_id=parent_job_id, name=name, spec=spec or {}
            )
        )

    return _as_flow(job, action, summary)


def _as_flow(job: Callable[..., JobResult], action: Action, summary: str) -> Any:
    job.__name__ = job.__qualname__ = str(action)
    job.__doc__ = summary
    return flow(name=str(action), flow_run_name=run_name, log_prints=True, persist_result=False)(job)


convert = _dataset_flow(Action.CONVERT, "Index an uploaded data set.")
dataset_convert = _dataset_flow(Action.DATASET_CONVERT, "Index an uploaded data set.")
convert_and_index = _dataset_flow(Action.CONVERT_AND_INDEX, "Index an uploaded data set.")
convert_efficientdet_tf1 = _dataset_flow(Action.CONVERT_EFFICIENTDET_TF1, "Index an uploaded data set.")
convert_efficientdet_tf2 = _dataset_flow(Action.CONVERT_EFFICIENTDET_TF2, "Index an uploaded data set.")
annotation_format_convert = _dataset_flow(Action.ANNOTATION_FORMAT_CONVERT, "Write a data set in another format.")
augment = _dataset_flow(Action.AUGMENT, "Write a data set with changed copies of its pictures.")
analyze = _dataset_flow(Action.ANALYZE, "Describe a data set in tables and figures.")
validate = _dataset_flow(Action.VALIDATE, "List everything that is wrong with a data set.")
kmeans = _dataset_flow(Action.KMEANS, "Find anchors that fit the boxes of a data set.")
train = _experiment_flow(Action.TRAIN, "Train the network of an experiment.")
evaluate = _experiment_flow(Action.EVALUATE, "Measure the model of the parent job on the evaluation data.")
prune = _experiment_flow(Action.PRUNE, "Remove channels from the model of the parent job.")
retrain = _experiment_flow(Action.RETRAIN, "Train the pruned model of the parent job further.")
export = _experiment_flow(Action.EXPORT, "Write the model of the parent job as ONNX.")
calibration_tensorfile = _experiment_flow(
    Action.CALIBRATION_TENSORFILE, "Write what an int8 engine of the ONNX file of the parent job is calibrated with."
)
gen_trt_engine = _experiment_flow(Action.GEN_TRT_ENGINE, "Build an engine from the ONNX file of the parent job.")
inference = _experiment_flow(Action.INFERENCE, "Predict the inference data with the model of the parent job.")

#: All flows of jobs, by action.
JOB_FLOWS: dict[Action, Any] = {
    Action.CONVERT: convert,
    Action.DATASET_CONVERT: dataset_convert,
    Action.CONVERT_AND_INDEX: convert_and_index,
    Action.CONVERT_EFFICIENTDET_TF1: convert_efficientdet_tf1,
    Action.CONVERT_EFFICIENTDET_TF2: convert_efficientdet_tf2,
    Action.ANNOTATION_FORMAT_CONVERT: annotation_format_convert,
    Action.AUGMENT: augment,
    Action.ANALYZE: analyze,
    Action.VALIDATE: validate,
    Action.KMEANS: kmeans,
    Action.TRAIN: train,
    Action.EVALUATE: evaluate,
    Action.PRUNE: prune,
    Action.RETRAIN: retrain,
    Action.EXPORT: export,
    Action.CALIBRATION_TENSORFILE: calibration_tensorfile,
    Action.GEN_TRT_ENGINE: gen_trt_engine,
    Action.INFERENCE: inference,
}


#: Tasks of data sets beside the conversions.
_DATA_SERVICES: dict[Action, Callable[..., JobResult]] = {
    Action.ANNOTATION_FORMAT_CONVERT: annotations_task,
    Action.AUGMENT: augment_task,
    Action.ANALYZE: analyze_task,
    Action.VALIDATE: validate_task,
    Action.KMEANS: kmeans_task,
}


def _run(request: JobRequest) -> JobResult:
    """Run the action as the job of this flow run: log, tags, task, download."""
    storage = load_storage().patient(STORAGE_PATIENCE_S)
    run = FlowRunContext.get()
    assert run is not None and run.flow_run is not None
    job_id = str(run.flow_run.id)
    with job_log(storage, request.org, job_id):
        record = read_experiment(storage, request)
        tag_run(request, record, run.flow_run.tags)
        job = JobContext(
            org=request.org,
            job_id=job_id,
            experiment=f"{request.org}/{record.id if record else 'datasets'}",
            storage=storage,
        )
        resume = layout.resume(request.org, job_id)
        if request.action in TRAINING and storage.exists(resume):
            request = JobRequest.model_validate({**request.model_dump(), **storage.read_json(resume)})
        variables = read_secrets(job)
        REDACTION.add(given_secrets(variables))
        os.environ.update(variables)
        with running_as(job):
            result = call_task(request, record, storage)
        build_download(job)
    return result


def call_task(
    request: JobRequest, record: ExperimentRecord | None, storage: ArtifactStorage, until_epoch: int | None = None
) -> JobResult:
    """Call the task of the action with what the request and the experiment say; `until_epoch` is for `train`."""

    def address(dataset_id: UUID | None) -> str | None:
        return storage.address(layout.dataset(request.org, dataset_id)) if dataset_id else None

    def needed(dataset_id: UUID | None, field: str) -> str:
        if (found := address(dataset_id)) is None:
            raise ActionNotAllowed(
                f"{action} needs data and the experiment has no {field}.", hint=f"PATCH the experiment with {field}."
            )
        return found

    action, spec = request.action, dict(request.spec)
    if action in CONVERSIONS:
        return convert_task(needed(request.dataset_id, "files"), spec=spec, action=action)
    if action in _DATA_SERVICES:
        return _DATA_SERVICES[action](needed(request.dataset_id, "files"), spec=spec)
    assert record is not None
    sets = request.datasets or record.datasets
    train_set = sets.train[0] if sets.train else None
    parent = storage.address(layout.job(request.org, request.parent_job_id)) if request.parent_job_id else None
    if action is Action.TRAIN:
        return train_task(
            needed(train_set, "train_datasets"),
            address(sets.eval),
            network=request.network or record.network,
            spec=spec,
            parent=parent,
            base_weights=_base_weights(storage, request, record),
            until_epoch=until_epoch,
        )
    if parent is None:
        raise ActionNotAllowed(f"{action} needs a parent job that made a model.", hint="Give parent_job_id.")
    # The choice of the experiment stands unless this job has its own.
    model = ModelChoice(
        method=request.checkpoint or record.checkpoint,
        epoch=request.checkpoint_epoch or record.checkpoint_epochs.get(f"from_epoch_number_{request.parent_job_id}"),
    )
    if action is Action.EVALUATE:
        return evaluate_task(parent, needed(sets.eval, "eval_dataset"), spec=spec, model=model)
    if action is Action.PRUNE:
        return prune_task(parent, address(train_set), spec=spec, model=model)
    if action is Action.RETRAIN:
        data = needed(train_set, "train_datasets")
        return retrain_task(parent, data, address(sets.eval), spec=spec, model=model)
    if action is Action.EXPORT:
        return export_task(parent, address(sets.eval), spec=spec, model=model)
    if action is Action.CALIBRATION_TENSORFILE:
        return tensorfile_task(parent, needed(sets.calibration, "calibration_dataset"), spec=spec)
    if action is Action.GEN_TRT_ENGINE:
        return engine_task(parent, address(sets.calibration), spec=spec)
    return inference_task(parent, needed(sets.inference, "inference_dataset"), spec=spec, model=model)


def read_experiment(storage: ArtifactStorage, request: JobRequest) -> ExperimentRecord | None:
    """Return what is known of the experiment; None for a job of a data set."""
    if request.experiment_id is None:
        return None
    path = layout.experiment(request.org, request.experiment_id)
    if not storage.exists(path):
        raise NotFound(
            f"There is no experiment {request.experiment_id} in the org {request.org}.",
            hint="GET /api/v1/orgs/{org}/experiments lists those there are.",
        )
    return ExperimentRecord.model_validate(storage.read_json(path))


def _base_weights(storage: ArtifactStorage, request: JobRequest, record: ExperimentRecord) -> str | None:
    """Return the storage path of pretrained weights; none means random weights."""
    base = request.base_experiment_id or next(iter(record.base_experiment_ids), None)
    if base is None or request.parent_job_id is not None:
        return None
    path = f"{layout.base_experiment(base)}/{WEIGHTS_FILE}"
    if not storage.exists(path):
        raise NotFound(f"The base experiment {base} has no weights.", hint="PATCH base_experiment to an empty list.")
    return path


def tag_run(request: JobRequest, record: ExperimentRecord | None, present: list[str]) -> None:
    """Give a run that was started by hand or by a schedule the tags that the facade gives its own."""
    tags = {
        f"{TAG}org:{request.org}",
        f"{TAG}action:{request.action}",
        *(
            [f"{TAG}network:{network_name(request.network or record.network)}", f"{TAG}experiment:{record.id}"]
            if record
            else []
        ),
        *([f"{TAG}dataset:{request.dataset_id}"] if request.dataset_id else []),
        *([f"{TAG}parent:{request.parent_job_id}"] if request.parent_job_id else []),
    }
    if missing := tags - set(present):
        with get_client(sync_client=True) as client:
            client.update_flow_run(runtime.flow_run.id, tags=sorted({*present, *missing}))
