"""The `x-ncp-` headers that sign a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader

from ....schemas.errors import NotAuthenticated
from ...deps import ServicesDep, SettingsDep
from ...services.accounts.auth import Caller
from ...services.accounts.signing import SignedRequest

_timestamp = APIKeyHeader(
    name="x-ncp-apigw-timestamp",
    scheme_name="Timestamp",
    description="Milliseconds since 1970, within five minutes of the clock of the server.",
    auto_error=False,
)
_access_key = APIKeyHeader(
    name="x-ncp-iam-access-key",
    scheme_name="AccessKey",
    description="Access key, as `trainyard signing-keys create` prints it.",
    auto_error=False,
)
_signature = APIKeyHeader(
    name="x-ncp-apigw-signature-v2",
    scheme_name="Signature",
    description="Base64 of HMAC-SHA256 over `METHOD URI`, the time stamp and the access key, each on its own line.",
    auto_error=False,
)


async def read_signer(
    request: Request,
    services: ServicesDep,
    settings: SettingsDep,
    timestamp: Annotated[str | None, Security(_timestamp)],
    access_key: Annotated[str | None, Security(_access_key)],
    signature: Annotated[str | None, Security(_signature)],
) -> Caller:
    """Return who has signed the request; there is no other way in."""
    if timestamp is None or access_key is None or signature is None:
        raise NotAuthenticated(
            "The request is not signed.",
            hint="Send x-ncp-apigw-timestamp, x-ncp-iam-access-key and x-ncp-apigw-signature-v2.",
        )
    # why raw: the client has signed what it sent, not what it stands for.
    target = request.scope["raw_path"].decode("latin-1").partition("?")[0]
    if query := request.scope["query_string"].decode("latin-1"):
        target = f"{target}?{query}"
    caller = await services.signing.authenticate(
        SignedRequest(
            method=request.method,
            targets=[target, f"{settings.root_path}{target}"] if settings.root_path else [target],
            timestamp=timestamp,
            access_key=access_key,
            signature=signature,
        )
    )
    services.auth.admit(caller.org, caller.user_id)
    return caller


SignerDep = Annotated[Caller, Depends(read_signer)]
