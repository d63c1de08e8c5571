"""Jobs of models and of data sets: the same routes below both."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from ...answers import answers
from ...body import documented, json_body
from ...catalog.models import Job
from ...deps import ScopeDep, ServicesDep
from ...downloads import open_file, single_file, stored_file
from ...services.jobs.planning import NewJob
from ..tao_v5.query import JobSort, Size, Skip, list_out, page
from .answers import JobOut, Nothing
from .owners import OWNERS, OwnerDep
from .schemas import JobsIn
from .translate import action_in, job_out

_TAR = "application/octet-stream"


async def read_job(job_id: UUID, owner: OwnerDep, services: ServicesDep) -> Job:
    return await services.jobs.read(owner, job_id)


JobDep = Annotated[Job, Depends(read_job)]

_jobs, _resumable = APIRouter(), APIRouter()


@_jobs.get("", summary="List Jobs", responses=answers(list[JobOut]))
async def list_jobs(
    owner: OwnerDep,
    scope: ScopeDep,
    services: ServicesDep,
    skip: Skip = 0,
    size: Size = 1000,
    sort: JobSort = "date-descending",
) -> JSONResponse:
    """Returns the list of Jobs"""
    window = page(skip, size, sort)
    views, total = await services.jobs.read_list(owner, window)
    return list_out("jobs", [job_out(view, scope) for view in views], total, window, scope)


@_jobs.post(
    "", status_code=201, summary="Run Jobs", openapi_extra=documented(JobsIn), responses=answers(list[UUID], 201)
)
async def run_jobs(
    owner: OwnerDep, services: ServicesDep, body: Annotated[JobsIn, Depends(json_body(JobsIn, arrays=True))]
) -> JSONResponse:
    """Asynchronously starts a list of Actions, all or none, and returns corresponding Job IDs"""
    asked: list[NewJob] = []
    group = 0
    for part in body.parts:
        group += part.job is not None  # a part that names its parent does not start from the parts before it
        for word in part.actions:
            action = action_in(word, owner)
            spec = await services.saved_specs.read_for_job(owner, action)
            asked.append(NewJob(action=action, parent_id=part.job, spec=spec, group=group))
    return JSONResponse([str(job_id) for job_id in await services.jobs.run_chain(owner, asked)], 201)


@_jobs.post("/{job_id}/cancel", summary="Cancel Job", responses=answers(Nothing))
async def cancel_job(job_id: UUID, owner: OwnerDep, services: ServicesDep) -> JSONResponse:
    """Cancel Job (or pause training)"""
    await services.jobs.cancel_or_pause(owner, job_id)
    return JSONResponse({})


@_resumable.post("/{job_id}/resume", summary="Resume Job", responses=answers(Nothing))
async def resume_job(job: JobDep, owner: OwnerDep, services: ServicesDep) -> JSONResponse:
    """Resume a Job with the Specs that are saved now - train/retrain only"""
    spec = await services.saved_specs.read_for_job(owner, job.action)
    await services.jobs.resume(owner, job.id, parent_id=None, spec=spec)
    return JSONResponse({})


@_jobs.head("/{job_id}/download", include_in_schema=False)
@_jobs.get("/{job_id}/download", summary="Download Job Artifacts", response_class=Response)
async def download_job(job: JobDep, request: Request, services: ServicesDep) -> Response:
    """Download the Artifacts produced by a given job; parts of it by Range"""
    path, size_bytes = services.files.tar(job)
    return stored_file(request, services.storage, path, size_bytes, media_type=_TAR, name=f"{job.id}.tar.gz")


@_jobs.get("/{job_id}/list_files", summary="List files of a Job", responses=answers(list[str]))
async def list_files(
    job: JobDep, services: ServicesDep, retrieve_logs: bool = False, retrieve_specs: bool = False
) -> JSONResponse:
    """Returns the names of the files of the job"""
    return JSONResponse(await services.files.names(job, logs=retrieve_logs, specs=retrieve_specs))


@_jobs.get("/{job_id}/download_selective_files", summary="Download some files of a Job", response_class=Response)
async def download_selective_files(
    job: JobDep,
    request: Request,
    services: ServicesDep,
    file_lists: Annotated[list[str] | None, Query()] = None,
    best_model: bool = False,
    latest_model: bool = False,
    tar_files: bool = True,
) -> Response:
    """Download files by name, and the best or latest model; all of them when nothing is chosen"""
    files = await services.files.select(job, file_lists or [], best=best_model, latest=latest_model)
    if not tar_files and len(files) == 1:
        return await single_file(request, services.storage, files[0])
    packed, size_bytes = await services.files.pack(files)
    return open_file(packed, size_bytes, media_type=_TAR, name=f"{job.id}.tar.gz")


@_jobs.get("/{job_id}", summary="Retrieve Job", responses=answers(JobOut))
async def get_job(job_id: UUID, owner: OwnerDep, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Job"""
    return JSONResponse(job_out(await services.jobs.read_view(owner, job_id), scope))


@_jobs.delete("/{job_id}", summary="Delete Job", responses=answers(Nothing))
async def delete_job(job: JobDep, services: ServicesDep) -> JSONResponse:
    """Deletes a job that has ended, with its files"""
    await services.cleanup.delete_job(job.org, job.id)
    return JSONResponse({})


router = APIRouter()
for _prefix, _enter, _tag in OWNERS:
    for _part in (_resumable, _jobs) if "model_id" in _prefix else (_jobs,):
        router.include_router(_part, prefix=f"{_prefix}/job", tags=[_tag], dependencies=[Depends(_enter)])
