"""Jobs, their code and what they used."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from ....schemas.errors import InvalidInput, YardError
from ...answers import answers
from ...body import documented, json_body
from ...deps import ServicesDep, SettingsDep
from ...multipart import Body as UploadBody
from ...multipart import receive_body
from ...services.commands.measures import UNITS, Measure
from ...services.paging import SIZE_MAX, Page
from .access import CallerDep, enter_org
from .answers import CodeReceived, DocumentJob, Job, Listed, ListedJob, Metrics
from .schemas import JobIn
from .translate import command_asked, job_document, job_out, list_out, states_asked, time_out

router = APIRouter(tags=["TRAINWAVE JOBS"])

_INT32_MAX = 2**31 - 1

Limit = Annotated[int, Query(ge=1, le=SIZE_MAX, description="Number of results per page")]
Offset = Annotated[int, Query(ge=0, le=_INT32_MAX, description="Pagination offset")]
Said = Annotated[str | None, Query(max_length=500)]


@router.get("/jobs/", summary="List Jobs", responses=answers(Listed[ListedJob, DocumentJob]))
async def list_jobs(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    org: Said = None,
    org_id: Said = None,
    project: Said = None,
    status: Said = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> JSONResponse:
    """Returns a page of the jobs that run commands, newest first"""
    name = enter_org(caller, org or org_id)
    found, total = await services.commands.read_list(
        name, Page(skip=offset, size=limit), project=project or None, states=states_asked(status)
    )
    prices, base = services.usage.prices, str(request.base_url)
    items = [job_out(one, prices, base) for one in found]
    for item in items:  # in a list only the list itself is said twice
        del item["success"], item["data"]
    documents = [job_document(one, prices) for one in found]
    return JSONResponse(list_out(request, items, documents, total, limit=limit, offset=offset))


@router.post(
    "/jobs/", status_code=201, summary="Create Job", openapi_extra=documented(JobIn), responses=answers(Job, 201)
)
async def create_job(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    body: Annotated[JobIn, Depends(json_body(JobIn))],
) -> JSONResponse:
    """Starts a command; with `config`, when its code was sent to `upload_url`"""
    found, ticket = await services.commands.create(caller, command_asked(body))
    base = str(request.base_url)
    upload_url = f"{base}api/v1/code/{ticket}" if ticket is not None else None
    return JSONResponse(job_out(found, services.usage.prices, base, upload_url), 201)


@router.put("/code/{ticket}", summary="Send the code of a Job", responses=answers(CodeReceived))
async def upload_code(ticket: str, request: Request, services: ServicesDep, settings: SettingsDep) -> JSONResponse:
    """Takes a tar.gz as the body; the address itself is the permission, for this one job and for a day"""
    body = UploadBody(request)
    try:
        async with services.code.receiving(ticket, body.declared_bytes) as receipt:
            await receive_body(body, receipt.archive, settings.upload_max_bytes)
            size_bytes = await services.code.keep(receipt)
    except YardError:
        await body.drain()
        raise
    return JSONResponse({"success": True, "data": {"size_bytes": size_bytes}})


@router.post("/jobs/{job_id}/code_submission/", summary="Start a Job whose code was sent", responses=answers(Job))
async def submit_code(job_id: str, request: Request, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """Returns the job, which starts as soon as a worker has room for it"""
    found = await services.commands.submit_code(caller.org, job_id)
    return JSONResponse(job_out(found, services.usage.prices, str(request.base_url)))


@router.post("/jobs/{job_id}/stop/", summary="Stop Job", responses=answers(Job))
@router.post("/jobs/{job_id}/cancel/", summary="Stop Job", responses=answers(Job))
async def stop_job(job_id: str, request: Request, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """Asks for the end of the job: SIGTERM first, SIGKILL after a while"""
    found = await services.commands.cancel(caller.org, job_id)
    return JSONResponse(job_out(found, services.usage.prices, str(request.base_url)))


@router.get("/jobs/{job_id}/", summary="Get Job Details", responses=answers(Job))
async def get_job(job_id: str, request: Request, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """Returns the job"""
    found = await services.commands.find(caller.org, job_id)
    return JSONResponse(job_out(found, services.usage.prices, str(request.base_url)))


@router.get("/metrics/{metric_name}/", summary="Get Job Metrics", responses=answers(Metrics))
async def get_metrics(
    metric_name: str,
    caller: CallerDep,
    services: ServicesDep,
    job_id: Annotated[str, Query(max_length=100, description="Job ID")],
) -> JSONResponse:
    """Returns what the command used over time; a sample every few seconds"""
    try:
        measure = Measure(metric_name)
    except ValueError as error:
        raise InvalidInput(f"metric_name: it is none of {', '.join(Measure)}.") from error
    found = await services.commands.find(caller.org, job_id)
    points = await services.measures.read(found.job, measure)
    shown = {
        "metric": measure,
        "job_id": job_id,
        "unit": UNITS[measure],
        "points": [{"timestamp": time_out(point.at), "value": point.value} for point in points],
    }
    return JSONResponse({**shown, "success": True, "data": shown})
