"""Requests that are signed with HMAC instead of carrying a token: the scheme of the `x-ncp-` headers, version 2."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from ....schemas.errors import InvalidInput, NotAuthenticated, NotFound
from ...catalog import Catalog, with_catalog
from ...catalog.models import Membership, User, utc_now
from ...catalog.signing import SigningKey, UsedSignature
from .auth import Caller
from .keys import user_id_of
from .secrets import SecretBox

#: A request whose time stamp is further away than this is refused; so long its signature is remembered.
WINDOW = timedelta(minutes=5)
_ACCESS_KEY = re.compile(r"[A-Za-z0-9]{20}")
_TIMESTAMP = re.compile(r"[0-9]{13}")
_ACCESS_KEY_CHARS = 20
_SIGNATURE_BYTES = hashlib.sha256().digest_size
_LAST_USED_STEP = timedelta(minutes=1)
#: What a signature for an unknown key is compared with, so that it takes as long as any other.
_NOBODYS_SECRET = secrets.token_urlsafe(30)
#: The release that callers with a signing key speak: nothing differs by it where they can go.
_RELEASE = (5, 3)
_HINT = (
    "Sign `METHOD URI`, the time stamp and the access key, each on a line of its own, with HMAC-SHA256 and the secret "
    "key, and send the signature in Base64."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """What a signature is checked against."""

    method: str
    targets: Sequence[str]
    """Path and query as they were sent; several where a proxy may have taken something off the path."""
    timestamp: str
    access_key: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyInfo:
    """What may be shown of a signing key."""

    access_key: str
    org: str
    user: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def sign(secret: str, method: str, target: str, timestamp: str, access_key: str) -> str:
    """Return the signature of a request."""
    message = f"{method} {target}\n{timestamp}\n{access_key}".encode()
    return base64.b64encode(hmac.digest(secret.encode(), message, "sha256")).decode()


class SigningService:
    def __init__(self, catalog: Catalog, box: SecretBox, now: Callable[[], datetime] = utc_now) -> None:
        self._catalog = catalog
        self._box = box
        self._now = now

    async def authenticate(self, request: SignedRequest) -> Caller:
        """Return who has signed a request. Each signature counts once.

        Raises:
            NotAuthenticated: unknown or revoked key, wrong signature, a time stamp out of the window, or a replay.
        """
        now = self._now()
        stamped_at = _stamped_at(request.timestamp)
        if stamped_at is None or abs(now - stamped_at) > WINDOW:
            raise NotAuthenticated(
                "The time stamp is not within five minutes of the clock here.",
                hint="Send milliseconds since 1970 in x-ncp-apigw-timestamp, and set the clock.",
            )
        key, user = await self._find(request.access_key)
        secret = self._box.decrypt(key.secret) if key is not None else _NOBODYS_SECRET
        signature = _decoded(request.signature)
        matches = [
            hmac.compare_digest(
                base64.b64decode(sign(secret, request.method, target, request.timestamp, request.access_key)), signature
            )
            for target in request.targets
        ]
        if key is None or not any(matches):
            raise NotAuthenticated("The access key or the signature is not valid.", hint=_HINT)
        await self._use_up(key, signature, now, stamped_at)
        return Caller(user_id=key.user_id, user=user, org=key.org, release=_RELEASE)

    async def _find(self, access_key: str) -> tuple[SigningKey | None, str]:
        if not _ACCESS_KEY.fullmatch(access_key):
            return None, ""
        query = (
            select(SigningKey, User.name)
            .join(User, User.id == SigningKey.user_id)
            .join(Membership, (Membership.user_id == SigningKey.user_id) & (Membership.org == SigningKey.org))
            .where(SigningKey.access_key == access_key, SigningKey.revoked_at.is_(None))
        )
        async with self._catalog.reading() as session:
            row = (await session.execute(query)).one_or_none()
        return (row[0], row[1]) if row is not None else (None, "")

    async def _use_up(self, key: SigningKey, signature: bytes, now: datetime, stamped_at: datetime) -> None:
        digest = hashlib.sha256(key.access_key.encode() + signature).hexdigest()
        try:
            async with self._catalog.writing() as session:
                await session.execute(delete(UsedSignature).where(UsedSignature.expires_at < now))
                session.add(UsedSignature(digest=digest, expires_at=stamped_at + WINDOW))
                if key.last_used_at is None or now - key.last_used_at > _LAST_USED_STEP:
                    await session.execute(update(SigningKey).where(SigningKey.id == key.id).values(last_used_at=now))
        except IntegrityError as error:
            raise NotAuthenticated(
                "This signature was used before.", hint="Sign every request anew, with the time of that moment."
            ) from error


def create_signing_key(database_url: str, secrets_key_file: Path, org: str, user: str) -> tuple[str, str]:
    """Make a pair of keys for a member of an org, and return access key and secret key: nobody can read it again.

    Raises:
        NotFound: the user is no member of the org; an API key makes one.
    """
    alphabet = string.ascii_letters + string.digits
    access_key = "".join(secrets.choice(alphabet) for _ in range(_ACCESS_KEY_CHARS))
    secret = secrets.token_urlsafe(30)
    encrypted = SecretBox(secrets_key_file).encrypt(secret)

    async def run(catalog: Catalog) -> None:
        await catalog.upgrade()
        user_id = user_id_of(user)
        async with catalog.writing() as session:
            if await session.get(Membership, (org, user_id)) is None:
                raise NotFound(
                    f"{user} is no member of the org {org}.",
                    hint=f"`trainyard keys create --org {org} --user {user}` makes them one.",
                )
            session.add(SigningKey(id=uuid4(), org=org, user_id=user_id, access_key=access_key, secret=encrypted))

    with_catalog(database_url, run)
    return access_key, secret


def list_signing_keys(database_url: str) -> list[SigningKeyInfo]:
    """Return all signing keys, oldest first."""

    async def run(catalog: Catalog) -> list[SigningKeyInfo]:
        await catalog.upgrade()
        query = select(SigningKey, User.name).join(User, User.id == SigningKey.user_id).order_by(SigningKey.created_at)
        async with catalog.reading() as session:
            return [
                SigningKeyInfo(
                    access_key=key.access_key,
                    org=key.org,
                    user=user,
                    created_at=key.created_at,
                    last_used_at=key.last_used_at,
                    revoked_at=key.revoked_at,
                )
                for key, user in await session.execute(query)
            ]

    return with_catalog(database_url, run)


def revoke_signing_key(database_url: str, access_key: str) -> None:
    """Refuse what is signed with a key from now on.

    Raises:
        InvalidInput: it cannot be an access key.
        NotFound: no such key, or it is revoked already.
    """
    if not _ACCESS_KEY.fullmatch(access_key):
        raise InvalidInput("An access key has 20 letters and digits.", hint="`trainyard signing-keys list` shows them.")

    async def run(catalog: Catalog) -> UUID | None:
        await catalog.upgrade()
        async with catalog.writing() as session:
            wanted = (SigningKey.access_key == access_key) & SigningKey.revoked_at.is_(None)
            found = await session.scalar(select(SigningKey.id).where(wanted))
            await session.execute(update(SigningKey).where(wanted).values(revoked_at=utc_now()))
            return found

    if with_catalog(database_url, run) is None:
        raise NotFound(
            f"There is no active signing key {access_key}.", hint="`trainyard signing-keys list` shows them."
        )


def _stamped_at(timestamp: str) -> datetime | None:
    if not _TIMESTAMP.fullmatch(timestamp):
        return None
    return datetime.fromtimestamp(int(timestamp) / 1000, UTC)


def _decoded(signature: str) -> bytes:
    """Return the bytes of a signature; none for what is none: Base64 may write the same bytes in several ways."""
    try:
        decoded = base64.b64decode(signature, validate=True)
    except ValueError:
        return b""
    return decoded if len(decoded) == _SIGNATURE_BYTES else b""
