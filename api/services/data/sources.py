"""Where the files of a data set are fetched from, as users say it and as the catalog keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import ValidationError

from ....blocks.clouds import Access, CloudType, access_to
from ....schemas.errors import InvalidInput
from ...catalog.clouds import Pull
from ..accounts.secrets import SecretBox

FileType = Literal["file", "folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An address of an archive, or a path in a cloud that `details` or a workspace open."""

    url: str | None = field(default=None, repr=False)
    cloud_type: CloudType | None = None
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    workspace_id: UUID | None = None
    path: str = ""
    file_type: FileType | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    """What a dialect wants to show again, in its own words."""

    @property
    def in_full(self) -> Source:
        """The same source with details as they are kept, so that two of them compare."""
        if self.cloud_type is None:
            return self
        access = self.access()
        return replace(self, details={**access.public(), **access.secret()})

    def access(self) -> Access:
        """Return what opens the cloud of `details`."""
        assert self.cloud_type is not None
        return parse_access(self.cloud_type, self.details)


def parse_access(cloud_type: CloudType, details: Mapping[str, Any]) -> Access:
    """Return what opens a cloud; `InvalidInput` names what is missing, and never what was given."""
    try:
        return access_to(cloud_type, details)
    except ValidationError as error:
        problems = [
            f"cloud_specific_details.{'.'.join(map(str, p['loc'])) or cloud_type}: {p['msg']}" for p in error.errors()
        ]
        raise InvalidInput("; ".join(problems[:10]) + ".") from error


def shown_url(url: str) -> str:
    """Return an address without what may be a secret in it: user, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"


def write_source(pull: Pull, source: Source, box: SecretBox) -> None:
    """Write a source into its row, secrets encrypted."""
    secret: dict[str, Any] = {}
    details: dict[str, Any] = {}
    if source.url is not None:
        secret["url"] = source.url
    if source.cloud_type is not None:
        access = source.access()
        details, secret["details"] = access.public(), access.secret()
    pull.workspace_id = source.workspace_id
    pull.source = {
        "url": shown_url(source.url) if source.url is not None else None,
        "cloud_type": source.cloud_type,
        "details": details,
        "path": source.path,
        "file_type": source.file_type,
        "labels": dict(source.labels),
    }
    pull.secret = box.encrypt(json.dumps(secret)) if secret else None


def read_source(pull: Pull, box: SecretBox) -> Source:
    """Return the source of a row, secrets and all."""
    secret = json.loads(box.decrypt(pull.secret)) if pull.secret is not None else {}
    kept = pull.source
    return Source(
        url=secret.get("url"),
        cloud_type=kept["cloud_type"],
        details={**kept["details"], **secret.get("details", {})},
        workspace_id=pull.workspace_id,
        path=kept["path"],
        file_type=kept["file_type"],
        labels=kept["labels"],
    )
