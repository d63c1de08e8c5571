"""Jobs of experiments and of data sets: the same routes below both."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from ....schemas.errors import InvalidInput
from ...answers import answers
from ...body import documented, json_body
from ...catalog.models import Job
from ...deps import ScopeDep, ServicesDep
from ...downloads import open_file, single_file, stored_file, stored_text
from ...events import log_events
from ...services.jobs.jobs import JobEnded
from ...services.jobs.planning import Owner
from .answers import AutomlDetails, Freed, JobOut, Jobs, Said
from .query import JobSort, Size, Skip, list_out, page
from .schemas import JobIn, LogIn, PublishIn, ResumeIn, StatusIn
from .translate import automl_out, job_out, jobs_asked, speaks_55

_TAR = "application/gzip"
#: Ids that stand for all experiments or data sets in a list of jobs.
_ALL = ("*", "all")


async def enter_experiment(experiment_id: UUID, request: Request, scope: ScopeDep) -> None:
    request.state.owner = Owner(org=scope.org, experiment_id=experiment_id)


async def enter_dataset(dataset_id: UUID, request: Request, scope: ScopeDep) -> None:
    request.state.owner = Owner(org=scope.org, dataset_id=dataset_id)


async def enter_any_experiment(
    experiment_id: Annotated[str, Path(max_length=36)], request: Request, scope: ScopeDep
) -> None:
    star = experiment_id in _ALL
    request.state.owner = Owner(org=scope.org, experiment_id=None if star else _uuid("experiment_id", experiment_id))


async def enter_any_dataset(dataset_id: Annotated[str, Path(max_length=36)], request: Request, scope: ScopeDep) -> None:
    star = dataset_id in _ALL
    request.state.owner = Owner(
        org=scope.org, dataset_id=None if star else _uuid("dataset_id", dataset_id), of_datasets=True
    )


async def read_owner(request: Request) -> Owner:
    """Return what the path says that the jobs belong to."""
    owner = getattr(request.state, "owner", None)
    if not isinstance(owner, Owner):  # FastAPI goes on after a malformed parameter, to report them all
        raise InvalidInput("The id of the experiment or data set in the path is no UUID.")
    return owner


OwnerDep = Annotated[Owner, Depends(read_owner)]


async def read_job(job_id: UUID, owner: OwnerDep, services: ServicesDep) -> Job:
    return await services.jobs.read(owner, job_id)


JobDep = Annotated[Job, Depends(read_job)]

_lists, _jobs, _resumable = APIRouter(), APIRouter(), APIRouter()


@_lists.get("", summary="List Jobs", responses=answers(list[JobOut] | Jobs))
async def list_jobs(
    owner: OwnerDep,
    scope: ScopeDep,
    services: ServicesDep,
    skip: Skip = 0,
    size: Size = 1000,
    sort: JobSort = "date-descending",
) -> JSONResponse:
    """Returns the list of Jobs; `*` or `all` in place of the id lists those of the org"""
    window = page(skip, size, sort)
    views, total = await services.jobs.read_list(owner, window)
    return list_out("jobs", [job_out(view, scope) for view in views], total, window, scope)


@_jobs.post(
    "", status_code=201, summary="Run Jobs", openapi_extra=documented(JobIn), responses=answers(str | list[str], 201)
)
async def run_job(
    owner: OwnerDep, services: ServicesDep, body: Annotated[JobIn, Depends(json_body(JobIn))]
) -> JSONResponse:
    """Asynchronously starts an action and returns the corresponding Job ID"""
    asked = jobs_asked(body)
    for job in asked:
        if isinstance(job.spec, dict) and "cluster" in job.spec:
            raise InvalidInput("specs.cluster: the place where a job runs cannot be chosen.", hint="Leave it out.")
    ids = [str(job_id) for job_id in await services.jobs.run_chain(owner, asked)]
    return JSONResponse(ids if body.actions is not None else ids[0], 201)


@_jobs.post("/{job_id}:cancel", summary="Cancel Job", responses=answers(Said) | answers(Said, 201))
async def cancel_job(job_id: UUID, owner: OwnerDep, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Asks for the end of the job; for clients before 5.5 cancel or pause training"""
    if not speaks_55(scope):
        await services.jobs.cancel_or_pause(owner, job_id)
        return JSONResponse({})
    try:
        await services.jobs.cancel(owner, job_id)
    except JobEnded as error:
        return JSONResponse({"message": error.hint}, 201)
    return JSONResponse({"message": f"Job {job_id} is being canceled."})


