"""The API document `nvidia-transfer-learning-api-5.3.0`, under /orgs/{org_name} and /users/{user_id}."""

from __future__ import annotations

from .router import router

__all__ = ["router"]
