"""The flow of a `run` job: a command of the user's own."""

from __future__ import annotations

from uuid import UUID

from prefect import flow
from prefect.context import FlowRunContext

from ..blocks import load_storage
from ..schemas.actions import Action
from ..schemas.commands import Command
from ..schemas.jobs import JobRequest, Org
from ..schemas.results import JobResult
from ..tasks.context import STORAGE_PATIENCE_S, JobContext, running_as
from ..tasks.run_command import run_command
from .download import build_download
from .job import run_name, tag_run
from .joblog import job_log


@flow(name=str(Action.RUN), flow_run_name=run_name, log_prints=True, persist_result=False)
def run(org: Org, command: Command, project_id: UUID | None = None, name: str | None = None) -> JobResult:
    """Run a command in a virtual environment of its own."""
    storage = load_storage().patient(STORAGE_PATIENCE_S)
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    job_id = str(context.flow_run.id)
    with job_log(storage, org, job_id):
        tag_run(JobRequest(action=Action.RUN, org=org, name=name), None, context.flow_run.tags)
        job = JobContext(org=org, job_id=job_id, experiment=f"{org}/{project_id or 'commands'}", storage=storage)
        with running_as(job):
            result = run_command(command)
        build_download(job)
    return result
