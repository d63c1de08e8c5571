"""What can be asked without a data set or an experiment."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from ...answers import answers
from ...deps import ScopeDep
from ...services.experiments.specs import any_kind, read_schema

router = APIRouter(tags=["EXPERIMENT"])


@router.get("", summary="List what there is below this address", responses=answers(list[str]))
async def read_root(scope: ScopeDep) -> JSONResponse:
    return JSONResponse(["dataset", "experiment"])


@router.get("/specs/{action}/schema", summary="Retrieve Specs schema of a network", responses=answers(dict[str, Any]))
async def read_schema_of_network(
    action: str,
    scope: ScopeDep,
    network: Annotated[str | None, Query(max_length=100, description="Network architecture")] = None,
    dataset_type: Annotated[str | None, Query(max_length=100, description="Instead: type of a Dataset")] = None,
) -> JSONResponse:
    """Returns the Specs schema for a given action, without an Experiment"""
    return JSONResponse(read_schema(action, network if network is not None else any_kind(action, dataset_type)))
