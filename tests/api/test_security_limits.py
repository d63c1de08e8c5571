"""Clients that come too often, guess, send or read too slowly, or send too much."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from facade_support import BODY_MAX_BYTES, UPLOAD_MAX_BYTES, Facade, Member, Prefect, serve
from prefect_trainyard.api import server
from prefect_trainyard.api.services.accounts.rates import Budget
from prefect_trainyard.api.settings import ApiSettings
from support import poll


@pytest.fixture(scope="module")
def strict(prefect_server: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facade]:
    """A facade with little patience: 20 requests, 30 wrong credentials a minute, a second for a piece of a body."""
    patience = pytest.MonkeyPatch()
    patience.setattr(server, "HEAD_S", 1.0)
    patience.setattr(server, "STALLED_S", 1.0)
    settings = ApiSettings(
        home=tmp_path_factory.mktemp("strict"),
        prefect_api_url=prefect_server.api_url,
        upload_max_bytes=UPLOAD_MAX_BYTES,
        body_max_bytes=BODY_MAX_BYTES,
        free_min_bytes=0,
        requests_per_s=0.5,
        requests_burst=20,
        refusals_per_minute=30,
        silence_max_s=1.0,
    )
    try:
        yield from serve(settings, prefect_server)
    finally:
        patience.undo()


def raw(facade: Facade) -> socket.socket:
    url = httpx.URL(facade.url)
    return socket.create_connection((url.host, url.port), timeout=30)


def seconds_until_closed(connection: socket.socket) -> float:
    began = time.monotonic()
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_budget_gives_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    budget = Budget(per_s=2, burst=3, now=clock)
    for _ in range(3):
        assert budget.wait_s("ann") == 0
        budget.spend("ann")
    assert budget.wait_s("ann") == pytest.approx(0.5)
    assert budget.wait_s("eve") == 0
    clock.now += 0.5
    assert budget.wait_s("ann") == 0
    budget.spend("ann")
    assert budget.wait_s("ann") == pytest.approx(0.5)


def test_budget_forgets_those_who_rest_and_never_punishes_for_more_than_a_burst() -> None:
    clock = Clock()
    budget = Budget(per_s=10, burst=1, now=clock)
    for who in range(30_000):
        budget.spend(who)
        clock.now += 0.001
    assert len(budget._full_at) <= 10_001
    for _ in range(1000):
        budget.spend("eve")
    assert budget.wait_s("eve") <= 0.1 + 1e-6


def test_a_user_with_too_many_requests_gets_429_and_others_do_not(strict: Facade) -> None:
    ann, eve = strict.member(), strict.member(user="eve")
    answers = [ann.client.get("datasets") for _ in range(30)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {200, 429}
    assert 1 <= int(refused[-1].headers["retry-after"]) <= 60
    assert refused[-1].json()["error_code"] == 429
    # another key and another token of the same user share the budget
    again = httpx.post(f"{strict.url}/api/v1/login", json={"ngc_api_key": strict.key(ann.org, "ann")})
    assert again.status_code == 429
    assert eve.client.get("datasets").status_code == 200


def test_who_guesses_is_shut_out_and_who_is_known_is_not(strict: Facade) -> None:
    ann = strict.member()
    assert ann.client.get("datasets").status_code == 200
    guesses = [
        httpx.get(f"{strict.url}/api/v1/users/{ann.user_id}/datasets", headers={"Authorization": f"Bearer {n}"})
        for n in range(40)
    ]
    assert {answer.status_code for answer in guesses} == {401, 429}
    assert int(guesses[-1].headers["retry-after"]) >= 1
    # whatever they try next, the right key included: what is guessed cannot be told from what is known
    login = httpx.post(f"{strict.url}/api/v1/login", json={"ngc_api_key": "ty-" + "A" * 43})
    assert login.status_code == 429
    assert ann.client.get("datasets").status_code == 200
    # a health check of the same machine has no credentials, and waits with all others
    poll(
        lambda: httpx.get(f"{strict.url}/api/v1/health").status_code == 200,
        "the budget to fill up again",
        timeout_s=40,
        every_s=0.5,
    )


def test_who_never_ends_the_headers_is_cut_off(strict: Facade) -> None:
    with raw(strict) as silent, raw(strict) as trickling, raw(strict) as second:
        stop = threading.Event()

        def trickle() -> None:
            trickling.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n")
            while not stop.wait(0.1):
                try:
                    trickling.sendall(b"X-A: b\r\n")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            # a connection that was used before is no better
            second.sendall(b"GET /api/v1/liveness HTTP/1.1\r\nHost: x\r\n\r\nGET /api")
            assert b"HTTP/1.1" in second.recv(1000)
            for connection in (silent, trickling, second):
                assert seconds_until_closed(connection) < 10
        finally:
            stop.set()
            sender.join()


@pytest.mark.parametrize("rest", [b"", b"{"], ids=["no body", "half a body"])
def test_who_never_ends_the_body_gets_408_and_is_cut_off(strict: Facade, rest: bytes) -> None:
    ann = strict.member()
    with raw(strict) as connection:
        head = (
            f"POST /api/v1/users/{ann.user_id}/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\n"
            "Content-Length: 50\r\n\r\n"
        )
        connection.sendall(head.encode() + rest)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert seconds_until_closed(connection) < 10
    assert ann.client.get("datasets").json() == []


def test_an_upload_that_stops_coming_leaves_the_data_set_as_it_was(strict: Facade) -> None:
    ann = strict.member()
    dataset_id = ann.dataset()
    with raw(strict) as connection:
        head = (
            f"POST /api/v1/users/{ann.user_id}/datasets/{dataset_id}:upload HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {ann.token}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            "Content-Length: 5000\r\n\r\n--b\r\nContent-Disposition: form-data; name=file\r\n\r\nxyz"
        )
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert seconds_until_closed(connection) < 10
    assert ann.client.get(f"datasets/{dataset_id}").json()["status"] == "not_present"
    assert not list(strict.settings.incoming.rglob("*"))


def test_who_does_not_read_the_answer_is_cut_off(strict: Facade) -> None:
    ann = strict.member()
    experiment_id = ann.ready()
    job_id = ann.start(f"experiments/{experiment_id}", "train")
    ann.finish(job_id)
    ann.wait(f"experiments/{experiment_id}", job_id, "Done")
    path = f"/api/v1/users/{ann.user_id}/experiments/{experiment_id}/jobs/{job_id}:download"
    tar = strict.storage.local_path(f"{ann.org}/downloads/{job_id}.tar.gz") or Path()
    assert tar.exists()
    with tar.open("r+b") as file:
        file.truncate(64 << 20)  # more than the buffers of the two sockets
    with raw(strict) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\n\r\n".encode())
        assert connection.recv(15) == b"HTTP/1.1 200 OK"

        def open_here() -> list[str]:
            return [str(tar) for link in Path("/proc/self/fd").iterdir() if link.exists() and link.resolve() == tar]

        poll(lambda: not open_here(), "the file to be closed", 30)


def test_bodies_and_pages_have_an_end(facade: Facade, ann: Member) -> None:
    large = ann.client.post("datasets", content=json.dumps({"name": "x" * BODY_MAX_BYTES}))
    assert large.status_code == 413 and large.json()["error_code"] == 413
    deep = ann.client.post("datasets", content=b'{"a":' * 20_000)
    assert deep.status_code == 400
    for size in (0, -1, 1 << 70):
        assert ann.client.get("datasets", params={"size": size}).status_code in (200, 400), size
    with raw(facade) as connection:
        connection.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\nX-A: " + b"y" * 1_000_000)
        assert b" 400 " in connection.recv(100)
