"""Routes of the document. They translate; services decide."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from ....schemas.bundles import BundleManifest
from ....schemas.errors import YardError
from ...deps import CallerDep, ServicesDep, SettingsDep
from ...downloads import open_file, stored_text
from ...events import log_events
from ...multipart import Body, receive_body, receive_file
from ...services.bundles.trainings import sort_models
from ...services.paging import Page
from .schemas import InfoOut, JobOut, JobsOut, PipelineOut, ProvenanceOut
from .translate import PAGE_SIZE, info_out, job_out, page_count, pipeline_out, provenance_out

_FIELD = "data"
_HINT = f"Send the bundle as the field `{_FIELD}` of multipart/form-data, or as the whole body."
_PAGE_MAX = 1_000_000
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [_FIELD],
                    "properties": {_FIELD: {"type": "string", "format": "binary"}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

Workspace = Annotated[
    str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", max_length=100, description="Selected workspace")
]
JobId = Annotated[str, Path(max_length=100, description="Selected training job id")]
PageId = Annotated[int, Query(ge=1, le=_PAGE_MAX, description=f"Page number, from 1; a page has {PAGE_SIZE}")]

router = APIRouter(prefix="/train", tags=["WORKSPACE"])


@router.get("/{workspace}", summary="List training jobs", response_model=JobsOut)
async def list_jobs(
    workspace: Workspace, caller: CallerDep, services: ServicesDep, page_id: PageId = 1
) -> JSONResponse:
    """This route lists all training jobs within a workspace, newest first."""
    page = Page(skip=(page_id - 1) * PAGE_SIZE, size=PAGE_SIZE)
    found, total = await services.trainings.read_list(caller.org, workspace, page)
    return JSONResponse(
        {
            "workspace": workspace,
            "jobs": [job_out(training) for training in found],
            "total": total,
            "page_id": page_id,
            "page_count": page_count(total),
        }
    )


@router.post("/{workspace}", summary="Create training job", response_model=JobOut, openapi_extra=_BODY)
async def create_job(
    workspace: Workspace,
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    settings: SettingsDep,
    user: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=255,
            pattern=r"^[^\x00-\x1f\x7f]+$",
            description="User for tracking ownership of training job",
        ),
    ] = None,
) -> JSONResponse:
    """This route creates a new training job within a workspace, from a zip, tar or tar.gz."""
    body = Body(request)
    try:
        async with services.trainings.receiving(caller.org, body.declared_bytes) as receipt:
            if request.headers.get("content-type", "").lower().startswith("multipart/"):
                await receive_file(body, receipt.archive, settings.upload_max_bytes, field=_FIELD, hint=_HINT)
            else:
                await receive_body(body, receipt.archive, settings.upload_max_bytes)
            training = await services.trainings.start(caller, workspace, receipt, user)
    except YardError:
        await body.drain()
        raise
    return JSONResponse(job_out(training))


@router.get("/{workspace}/inspect", summary="Inspect training pipeline", response_model=PipelineOut)
async def inspect_pipeline(workspace: Workspace, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """This route inspects the current training pipeline within a workspace: that of the newest bundle."""
    return JSONResponse(pipeline_out(await services.trainings.read_newest(caller.org, workspace)))


@router.get("/{workspace}/{job_id}", summary="Training job info", response_model=InfoOut)
@router.post("/{workspace}/{job_id}", summary="Training job info", response_model=InfoOut)
async def read_job(
    workspace: Workspace,
    job_id: JobId,
    caller: CallerDep,
    services: ServicesDep,
    page_id: PageId = 1,
    sort_by: Annotated[
        str | None, Query(min_length=1, max_length=100, description="Metric for sorting trained models, best first")
    ] = None,
) -> JSONResponse:
    """This route returns information about a particular training job, with the models that it has made so far."""
    training = await services.trainings.read(caller.org, workspace, job_id)
    record = await services.trainings.read_record(training)
    models = sort_models(record.models, sort_by, BundleManifest.model_validate(training.bundle.manifest))
    return JSONResponse(info_out(training, record, models, page_id, sort_by))


@router.get("/{workspace}/{job_id}/bundle", summary="Source training bundle", response_class=Response)
async def download_bundle(
    workspace: Workspace,
    job_id: JobId,
    caller: CallerDep,
    services: ServicesDep,
    include_code: Annotated[bool, Query(alias="include-code", description="Flag for downloading source code")] = True,
    include_data: Annotated[bool, Query(alias="include-data", description="Flag for downloading source data")] = True,
    include_model: Annotated[
        bool, Query(alias="include-model", description="Flag for downloading trained models")
    ] = False,
) -> Response:
    """This route retrieves the source bundle of a particular training job, as a zip."""
    training = await services.trainings.read(caller.org, workspace, job_id)
    record = await services.trainings.read_record(training)
    packed, size_bytes = await services.bundle_downloads.pack(
        training, record, code=include_code, data=include_data, model=include_model
    )
    return open_file(packed, size_bytes, media_type="application/zip", name=f"{training.job.id}.zip")


@router.get("/{workspace}/{model_id}/provenance", summary="Training model provenance", response_model=ProvenanceOut)
async def read_provenance(
    workspace: Workspace,
    model_id: Annotated[str, Path(max_length=100, description="Selected model id")],
    caller: CallerDep,
    services: ServicesDep,
) -> JSONResponse:
    """This route retrieves the provenance of a particular trained model: all that it was made from."""
    training, record, model = await services.trainings.read_model(caller.org, workspace, model_id)
    return JSONResponse(provenance_out(training, record, model))


@router.get("/{workspace}/{job_id}/logs", summary="Training job logs", response_class=Response)
async def read_logs(
    workspace: Workspace,
    job_id: JobId,
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    follow: Annotated[bool, Query(description="Send lines as server-sent events, as they come")] = False,
    cursor: Annotated[str | None, Query(max_length=40, description="Follow from the event with this id on")] = None,
) -> Response:
    """This route retrieves logs associated with a particular training job."""
    job = (await services.trainings.read(caller.org, workspace, job_id)).job
    paths = await services.files.log_paths(job)
    if follow:
        return log_events(request, services, job, request.headers.get("last-event-id") or cursor)
    return await stored_text(request, services.storage, paths, media_type="text/plain; charset=utf-8")


@router.delete("/{workspace}/{job_id}/", summary="Kill a training job", response_model=JobOut)
@router.delete("/{workspace}/{job_id}", summary="Kill a training job", response_model=JobOut)
async def kill_job(workspace: Workspace, job_id: JobId, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """Allows to kill building and running training jobs, and those that wait"""
    return JSONResponse(job_out(await services.trainings.kill(caller.org, workspace, job_id)))
