"""Addresses that users name and this machine is to fetch: only public ones, and only what was checked is connected to.

The guard sits where the socket is opened: a name is looked up once, every address that it has is checked, and the
connection goes to one of these addresses. A name server that answers differently a moment later changes nothing.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

import httpcore

from ..schemas.errors import InvalidInput, TooLarge, Unavailable

_PORTS = {"http": 80, "https": 443}
_URL_MAX_CHARS = 4096
_REDIRECTS_MAX = 3
#: Slower than this on average, and a server could hold a connection for ever with a byte now and then.
_MIN_BYTES_PER_S = 1024
#: IPv6 networks that carry an IPv4 address at their end, behind which a private one could hide.
_CARRIERS = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))

#: Not reachable from everywhere by the registers of IANA, which older Pythons do not know in full.
_NOT_GLOBAL = tuple(
    ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "2001::/23", "3fff::/20", "5f00::/16")
)


def check_url(url: str, *, allow_private: bool = False) -> None:
    """Raise for an address that must not be fetched from here. It asks the name server.

    `allow_private` lets loopback and private networks pass, for a host that the operator has named; the addresses
    where clouds answer with credentials (link-local) stay closed.

    Raises:
        InvalidInput: another scheme, credentials in the address, an unknown host, or one that is not public.
    """
    _, host, port = _parse(url)
    _resolve(host, port, allow_private)


def open_url(url: str, *, max_bytes: int, timeout_s: float, allow_private: bool = False) -> Iterator[bytes]:
    """Return the content of an address in chunks. Redirects are followed and checked like the first address.

    `timeout_s` is the longest silence of the server. `allow_private` is for the host of `url` and no other.

    Raises:
        InvalidInput: as `check_url`, or the server refuses.
        TooLarge: more than `max_bytes`.
        Unavailable: the server does not answer, is too slow, or breaks off.
    """
    named = _parse(url)[1:]
    for _ in range(_REDIRECTS_MAX + 1):
        scheme, host, port = _parse(url)
        guard = _Guard(allow_private=allow_private and (host, port) == named)
        timeout = {"connect": timeout_s, "read": timeout_s, "write": timeout_s, "pool": timeout_s}
        parts = urlsplit(url)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            target = httpcore.URL(scheme=scheme, host=host, port=port, target=path)
            with (
                httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=guard) as pool,
                pool.stream(
                    "GET",
                    target,
                    headers={"Host": parts.netloc, "User-Agent": "trainyard", "Accept-Encoding": "identity"},
                    extensions={"timeout": timeout},
                ) as answer,
            ):
                headers = {name.lower(): value for name, value in answer.headers}
                if answer.status in (301, 302, 303, 307, 308) and b"location" in headers:
                    url = urljoin(url, headers[b"location"].decode("latin-1"))
                    continue
                _check_status(answer.status)
                yield from _limited(answer.iter_stream(), headers.get(b"content-length"), max_bytes, timeout_s)
                return
        except (httpcore.TimeoutException, TimeoutError) as error:
            raise Unavailable("The server of the address is too slow.", hint="Try again later.") from error
        except (httpcore.NetworkError, httpcore.RemoteProtocolError, OSError) as error:
            raise Unavailable("The server of the address does not answer.", hint="Try again later.") from error
        except (httpcore.LocalProtocolError, UnicodeError) as error:
            raise InvalidInput("The address is no URL.") from error
    raise InvalidInput(f"The address leads to more than {_REDIRECTS_MAX} others.", hint="Give the last one.")


class _Guard(httpcore.SyncBackend):
    """Opens connections to addresses that were checked, and no others."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        fault: Exception | None = None
        for address in _resolve(host, port, self._allow_private):
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
        assert fault is not None
        raise fault

    def connect_unix_socket(self, *arguments: object, **options: object) -> NoReturn:
        raise InvalidInput("The address is no URL.")


def _parse(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address that could be fetched."""
    hint = "Give an address like https://host/file.tar.gz."
    # Parsers disagree about controls, spaces and backslashes, and what disagrees could pass one and reach another.
    if len(url) > _URL_MAX_CHARS or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise InvalidInput("The address is no URL.", hint=hint)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInput("The address is no URL.", hint=hint) from error
    if parts.scheme not in _PORTS:
        raise InvalidInput("The address is neither http nor https.", hint=hint)
    if not host or port == 0 or "%" in host:
        raise InvalidInput("The address names no host.", hint=hint)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("The address holds a user or a password.", hint="Addresses are shown; leave it out.")
    return parts.scheme, host, port or _PORTS[parts.scheme]


def _resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """Return the addresses of a host; all of them have to be allowed, for any could be taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidInput("The host of the address is unknown.", hint="Check how it is written.") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses or not all(_is_allowed(address, allow_private) for address in addresses):
        raise InvalidInput(
            "The address leads into a private network, which may not be fetched from.",
            hint="Upload the file, or ask the operator to name the host in TRAINYARD_API_PRIVATE_HOSTS.",
        )
    return addresses


def _is_allowed(text: str, allow_private: bool) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False  # one with a zone is link-local
    if address.is_loopback:
        return allow_private
    if address.is_multicast or address.is_link_local or address.is_unspecified:
        return False
    if isinstance(address, IPv6Address):
        if (carried := _carried(address)) is not None:
            return _is_allowed(str(carried), allow_private)
        if address.is_site_local:
            return allow_private
    if address.is_reserved:
        return False
    return allow_private or (address.is_global and not any(address in network for network in _NOT_GLOBAL))


def _carried(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, None for most."""
    if any(address in network for network in _CARRIERS):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _check_status(status: int) -> None:
    if status >= 500 or status == 429:
        raise Unavailable(f"The server of the address answered {status}.", hint="Try again later.")
    if status != 200:
        raise InvalidInput(f"The server of the address answered {status}.", hint="Check the address.")


def _limited(chunks: Iterable[bytes], declared: bytes | None, max_bytes: int, timeout_s: float) -> Iterator[bytes]:
    too_large = TooLarge(f"The address has more than {max_bytes} bytes.", hint="Split the file.")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    received, began = 0, time.monotonic()
    for chunk in chunks:
        received += len(chunk)
        if received > max_bytes:
            raise too_large
        if time.monotonic() - began > timeout_s + received / _MIN_BYTES_PER_S:
            raise TimeoutError
        yield chunk
