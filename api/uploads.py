"""The upload of a data set, as every dialect offers it: one archive in the field `file`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import Request

from ..schemas.errors import YardError
from .multipart import FIELD, Body, receive_file
from .services.container import Services
from .settings import ApiSettings

#: What OpenAPI has to say about the body.
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


async def receive_upload(
    request: Request, services: Services, settings: ApiSettings, org: str, dataset_id: UUID
) -> None:
    """Add the files of an archive to a data set; after an error nothing of it is left."""
    body = Body(request)
    try:
        async with services.uploads.receiving(org, dataset_id, body.declared_bytes) as upload:
            await receive_file(body, upload.archive, settings.upload_max_bytes)
            await services.uploads.merge(upload)
    except YardError:
        await body.drain()
        raise