@_jobs.post("/{job_id}:pause", summary="Pause Job", responses=answers(Said))
async def pause_job(job_id: UUID, owner: OwnerDep, services: ServicesDep) -> JSONResponse:
    """Lets the job save a checkpoint and free its worker - train/retrain only"""
    await services.jobs.pause(owner, job_id)
    return JSONResponse({"message": f"Job {job_id} is being paused."})


@_resumable.post("/{job_id}:resume", summary="Resume Job", openapi_extra=documented(ResumeIn), responses=answers(Said))
async def resume_job(
    job_id: UUID,
    owner: OwnerDep,
    scope: ScopeDep,
    services: ServicesDep,
    body: Annotated[ResumeIn, Depends(json_body(ResumeIn))],
) -> JSONResponse:
    """Resumes a cancelled or paused job - train/retrain only"""
    await services.jobs.resume(owner, job_id, parent_id=body.parent_job_id, spec=body.specs)
    return JSONResponse({"message": f"Job {job_id} goes on."} if speaks_55(scope) else {})


@_resumable.get("/{job_id}:automl_details", summary="Retrieve AutoML details", responses=answers(AutomlDetails))
async def read_automl_details(job: JobDep, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the trials of a train job that is a search, and how far it is"""
    return JSONResponse(automl_out(await services.sweeps.read_details(job), scope))


@_resumable.post(
    "/{job_id}:publish_model",
    status_code=201,
    summary="Publish models",
    openapi_extra=documented(PublishIn),
    responses=answers(str | Said, 201),
)
async def publish_model(
    job: JobDep,
    scope: ScopeDep,
    services: ServicesDep,
    body: Annotated[PublishIn, Depends(json_body(PublishIn))],
) -> JSONResponse:
    """Registers the chosen checkpoint of a job that is Done in the model registry"""
    published = await services.publishing.publish(
        job, name=body.display_name or body.name, team=body.team_name or "", description=body.description or ""
    )
    if not speaks_55(scope):
        return JSONResponse(str(job.id), 201)
    return JSONResponse({"message": f"Published as version {published.version} of {published.name}."}, 201)


@_resumable.delete("/{job_id}:remove_published_model", summary="Remove a published model", responses=answers(Said))
async def remove_published_model(
    job: JobDep,
    services: ServicesDep,
    team_name: Annotated[str, Query(max_length=100, description="Only what was published for this team")] = "",
) -> JSONResponse:
    """Takes what was published of a job out of the model registry"""
    removed = await services.publishing.remove(job, team=team_name)
    names = ", ".join(f"version {model.version} of {model.name}" for model in removed)
    return JSONResponse({"message": f"Removed {names}."})


@_jobs.head("/{job_id}:download", include_in_schema=False)
@_jobs.get("/{job_id}:download", summary="Download Job Artifacts", response_class=Response)
async def download_job(job: JobDep, request: Request, services: ServicesDep) -> Response:
    """Download the Artifacts produced by a given job; parts of it by Range"""
    path, size_bytes = services.files.tar(job)
    return stored_file(request, services.storage, path, size_bytes, media_type=_TAR, name=f"{job.id}.tar.gz")


@_jobs.get("/{job_id}:list_files", summary="List files of a Job", responses=answers(list[str]))
async def list_files(
    job: JobDep, scope: ScopeDep, services: ServicesDep, retrieve_logs: bool = False, retrieve_specs: bool = False
) -> JSONResponse:
    """Returns the names of the files of the job"""
    names = await services.files.names(job, logs=retrieve_logs, specs=retrieve_specs)
    if retrieve_logs and speaks_55(scope):
        names.append(f"../logs/{job.id}.txt")  # the name that these clients wait for
    return JSONResponse(names)


@_jobs.get("/{job_id}:download_selective_files", summary="Download some files of a Job", response_class=Response)
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


@_jobs.get("/{job_id}/logs", summary="Get Job logs", response_class=Response)
async def read_logs(
    job: JobDep,
    request: Request,
    services: ServicesDep,
    follow: Annotated[bool, Query(description="Send lines as server-sent events, as they come")] = False,
    cursor: Annotated[str | None, Query(max_length=40, description="Follow from the event with this id on")] = None,
) -> Response:
    """Returns the job logs"""
    paths = await services.files.log_paths(job)
    if follow:
        return log_events(request, services, job, request.headers.get("last-event-id") or cursor)
    return await stored_text(request, services.storage, paths, media_type="text/plain; charset=utf-8")


@_jobs.get("/{job_id}:status_update", summary="Posts status for the job", responses=answers(JobOut))
@_jobs.post(
    "/{job_id}:status_update",
    summary="Posts status for the job",
    openapi_extra=documented(StatusIn),
    responses=answers(JobOut),
)
async def update_status(
    job: JobDep,
    owner: OwnerDep,
    scope: ScopeDep,
    services: ServicesDep,
    body: Annotated[StatusIn, Depends(json_body(StatusIn))],
) -> JSONResponse:
    """Saves received content to status file"""
    if body.status is not None:
        await services.reports.add_status(job, body.status)
    return JSONResponse(job_out(await services.jobs.read_view(owner, job.id), scope))


@_jobs.get("/{job_id}:log_update", summary="Posts log for the job", responses=answers(JobOut))
@_jobs.post(
    "/{job_id}:log_update", summary="Posts log for the job", openapi_extra=documented(LogIn), responses=answers(JobOut)
)
async def update_log(
    job: JobDep,
    owner: OwnerDep,
    scope: ScopeDep,
    services: ServicesDep,
    body: Annotated[LogIn, Depends(json_body(LogIn))],
) -> JSONResponse:
    """Saves received content to log file"""
    if body.log_contents:
        await services.reports.add_log(job, body.log_contents)
    return JSONResponse(job_out(await services.jobs.read_view(owner, job.id), scope))


@_jobs.get("/{job_id}", summary="Retrieve Job", responses=answers(JobOut))
async def get_job(job_id: UUID, owner: OwnerDep, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Job"""
    return JSONResponse(job_out(await services.jobs.read_view(owner, job_id), scope))


@_jobs.delete("/{job_id}", summary="Delete Job", responses=answers(Freed))
async def delete_job(job: JobDep, services: ServicesDep) -> JSONResponse:
    """Deletes a job that has ended, with its files; says how many bytes that freed"""
    return JSONResponse({"freed_bytes": await services.cleanup.delete_job(job.org, job.id)})


router = APIRouter()
for _prefix, _enter, _tag, _parts in (
    ("/experiments/{experiment_id}/jobs", enter_any_experiment, "EXPERIMENT", (_lists,)),
    ("/datasets/{dataset_id}/jobs", enter_any_dataset, "DATASET", (_lists,)),
    ("/experiments/{experiment_id}/jobs", enter_experiment, "EXPERIMENT", (_resumable, _jobs)),
    ("/datasets/{dataset_id}/jobs", enter_dataset, "DATASET", (_jobs,)),
):
    for _part in _parts:
        router.include_router(_part, prefix=_prefix, tags=[_tag], dependencies=[Depends(_enter)])


def _uuid(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInput(f"{name}: it is no UUID.") from error
