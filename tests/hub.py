"""A stand-in for the hub of Hugging Face, which nobody can run here: the answers of its HTTP API to one data set.

The API as its OpenAPI document and the client of huggingface_hub have it. What stands in is the server alone; the
driver is the real one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY, TOKEN = "lab/digits", "hf_right"

_OBJECT = "0" * 40


@contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve a private data set with `files` at the address that this yields."""

    class Handler(_Hub):
        content = files

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Hub(BaseHTTPRequestHandler):
    content: Mapping[str, bytes]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Tests print what matters."""

    def _answer(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        repository, files = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/main/"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif url.path == repository:
            self._send_json({"id": REPOSITORY, "sha": _OBJECT, "private": True, "siblings": []})
        elif url.path.startswith(f"{repository}/paths-info/main"):
            known = {entry["path"]: entry for entry in self._entries("", recursive=True)}
            self._send_json([known[path] for path in json.loads(asked)["paths"] if path in known])
        elif url.path.startswith(f"{repository}/tree/main"):
            folder = url.path.removeprefix(f"{repository}/tree/main").strip("/")
            recursive = parse_qs(url.query).get("recursive") in (["true"], ["True"])
            if found := self._entries(folder, recursive=recursive):
                self._send_json(found)
            else:
                self._send(404, {"X-Error-Code": "EntryNotFound"})
        elif url.path.startswith(files):
            self._send_file(url.path.removeprefix(files))
        else:
            self._send(404, {"X-Error-Code": "RepoNotFound"})

    def _entries(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Return what lies in a folder, files and folders."""
        prefix = f"{folder}/" if folder else ""
        files: dict[str, dict[str, Any]] = {}
        folders: dict[str, dict[str, Any]] = {}
        for path, content in self.content.items():
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                name = prefix + "/".join(parts[:depth])
                folders[name] = {"type": "directory", "oid": _OBJECT, "path": name}
            if recursive or len(parts) == 1:
                files[path] = {"type": "file", "oid": _OBJECT, "size": len(content), "path": path}
        return [*folders.values(), *files.values()]

    def _send_file(self, path: str) -> None:
        content = self.content.get(path)
        if content is None:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
        elif found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            self._send(206, {"Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1])
        else:
            self._send(200, {}, content)

    def _send_json(self, found: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
