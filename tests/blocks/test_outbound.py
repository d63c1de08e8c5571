"""Addresses of users: only public ones, whatever they are written like, and only what was checked is connected to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect_trainyard.blocks.outbound import check_url, open_url
from prefect_trainyard.schemas.errors import InvalidInput, TooLarge, Unavailable

#: Ways to say "this machine", "this network" or "the credentials of this cloud".
PRIVATE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.0.2:8000/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::a00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a00:1::1]/",
    "http://[2001:0:7f00:1::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
    "http://192.88.99.1/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/latest/meta-data",
    "http://169.254.169.254/latest/meta-data",
    "http://169.254.170.2/v2/credentials",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://192.0.0.192/",
    "http://198.18.0.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "https://127.0.0.1/",
    "http://8.8.8.8@127.0.0.1/",
    "http://127.0.0.1#@8.8.8.8/",
    "http://127.0.0.1?@8.8.8.8/",
]
NO_URL = [
    "",
    "x",
    "//8.8.8.8/",
    "http:",
    "http:///",
    "http://:80/",
    "http:8.8.8.8",
    "ftp://8.8.8.8/",
    "file:///etc/passwd",
    "file://8.8.8.8/etc/passwd",
    "gopher://8.8.8.8/_x",
    "dict://8.8.8.8/",
    "s3://bucket/key",
    "data:text/plain,x",
    "javascript:alert(1)",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "http://user:password@8.8.8.8/",
    "http://user@8.8.8.8/",
    "http://8.8.8.8:0/",
    "http://8.8.8.8:99999/",
    "http://8.8.8.8:x/",
    "http://8.8.8.8\r\nHost: x/",
    "http://8.8.8.8/\nx",
    "http://8.8.8.8/ x",
    " http://8.8.8.8/",
    "http://8.8.8.8\\@127.0.0.1/",
    "http://8.8.8.8/\0",
    "http://①②⑦.⓪.⓪.①/",
    "http://[::1/",
    "http://[fe80::1%25eth0]/",
    "http://a..b/",
    "http://" + "a" * 300 + "/",
    "http://8.8.8.8/" + "a" * 5000,
    "http://no-such-host.invalid/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_what_leads_into_a_private_network_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        check_url(url)
    with pytest.raises(InvalidInput):
        list(open_url(url, max_bytes=1000, timeout_s=2))


@pytest.mark.parametrize("url", NO_URL)
def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(InvalidInput):
            check_url(url, allow_private=allow_private)


@pytest.mark.parametrize("url", ["http://8.8.8.8/", "https://[2606:4700:4700::1111]:8443/x?y=z", "HTTP://1.1.1.1"])
def test_what_is_public_passes(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://[fe80::1]/", "http://224.0.0.1/", "http://0.0.0.0/"]
)
def test_a_named_host_may_be_private_but_never_the_one_with_the_credentials(url: str) -> None:
    check_url("http://10.0.0.1/", allow_private=True)
    check_url("http://[::1]/", allow_private=True)
    check_url("http://[fd00::1]/", allow_private=True)
    with pytest.raises(InvalidInput):
        check_url(url, allow_private=True)


class Site(ThreadingHTTPServer):
    """A server on loopback, and what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[str, str]] = []
        self.redirect = ""
        self.stop = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
        elif self.path.startswith("/status/"):
            self.send_response(int(self.path.rpartition("/")[2]))
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.stop.is_set():
                try:
                    self.wfile.write(b"x" * 1000)
                except OSError:
                    return
        elif self.path == "/silent":
            self.server.stop.wait(20)
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x")
        else:
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(b"content")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.stop.set()
            server.shutdown()
            thread.join()


def fetch(url: str, **options: Any) -> bytes:
    return b"".join(open_url(url, **{"max_bytes": 10_000, "timeout_s": 5, "allow_private": True, **options}))


def test_content_comes_as_the_server_sends_it(site: Site) -> None:
    assert fetch(f"{site.url}/a/b?c=d%20e") == b"content"
    assert site.asked == [("/a/b?c=d%20e", site.url.removeprefix("http://"))]


def test_redirects_are_checked_like_the_first_address(site: Site) -> None:
    site.redirect = "/next"
    assert fetch(f"{site.url}/redirect") == b"content"
    for target in (
        f"http://localhost:{site.server_address[1]}/next",  # private, and not the host that the operator has named
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//127.0.0.2/x",
    ):
        site.redirect = target
        asked = len(site.asked)
        with pytest.raises(InvalidInput):
            fetch(f"{site.url}/redirect")
        assert len(site.asked) == asked + 1, target
    site.redirect = "/redirect"
    with pytest.raises(InvalidInput, match="more than 3"):
        fetch(f"{site.url}/redirect")


def test_a_name_server_that_changes_its_mind_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is public, all later ones are this machine."""
    answers = iter(["8.8.8.8"])
    asked = []

    def rebinding(host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        asked.append(host)
        address = next(answers, "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = f"http://rebind.example:{site.server_address[1]}/"
    check_url(url)
    with pytest.raises(InvalidInput):
        fetch(url, allow_private=False)
    assert site.asked == []
    assert asked == ["rebind.example"] * 2


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(host: str, port: int, *arguments: Any, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", mixed)
    with pytest.raises(InvalidInput):
        check_url("http://mixed.example/")


def test_environment_of_this_machine_leads_nowhere_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(f"{site.url}/x") == b"content"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/status/404", InvalidInput),
        ("/status/401", InvalidInput),
        ("/status/204", InvalidInput),
        ("/status/429", Unavailable),
        ("/status/503", Unavailable),
        ("/endless", TooLarge),
        ("/silent", Unavailable),
        ("/cut", Unavailable),
    ],
)
def test_servers_that_misbehave_are_told_apart(site: Site, path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        fetch(f"{site.url}{path}", timeout_s=1)


def test_nobody_listening_is_no_fault_of_ours() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Unavailable):
        fetch(f"http://127.0.0.1:{port}/")
