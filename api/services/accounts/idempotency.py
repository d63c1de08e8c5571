"""What a client marks with a key is done once, however often it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4, uuid5

from sqlalchemy import ColumnElement, CursorResult, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from ....schemas.errors import KeyReused
from ...catalog import Catalog
from ...catalog.models import IdempotencyKey, utc_now

#: So long a key is remembered at least.
LIFETIME = timedelta(hours=48)
#: A try that has not said for so long that it is at work has died; `EXTEND_S` is how often it says so.
LOCK = timedelta(seconds=20)
EXTEND_S = 5.0


@dataclass(slots=True)
class _Request:
    id: UUID
    made: Counter[str] = field(default_factory=Counter)


_request: ContextVar[_Request | None] = ContextVar("trainyard_request", default=None)


@contextmanager
def once(claim_id: UUID) -> Iterator[None]:
    """Let everything that is made inside the block have ids that follow from `claim_id`."""
    token = _request.set(_Request(claim_id))
    try:
        yield
    finally:
        _request.reset(token)


def new_id(kind: str) -> UUID:
    """Return the id for a new thing; another try of the same request gets the same ids in the same order.

    Whoever makes something under it has to expect that an earlier try has made it.
    """
    request = _request.get()
    if request is None:
        return uuid4()
    request.made[kind] += 1
    return uuid5(request.id, f"{kind}:{request.made[kind]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on a request, and the id that all its tries share."""

    id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an earlier try was answered."""

    status_code: int
    media_type: str
    body: bytes


class IdempotencyKeys:
    """The keys that requests came with, per org and user."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def claim(self, org: str, user_id: UUID, key: str, fingerprint: str) -> Claim | Answer | None:
        """Return the right to work on the request, or its answer; None while another try is at work.

        Raises:
            KeyReused: the key came with another request before.
        """
        query = select(IdempotencyKey).where(
            IdempotencyKey.org == org, IdempotencyKey.user_id == user_id, IdempotencyKey.key == key
        )
        async with self._catalog.reading() as session:
            row = await session.scalar(query)
        if row is None:
            row = IdempotencyKey(
                id=uuid4(), org=org, user_id=user_id, key=key, fingerprint=fingerprint, locked_until=utc_now() + LOCK
            )
            try:
                async with self._catalog.writing() as session:
                    session.add(row)
                return Claim(id=row.id)
            except IntegrityError:  # another try was faster
                return None
        if row.fingerprint != fingerprint:
            raise KeyReused("Idempotency-Key: the key was sent with another request before.")
        if row.status_code is not None:
            return Answer(status_code=row.status_code, media_type=row.media_type or "", body=row.answer or b"")
        if row.locked_until > utc_now():
            return None
        # The try before this one died: its id is taken over, so that what it made is found.
        taken = update(IdempotencyKey).where(
            IdempotencyKey.id == row.id,
            IdempotencyKey.locked_until == row.locked_until,
            IdempotencyKey.status_code.is_(None),
        )
        async with self._catalog.writing() as session:
            result = await session.execute(taken.values(locked_until=utc_now() + LOCK))
            assert isinstance(result, CursorResult)
            return Claim(id=row.id) if result.rowcount else None

    async def extend(self, claim: Claim) -> None:
        """Say that the request is still being worked on."""
        await self._set(claim, locked_until=utc_now() + LOCK)

    async def store(self, claim: Claim, answer: Answer) -> None:
        """Keep the answer for all tries to come."""
        await self._set(claim, status_code=answer.status_code, media_type=answer.media_type, answer=answer.body)

    async def release(self, claim: Claim) -> None:
        """Let the next try work on the request, under the same id: this one may have made something."""
        await self._set(claim, locked_until=utc_now())

    async def forget(self, claim: Claim) -> None:
        """Give the key back: nothing was made."""
        async with self._catalog.writing() as session:
            await session.execute(
                delete(IdempotencyKey).where(IdempotencyKey.id == claim.id, IdempotencyKey.status_code.is_(None))
            )

    async def expired(self) -> int:
        """Return how many keys are older than they have to become."""
        async with self._catalog.reading() as session:
            return await session.scalar(select(func.count()).select_from(IdempotencyKey).where(self._old())) or 0

    async def expire(self) -> None:
        """Forget keys that are older than they have to become."""
        async with self._catalog.writing() as session:
            await session.execute(delete(IdempotencyKey).where(self._old()))

    @staticmethod
    def _old() -> ColumnElement[bool]:
        now = utc_now()
        return (IdempotencyKey.created_at < now - LIFETIME) & (IdempotencyKey.locked_until < now)

    async def _set(self, claim: Claim, **values: object) -> None:
        async with self._catalog.writing() as session:
            await session.execute(update(IdempotencyKey).where(IdempotencyKey.id == claim.id).values(**values))
