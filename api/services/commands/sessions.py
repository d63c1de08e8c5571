"""Logins of command lines: the user approves one at a web page, and the command line fetches its key."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select

from ....schemas.errors import Conflict, InvalidInput, NotFound, TooManyRequests
from ...catalog import Catalog
from ...catalog.commands import CliSession
from ...catalog.models import utc_now
from ..accounts.auth import AuthService, Caller
from ..accounts.secrets import SecretBox

#: The command line asks for its key for five minutes, and for a configuration for twenty.
LIFETIMES = {"login": timedelta(minutes=10), "config": timedelta(minutes=25)}
_NAME_MAX = 255
#: Anybody may begin a login, so the number of those that are open has an end.
_OPEN_MAX = 1000


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that has just begun: `token` is for the command line alone, `id` for the page."""

    id: UUID
    token: str


class SessionService:
    def __init__(self, catalog: Catalog, auth: AuthService, box: SecretBox) -> None:
        self._catalog = catalog
        self._auth = auth
        self._box = box

    async def begin(self, kind: str, name: str, caller: Caller | None = None, content: object = None) -> NewSession:
        """Return a new session of a command line on the machine `name`.

        Raises:
            InvalidInput: a name that a page could not show as it is.
            TooManyRequests: too many are open.
        """
        if len(name) > _NAME_MAX or not name.isprintable():
            raise InvalidInput(f"name: it is not {_NAME_MAX} printable characters at most.")
        session_id, token = uuid4(), secrets.token_urlsafe(32)
        async with self._catalog.writing() as session:
            await session.execute(delete(CliSession).where(CliSession.expires_at < utc_now()))
            if (await session.scalar(select(func.count()).select_from(CliSession)) or 0) >= _OPEN_MAX:
                raise TooManyRequests("Too many logins are open.", hint="Try again in ten minutes.")
            session.add(
                CliSession(
                    id=session_id,
                    token_sha256=_hash(token),
                    name=name or "a command line",
                    kind=kind,
                    org=caller.org if caller is not None else None,
                    user_id=caller.user_id if caller is not None else None,
                    secret=self._box.encrypt(json.dumps(content)) if content is not None else None,
                    expires_at=utc_now() + LIFETIMES[kind],
                )
            )
        return NewSession(session_id, token)

    async def find(self, kind: str, session_id: UUID) -> CliSession:
        """Return a session that its page may still finish.

        Raises:
            NotFound: there is none, or it is too old.
            Conflict: it is finished.
        """
        async with self._catalog.reading() as session:
            row = await session.get(CliSession, session_id)
        if row is None or row.kind != kind or row.expires_at < utc_now():
            raise NotFound("There is no such session, or it is too old.", hint="Run the command again.")
        if row.done:
            raise Conflict("This session is finished.", hint="Go back to your terminal.")
        return row

    async def approve(self, session_id: UUID, key: str) -> str:
        """Let a command line act for whoever holds `key`; return the holder's name.

        Raises:
            NotAuthenticated: it is no valid API key.
            NotFound, Conflict: as `find`.
        """
        await self.find("login", session_id)
        caller = await self._auth.authenticate_key(key)
        async with self._catalog.writing() as session:
            row = await session.get_one(CliSession, session_id, with_for_update=True)
            row.done, row.org, row.user_id = True, caller.org, caller.user_id
        return caller.user

    async def collect(self, token: str) -> str | None:
        """Return a new API key for the command line, once; None while nobody has approved it.

        Raises:
            NotFound: no session has this token, or its key was collected already.
        """
        async with self._catalog.writing() as session:
            query = select(CliSession).where(CliSession.token_sha256 == _hash(token), CliSession.kind == "login")
            row = await session.scalar(query.with_for_update())
            if row is None or row.expires_at < utc_now():
                raise NotFound("There is no such session, or it is too old.", hint="Run `wave auth login` again.")
            if not row.done:
                return None
            assert row.org is not None and row.user_id is not None
            org, user_id = row.org, row.user_id
            await session.delete(row)
        # The key is made only now, so that it is nowhere before its owner has it.
        return await self._auth.issue_key(org, user_id)

    def configuration(self, row: CliSession) -> dict[str, Any]:
        """Return what the configuration of a session held when it began, or what the user made of it."""
        return dict(json.loads(self._box.decrypt(row.secret))) if row.secret is not None else {}

    async def configure(self, session_id: UUID, content: Mapping[str, Any]) -> None:
        """Finish a session with the configuration that the user has filled in."""
        await self.find("config", session_id)
        async with self._catalog.writing() as session:
            row = await session.get_one(CliSession, session_id, with_for_update=True)
            row.done, row.secret = True, self._box.encrypt(json.dumps(dict(content)))

    async def read_configuration(self, caller: Caller, token: str) -> dict[str, Any] | None:
        """Return the configuration that the user has filled in; None while that is not done."""
        query = select(CliSession).where(CliSession.token_sha256 == _hash(token), CliSession.kind == "config")
        async with self._catalog.reading() as session:
            row = await session.scalar(query)
        if row is None or row.user_id != caller.user_id or row.org != caller.org or row.expires_at < utc_now():
            raise NotFound("There is no such session, or it is too old.", hint="Run `wave config` again.")
        return self.configuration(row) if row.done else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
