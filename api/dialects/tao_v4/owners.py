"""What specs and jobs belong to: the model or the data set in the path."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from ...deps import ScopeDep
from ...services.jobs.planning import Owner
from ..tao_v5.jobs import read_owner


async def enter_model(model_id: UUID, request: Request, scope: ScopeDep) -> None:
    request.state.owner = Owner(org=scope.org, experiment_id=model_id)


async def enter_dataset(dataset_id: UUID, request: Request, scope: ScopeDep) -> None:
    request.state.owner = Owner(org=scope.org, dataset_id=dataset_id)


OwnerDep = Annotated[Owner, Depends(read_owner)]

#: Prefix, dependency and tag of the two.
OWNERS = (
    ("/model/{model_id}", enter_model, "TAO 4 MODEL"),
    ("/dataset/{dataset_id}", enter_dataset, "TAO 4 DATASET"),
)
