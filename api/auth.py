"""Tokens: JWT by RFC 8725, one algorithm, every claim checked."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from ..schemas.errors import NotAuthenticated

logger = logging.getLogger(__name__)

ALGORITHM = "HS256"
ISSUER = "trainyard"
AUDIENCE = "trainyard-api"
TYPE = "at+jwt"
KEY_BYTES = 32
SKEW_S = 60
LIFETIME_MAX_S = 86_400
_TOKEN_MAX_CHARS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token says: who, for which org, by which API key."""

    user_id: UUID
    org: str
    key_id: UUID


class Tokens:
    """Issues and checks tokens with one key."""

    def __init__(self, key: bytes, lifetime_s: int = LIFETIME_MAX_S, now: Callable[[], float] = time.time) -> None:
        if len(key) < KEY_BYTES:
            raise ValueError(f"The key that signs tokens needs {KEY_BYTES} bytes, this one has {len(key)}.")
        if not 0 < lifetime_s <= LIFETIME_MAX_S:
            raise ValueError(f"A token lives at most {LIFETIME_MAX_S} seconds.")
        self._key = OctKey.import_key(key)
        self._lifetime_s = lifetime_s
        self._now = now

    def issue(self, grant: Grant) -> str:
        now = int(self._now())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(grant.user_id),
            "org": grant.org,
            "key": str(grant.key_id),
            "iat": now,
            "nbf": now,
            "exp": now + self._lifetime_s,
            "jti": str(uuid4()),
        }
        return jwt.encode({"alg": ALGORITHM, "typ": TYPE}, claims, self._key, algorithms=[ALGORITHM])

    def verify(self, token: str) -> Grant:
        """Return what a token grants.

        Raises:
            NotAuthenticated: the same words for every fault of the token but its age.
        """
        if len(token) > _TOKEN_MAX_CHARS:
            raise _refused()
        try:
            decoded = jwt.decode(token, self._key, algorithms=[ALGORITHM])
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # the parser meets whatever a stranger sends; no failure of it is worth more than "refused"
            raise _refused() from error
        header, claims = decoded.header, decoded.claims
        if set(header) - {"alg", "typ", "kid"} or header.get("typ") != TYPE or header.get("alg") != ALGORITHM:
            raise _refused()
        if claims.get("iss") != ISSUER or claims.get("aud") != AUDIENCE:
            raise _refused()
        issued, not_before, expires = (_moment(claims.get(name)) for name in ("iat", "nbf", "exp"))
        now = self._now()
        if issued > now + SKEW_S or not_before > now + SKEW_S or not 0 < expires - issued <= LIFETIME_MAX_S:
            raise _refused()
        if expires <= now - SKEW_S:
            raise NotAuthenticated("The token has expired.")
        subject, org, key = (claims.get(name) for name in ("sub", "org", "key"))
        if not isinstance(org, str) or not org or not isinstance(claims.get("jti"), str):
            raise _refused()
        return Grant(user_id=_uuid(subject), org=org, key_id=_uuid(key))


def load_key(path: Path) -> bytes:
    """Return the key that signs tokens; the first call makes it, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) < KEY_BYTES or len(set(key)) < 8:
            raise ValueError(
                f"{path} is too short or too regular to sign tokens. Delete it and start again: "
                "a new one is made, and users log in anew."
            ) from None
        if path.stat().st_mode & 0o077:
            logger.warning("Others may read %s: chmod 600 it.", path)
        return key
    with os.fdopen(handle, "wb") as file:
        key = secrets.token_bytes(KEY_BYTES)
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    return key


def _refused() -> NotAuthenticated:
    return NotAuthenticated("The token is not valid.")


def _moment(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 40:
        raise _refused()
    return value


def _uuid(value: object) -> UUID:
    if not isinstance(value, str) or len(value) != 36:
        raise _refused()
    try:
        return UUID(value)
    except ValueError:
        raise _refused() from None
