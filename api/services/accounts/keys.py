"""API keys: made, listed, rotated and revoked by whoever runs the yard."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from sqlalchemy import select, update

from ....schemas.errors import InvalidInput, NotFound
from ...catalog import Catalog, with_catalog
from ...catalog.models import ApiKey, Membership, Org, User, utc_now

RELEASES = ("4.0", "5.0", "5.2", "5.3", "5.5", "6.0")
#: How much of a key may be shown, to tell it from others.
PREFIX_CHARS = 11
_MARK = "ty-"
_ORG = re.compile(r"[a-zA-Z0-9]{1,255}")
_USER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._@+-]{0,254}")
_OVERLAP_MAX = timedelta(days=31)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """What may be shown of an API key."""

    id: UUID
    prefix: str
    org: str
    user: str
    release: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    """From when on it is refused. It lies ahead for a key that was replaced and may be used a little longer."""

    @property
    def active(self) -> bool:
        return self.revoked_at is None or self.revoked_at > utc_now()


def user_id_of(user: str) -> UUID:
    """Return the id of a user: the same in every yard."""
    return uuid5(NAMESPACE_URL, f"trainyard:user:{user}")


def create_key(database_url: str, org: str, user: str, release: str = "5.3") -> str:
    """Make a key for `user` of `org`, both made when they are new, and return it: nobody can read it again.

    `release` is the API release that the holder's client speaks.
    """
    if not _ORG.fullmatch(org):
        raise InvalidInput(f"{org!r} cannot be the name of an org.", hint="Use 1 to 255 letters and digits.")
    if not _USER.fullmatch(user):
        raise InvalidInput(f"{user!r} cannot be a user name.", hint="Use letters, digits and . _ @ + -")
    if release not in RELEASES:
        raise InvalidInput(f"There is no API release {release!r}.", hint=f"There are {', '.join(RELEASES)}.")
    user_id = user_id_of(user)
    key, row = new_key(org, user_id, release)

    async def run(catalog: Catalog) -> None:
        await catalog.upgrade()
        async with catalog.writing() as session:
            if await session.get(Org, org) is None:
                session.add(Org(name=org))
            if await session.get(User, user_id) is None:
                session.add(User(id=user_id, name=user))
            await session.flush()
            if await session.get(Membership, (org, user_id)) is None:
                session.add(Membership(org=org, user_id=user_id))
            session.add(row)

    with_catalog(database_url, run)
    return key


def list_keys(database_url: str) -> list[KeyInfo]:
    """Return all keys, oldest first."""

    async def run(catalog: Catalog) -> list[KeyInfo]:
        await catalog.upgrade()
        async with catalog.reading() as session:
            rows = await session.execute(
                select(ApiKey, User.name).join(User, User.id == ApiKey.user_id).order_by(ApiKey.created_at)
            )
            return [
                KeyInfo(
                    id=key.id,
                    prefix=key.prefix,
                    org=key.org,
                    user=user,
                    release=key.release,
                    created_at=key.created_at,
                    last_used_at=key.last_used_at,
                    revoked_at=key.revoked_at,
                )
                for key, user in rows
            ]

    return with_catalog(database_url, run)


def revoke_key(database_url: str, key: str) -> KeyInfo:
    """Revoke the key with this id, prefix or full text; its tokens end with it.

    Raises:
        NotFound: no such key, or it is revoked already.
        InvalidInput: several keys begin so.
    """
    info = _find_key(database_url, key)

    async def run(catalog: Catalog) -> None:
        async with catalog.writing() as session:
            await session.execute(update(ApiKey).where(ApiKey.id == info.id).values(revoked_at=utc_now()))

    with_catalog(database_url, run)
    return info


def rotate_key(database_url: str, key: str, overlap: timedelta = timedelta(0)) -> str:
    """Return a new key for the holder of the key with this id, prefix or full text.

    The old key and its tokens work for `overlap` longer, so that programs can change over one after the other.

    Raises:
        NotFound: no such key, or it is revoked already.
        InvalidInput: several keys begin so, or the overlap is longer than a month.
    """
    if not timedelta(0) <= overlap <= _OVERLAP_MAX:
        raise InvalidInput(f"The overlap is not 0 to {_OVERLAP_MAX.days} days.")
    info = _find_key(database_url, key)
    new, row = new_key(info.org, user_id_of(info.user), info.release)

    async def run(catalog: Catalog) -> None:
        end = utc_now() + overlap
        async with catalog.writing() as session:
            session.add(row)
            old = await session.get_one(ApiKey, info.id)
            old.revoked_at = end if old.revoked_at is None else min(end, old.revoked_at)

    with_catalog(database_url, run)
    return new


def _find_key(database_url: str, key: str) -> KeyInfo:
    matches = [
        info
        for info in list_keys(database_url)
        if info.active and (str(info.id) == key or (len(key) >= 4 and key[:PREFIX_CHARS] == info.prefix))
    ]
    if not matches:
        raise NotFound(f"There is no active key {key[:PREFIX_CHARS]}….", hint="`trainyard keys list` shows all keys.")
    if len(matches) > 1:
        raise InvalidInput(f"{len(matches)} keys begin with {key[:PREFIX_CHARS]}.", hint="Name the key by its id.")
    return matches[0]


def new_key(org: str, user_id: UUID, release: str) -> tuple[str, ApiKey]:
    """Return a key and the row that knows it again."""
    key = _MARK + secrets.token_urlsafe(32)
    prefix, sha256 = key[:PREFIX_CHARS], hash_of(key)
    return key, ApiKey(id=uuid4(), org=org, user_id=user_id, prefix=prefix, sha256=sha256, release=release)


def hash_of(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
