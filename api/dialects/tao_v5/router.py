"""Routes of the document. They translate; services decide."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from ...deps import enter_org, enter_user
from . import datasets, experiments, jobs, login, roots, usage, workspaces

router = APIRouter(prefix="/api/v1")
router.include_router(login.router)
for _prefix, _enter in (("/orgs/{org_name}", enter_org), ("/users/{user_id}", enter_user)):
    # the order counts: `jobs/{job_id}:download` would also match `jobs/{job_id}`
    for _part in (jobs.router, datasets.router, experiments.router, workspaces.router, usage.router, roots.router):
        router.include_router(_part, prefix=_prefix, dependencies=[Depends(_enter)])
