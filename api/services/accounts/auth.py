"""Who sends a request: API keys and what they are exchanged for."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, bindparam, or_, select, update

from ....schemas.errors import NotAuthenticated, NotFound
from ...auth import Grant, Tokens
from ...catalog import Catalog
from ...catalog.models import ApiKey, Membership, User, utc_now
from .keys import PREFIX_CHARS, hash_of, new_key
from .rates import Budget, refuse

_LAST_USED_STEP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sends a request."""

    user_id: UUID
    user: str
    org: str
    release: tuple[int, int]
    """API release that the caller's key was made for."""


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
        key, row = new_key(org, user_id, release)
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
        digest = hash_of(key)
        now = utc_now()
        async with self._catalog.reading() as session:
            candidates = await session.execute(
                select(ApiKey, User.name)
                .join(User, User.id == ApiKey.user_id)
                .join(Membership, (Membership.user_id == ApiKey.user_id) & (Membership.org == ApiKey.org))
                .where(ApiKey.prefix == key[:PREFIX_CHARS], _is_active(now))
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
            held = {"key": grant.key_id, "user": grant.user_id, "org": grant.org, "now": utc_now()}
            row = (await session.execute(_HELD, held)).one_or_none()
        if row is None:
            raise NotAuthenticated("The API key behind the token was revoked.")
        return Caller(user_id=grant.user_id, user=row.name, org=grant.org, release=_release(row.release))


def _is_active(now: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    return or_(ApiKey.revoked_at.is_(None), ApiKey.revoked_at > now)


def _release(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


#: Whether a key is still what a token says of it. Sent with every request, so it is put together once.
_HELD = (
    select(ApiKey.release, User.name)
    .join(User, User.id == ApiKey.user_id)
    .join(Membership, (Membership.user_id == ApiKey.user_id) & (Membership.org == ApiKey.org))
    .where(
        ApiKey.id == bindparam("key"),
        ApiKey.user_id == bindparam("user"),
        ApiKey.org == bindparam("org"),
        _is_active(bindparam("now")),
    )
)
