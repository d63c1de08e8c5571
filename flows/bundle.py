"""The flow of a job that trains a bundle."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import flow
from prefect.context import FlowRunContext

from ..blocks import layout, load_storage
from ..schemas.actions import Action
from ..schemas.bundles import BundleRecord
from ..schemas.errors import NotFound
from ..schemas.jobs import JobRequest, Org
from ..schemas.results import JobResult
from ..tasks.context import STORAGE_PATIENCE_S, JobContext, running_as
from ..tasks.train_bundle import train_bundle as train_task
from .download import build_download
from .job import run_name, tag_run
from .joblog import job_log


@flow(name=str(Action.TRAIN_BUNDLE), flow_run_name=run_name, log_prints=True, persist_result=False)
def train_bundle(
    org: Org,
    bundle_id: UUID,
    parameters: dict[str, Any] | None = None,
    parent_job_id: UUID | None = None,
    name: str | None = None,
) -> JobResult:
    """Train a bundle: build its environment, run its stages, keep its models."""
    storage = load_storage().patient(STORAGE_PATIENCE_S)
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    job_id = str(context.flow_run.id)
    with job_log(storage, org, job_id):
        request = JobRequest(action=Action.TRAIN_BUNDLE, org=org, parent_job_id=parent_job_id, name=name)
        tag_run(request, None, context.flow_run.tags)
        bundle = layout.bundle(org, bundle_id)
        record = f"{bundle}/{layout.BUNDLE_RECORD}"
        if not storage.exists(record):
            raise NotFound(f"There is no bundle {bundle_id} in the org {org}.", hint="POST it to /train/{workspace}.")
        workspace = BundleRecord.model_validate(storage.read_json(record)).workspace
        job = JobContext(org=org, job_id=job_id, experiment=f"{org}/{workspace}", storage=storage)
        with running_as(job):
            result = train_task(storage.address(bundle), parameters)
        build_download(job)
    return result
