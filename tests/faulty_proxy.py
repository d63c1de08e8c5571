"""An S3 server with faults: a proxy that answers 500 or 503, cuts bodies short, or is away."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

#: `cut` ends the connection in the middle of an answer; `short` answers with half a body as if it were whole;
#: `lose` says that an upload was stored and forgets it; `away` ends the connection without an answer.
Fault = Literal["500", "503", "cut", "short", "lose", "away"]

_CODES = {"500": "InternalError", "503": "ServiceUnavailable"}


class FaultyProxy:
    """Stands before `upstream`. Its faults come from `fail_next`, then from `choose`, and while it is `away`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.away = False
        self.choose: Callable[[str, str], Fault | None] = lambda method, path: None
        self.made: Counter[str] = Counter()
        self._next: deque[Fault] = deque()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def fail_next(self, *faults: Fault) -> None:
        self._next.extend(faults)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault_for(self, method: str, path: str) -> Fault | None:
        fault: Fault | None
        if self.away:
            fault = "away"
        elif self._next:
            fault = self._next.popleft()
        else:
            fault = self.choose(method, path)
        if fault is not None:
            self.made[fault] += 1
        return fault


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...

    def _forward(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._answer()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.owner.fault_for(self.command, self.path)
        if fault == "away":
            self.close_connection = True
            return
        if fault in _CODES:
            body = f"<Error><Code>{_CODES[fault]}</Code><Message>fault</Message></Error>".encode()
            self._send(int(fault), [("Content-Type", "application/xml")], body, len(body))
            return
        if fault == "lose":
            self._send(200, [], b"", 0)
            return
        status, headers, body = self._ask_upstream(sent)
        length = len(body)
        if fault == "cut":
            body = body[: length // 2]
            self.close_connection = True
        elif fault == "short":
            body = body[: length // 2]
            length = len(body)
        self._send(status, headers, body, length)

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        if self.command == "HEAD":
            length = int({n.lower(): v for n, v in headers}.get("content-length", "0"))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def _ask_upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        assert self.owner.upstream.hostname is not None
        connection = http.client.HTTPConnection(self.owner.upstream.hostname, self.owner.upstream.port, timeout=30)
        try:
            # why: the signature covers the Host header that the client sent.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


@contextlib.contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
