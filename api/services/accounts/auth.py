"""API keys and what they are exchanged for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from sqlalchemy import ColumnElement, or_, select, update

from ....schemas.errors import InvalidInput, NotAuthenticated, NotFound
from ...auth import Grant, Tokens
from ...catalog import Catalog
from ...catalog.models import ApiKey, Membership, Org, User, utc_now
from .rates import Budget, refuse

T = TypeVar("T")

RELEASES = ("4.0", "5.0", "5.2", "5.3", "5.5", "6.0")
_MARK = "ty-"
_PREFIX_CHARS = 11
_ORG = re.compile(r"[a-zA-Z0-9]{1,255}")
_USER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._@+-]{0,254}")
_LAST_USED_STEP = timedelta(minutes=1)
_OVERLAP_MAX = timedelta(days=31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sends a request."""

    user_id: UUID
    user: str
    org: str
    release: tuple[int, int]
    """API release that the caller's key was made for."""


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


class AuthService:
    def __init__(self, catalog: Catalog, tokens: Tokens, budget: Budget) -> None:
        self._catalog = catalog
        self._tokens = tokens
        self._budget = budget

    async def login(self, key: str) -> tuple[UUID, str]:
        """Return the user id of the key's holder and a fresh token.

        Raises:
            NotAuthenticated: unknown or revoked key.
        """
        key_id, caller = await self._holder(key, True)
        return caller.user_id, self._tokens.issue(Grant(user_id=caller.user_id, org=caller.org, key_id=key_id))

    async def authenticate_key(self, key: str, *, counted: bool = True) -> Caller:
        """Return who an API key belongs to; not `counted` when it is looked at again within one request.

        Raises:
            NotAuthenticated: unknown or revoked key.
            TooManyRequests: as `admit`.
        """
        _, caller = await self._holder(key, counted)
        return caller

    async def issue_key(self, org: str, user_id: UUID, release: str = "5.3") -> str:
        """Make another key for a member of an org, for a program that acts for them, and return it.

        Raises:
            NotFound: no such member.
        """
        key, row = _new_key(org, user_id, release)
        async with self._catalog.writing() as session:
            if await session.get(Membership, (org, user_id)) is None:
                raise NotFound("The user is no member of the org.")
            session.add(row)
        return key

    def admit(self, org: str, user_id: UUID) -> None:
        """Count a request of somebody who has shown who they are.

        Raises:
            TooManyRequests: there were too many lately.
        """
        who = (org, user_id)
        if (wait_s := self._budget.wait_s(who)) > 0:
            raise refuse(wait_s)
        self._budget.spend(who)

    async def _holder(self, key: str, counted: bool) -> tuple[UUID, Caller]:
        digest = _hash(key)
        now = utc_now()
        async with self._catalog.reading() as session:
            candidates = await session.execute(
                select(ApiKey, User.name)
                .join(User, User.id == ApiKey.user_id)
                .join(Membership, (Membership.user_id == ApiKey.user_id) & (Membership.org == ApiKey.org))
                .where(ApiKey.prefix == key[:_PREFIX_CHARS], _is_active(now))
            )
            # every candidate is compared, in constant time, so that the answer tells nothing about a near miss
            match = None
            for candidate in candidates:
                if hmac.compare_digest(candidate[0].sha256, digest):
                    match = candidate
        if match is None:
            raise NotAuthenticated(
                "The API key is not valid.", hint="Ask for one: `trainyard keys create --org ORG --user USER`."
            )
        row, user = match
        if counted:
            self.admit(row.org, row.user_id)
        if row.last_used_at is None or now - row.last_used_at > _LAST_USED_STEP:
            async with self._catalog.writing() as session:
                await session.execute(update(ApiKey).where(ApiKey.id == row.id).values(last_used_at=now))
        return row.id, Caller(user_id=row.user_id, user=user, org=row.org, release=_release(row.release))

    async def authenticate(self, token: str, *, counted: bool = True) -> Caller:
        """Return who a token belongs to; not `counted` when it is looked at again within one request.

        Raises:
            NotAuthenticated: bad token, or its key was revoked or is not the user's any more.
            TooManyRequests: as `admit`.
        """
        grant = self._tokens.verify(token)
        if counted:
            self.admit(grant.org, grant.user_id)
        async with self._catalog.reading() as session:
            row = (
                await session.execute(
                    select(ApiKey.release, User.name)
                    .join(User, User.id == ApiKey.user_id)
                    .join(Membership, (Membership.user_id == ApiKey.user_id) & (Membership.org == ApiKey.org))
                    .where(
                        ApiKey.id == grant.key_id,
                        ApiKey.user_id == grant.user_id,
                        ApiKey.org == grant.org,
                        _is_active(utc_now()),
                    )
                )
            ).one_or_none()
        if row is None:
            raise NotAuthenticated("The API key behind the token was revoked.")
        return Caller(user_id=grant.user_id, user=row.name, org=grant.org, release=_release(row.release))


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
    key, row = _new_key(org, user_id, release)

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

    _with_catalog(database_url, run)
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

    return _with_catalog(database_url, run)


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

    _with_catalog(database_url, run)
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
    new, row = _new_key(info.org, user_id_of(info.user), info.release)

    async def run(catalog: Catalog) -> None:
        end = utc_now() + overlap
        async with catalog.writing() as session:
            session.add(row)
            old = await session.get_one(ApiKey, info.id)
            old.revoked_at = end if old.revoked_at is None else min(end, old.revoked_at)

    _with_catalog(database_url, run)
    return new


def _find_key(database_url: str, key: str) -> KeyInfo:
    matches = [
        info
        for info in list_keys(database_url)
        if info.active and (str(info.id) == key or (len(key) >= 4 and key[:_PREFIX_CHARS] == info.prefix))
    ]
    if not matches:
        raise NotFound(f"There is no active key {key[:_PREFIX_CHARS]}….", hint="`trainyard keys list` shows all keys.")
    if len(matches) > 1:
        raise InvalidInput(f"{len(matches)} keys begin with {key[:_PREFIX_CHARS]}.", hint="Name the key by its id.")
    return matches[0]


def _new_key(org: str, user_id: UUID, release: str) -> tuple[str, ApiKey]:
    key = _MARK + secrets.token_urlsafe(32)
    prefix, sha256 = key[:_PREFIX_CHARS], _hash(key)
    return key, ApiKey(id=uuid4(), org=org, user_id=user_id, prefix=prefix, sha256=sha256, release=release)


def _is_active(now: datetime) -> ColumnElement[bool]:
    return or_(ApiKey.revoked_at.is_(None), ApiKey.revoked_at > now)


def _release(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _with_catalog(database_url: str, work: Callable[[Catalog], Awaitable[T]]) -> T:
    async def run() -> T:
        catalog = Catalog(database_url)
        try:
            return await work(catalog)
        finally:
            await catalog.close()

    return asyncio.run(run())


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
