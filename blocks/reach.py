"""Which addresses of users this machine may talk to: public ones, and those that its operator named."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

from ..schemas.errors import InvalidInput
from .outbound import check_url, open_url


class Outbound:
    """The rule of `outbound`, with the exceptions of the operator: `host` or `host:port`."""

    def __init__(self, private_hosts: Collection[str] = ()) -> None:
        self._private_hosts = frozenset(host.lower() for host in private_hosts)

    def check(self, url: str) -> None:
        """Raise `InvalidInput` for an address that may not be used from here. It asks the name server."""
        check_url(url, allow_private=self._is_named(url))

    def open(self, url: str, *, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
        """Return the content of an address in chunks.

        Raises:
            InvalidInput, TooLarge, Unavailable: as `open_url`.
        """
        return open_url(url, max_bytes=max_bytes, timeout_s=timeout_s, allow_private=self._is_named(url))

    def resolver(self) -> Any:
        """Return what looks up hosts for aiohttp: only addresses that `check` would let pass."""
        # Late: only clouds need aiohttp.
        from aiohttp.abc import AbstractResolver, ResolveResult

        outbound = self

        class Resolver(AbstractResolver):
            async def resolve(
                self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
            ) -> list[ResolveResult]:
                loop = asyncio.get_running_loop()
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
                found = [
                    ResolveResult(
                        hostname=host,
                        host=str(sockaddr[0]),
                        port=port,
                        family=kind,
                        proto=proto,
                        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                    )
                    for kind, _, proto, _, sockaddr in infos
                ]
                for result in found:
                    try:
                        check_url(_url_of(result["host"]), allow_private=outbound._names(host, port))
                    except InvalidInput as error:
                        raise OSError(error.message) from error
                return found

            async def close(self) -> None:
                pass

        return Resolver()

    def _is_named(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        except ValueError as error:
            raise InvalidInput("The address is no URL.") from error
        return self._names(parts.hostname or "", port)

    def _names(self, host: str, port: int) -> bool:
        return bool({host.lower(), f"{host.lower()}:{port}"} & self._private_hosts)


def _url_of(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"
