"""What an org has used, and what that costs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from ....schemas.errors import InvalidInput
from ...answers import answers
from ...deps import ScopeDep, ServicesDep
from ..tao_results import time_out
from .answers import UsageReport
from .translate import use_out

router = APIRouter(prefix="/usage", tags=["USAGE"])


@router.get("", summary="Sum up what the org has used", responses=answers(UsageReport))
async def read_usage(
    scope: ScopeDep,
    services: ServicesDep,
    since: Annotated[str | None, Query(alias="from", max_length=40, description="First moment, ISO 8601")] = None,
    until: Annotated[str | None, Query(alias="to", max_length=40, description="Moment after the last")] = None,
) -> JSONResponse:
    """Returns attempts, hours and costs of the org and of each experiment; deleted jobs count"""
    first, last = _moment("from", since), _moment("to", until)
    report = await services.usage.report(scope.org, first, last)
    return JSONResponse(
        {
            "from": time_out(first) if first is not None else None,
            "to": time_out(last) if last is not None else None,
            "jobs": report.jobs,
            **use_out(report.total, report.currency, report.storage_bytes),
            "lines": [
                {
                    **({"experiment_id": str(line.experiment_id)} if line.experiment_id else {}),
                    **({"dataset_id": str(line.dataset_id)} if line.dataset_id else {}),
                    "name": line.name,
                    "jobs": len(line.jobs),
                    **use_out(line.use, report.currency),
                }
                for line in report.lines
            ],
        }
    )


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{name}: it is no ISO 8601 date or time.", hint="For example 2026-11-01.") from error
