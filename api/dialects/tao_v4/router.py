"""Routes of the document. They translate; services decide."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from ...deps import enter_user
from . import datasets, jobs, login, models, specs

router = APIRouter(prefix="/api/v1")
router.include_router(login.router)
for _part in (jobs.router, specs.router, datasets.router, models.router):
    router.include_router(_part, prefix="/user/{user_id}", dependencies=[Depends(enter_user)])
