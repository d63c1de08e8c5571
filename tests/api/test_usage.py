"""What jobs cost, per job and per org."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from facade_support import Facade, Member, Prefect, serve
from prefect_trainyard.api.prices import Prices
from prefect_trainyard.api.services.accounts.usage import past_attempts
from prefect_trainyard.api.services.jobs.runs import PastState
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.schemas.attempts import ATTEMPT_LABEL, Attempt
from support import poll

START = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = Prices(currency="EUR", cpu_hour=1.0, gpu_hour={"H200": 4.0, "default": 2.0})


def history(*states: tuple[str, str, float]) -> list[PastState]:
    return [PastState(type=kind, name=name, at=START + timedelta(seconds=at)) for kind, name, at in states]


def attempt(number: int, at_s: float, **fields: object) -> Attempt:
    at = START + timedelta(seconds=at_s)
    return Attempt.model_validate(
        {"number": number, "at": at, "worker": f"w{number}", "host": "here", "cpus": 2, **fields}
    )


def test_attempts_are_the_times_with_a_process() -> None:
    states = history(
        ("SCHEDULED", "Scheduled", 0),
        ("PENDING", "Pending", 5),
        ("RUNNING", "Running", 10),
        ("CANCELLING", "Pausing", 100),
        ("PAUSED", "Suspended", 110),
        ("SCHEDULED", "Resuming", 500),
        ("PENDING", "Pending", 505),
        ("RUNNING", "Running", 510),
        ("SCHEDULED", "AwaitingRetry", 610),
        ("RUNNING", "Running", 700),
    )
    written = [attempt(1, 9), attempt(2, 509, cpus=4, gpus=1, gpu_type="H200"), attempt(3, 699, gpus=2)]
    first, second, third = past_attempts(states, written, PRICES)
    assert (first["seconds"], first["ended_as"], first["worker"]) == (100, "Suspended", "w1")
    assert first["cost"] == pytest.approx(2 * 100 / 3600)
    assert (second["seconds"], second["ended_as"], second["cpus"]) == (100, "AwaitingRetry", 4)
    assert second["cost"] == pytest.approx((4 * 1.0 + 1 * 4.0) * 100 / 3600)
    assert third["ended_as"] is None and third["number"] == 3


def test_attempts_that_no_worker_wrote_down_count_one_core() -> None:
    [only] = past_attempts(history(("RUNNING", "Running", 0), ("COMPLETED", "Completed", 3600)), [], PRICES)
    assert only["cost"] == 1.0


@pytest.fixture
def priced(prefect_server: Prefect, tmp_path: Path) -> Iterator[Member]:
    """A user of a facade with a price table."""
    settings = ApiSettings(
        home=tmp_path,
        prefect_api_url=prefect_server.api_url,
        free_min_bytes=0,
        price_per_cpu_hour=3600.0,
        price_per_gpu_hour={"H200": 36_000.0},
        currency="EUR",
    )
    facade = serve(settings, prefect_server)
    yield next(facade).member()
    facade.close()


def write_attempt(member: Member, job_id: str, number: int, gpus: int = 0) -> None:
    """Do what a worker does before it starts a process."""
    told = Attempt(
        number=number,
        at=datetime.now(UTC),
        worker="w",
        host="here",
        cpus=2,
        gpus=gpus,
        gpu_type="H200" if gpus else None,
    )
    labels = {f"{ATTEMPT_LABEL}{number}": told.model_dump_json()}
    member.facade.prefect.client.patch(f"flow_runs/{job_id}/labels", json=labels).raise_for_status()


def test_a_job_shows_what_it_has_used_and_the_org_the_sum(priced: Member) -> None:
    experiment_id = priced.ready()
    owner = f"experiments/{experiment_id}"
    job_id = priced.start(owner, "train")
    assert "usage" not in priced.job(owner, job_id)
    write_attempt(priced, job_id, 1)
    priced.facade.prefect.move(job_id, "RUNNING")
    priced.wait(owner, job_id, "Running")
    running = poll(lambda: priced.job(owner, job_id)["usage"]["cost"] and priced.job(owner, job_id)["usage"], "use", 30)
    assert running["attempts"] == 1 and running["currency"] == "EUR"
    assert priced.client.get("usage").json()["cost"] > 0
    priced.facade.prefect.move(job_id, "SCHEDULED", "AwaitingRetry", "lost")
    write_attempt(priced, job_id, 2, gpus=1)
    priced.finish(job_id)
    priced.wait(owner, job_id, "Done")

    def settled() -> dict | None:
        # The account is written a moment after the end; until then the second attempt is not in the report.
        use, reported = priced.job(owner, job_id)["usage"], priced.client.get("usage").json()["attempts"]
        is_whole = use["gpu_hours"] > 0 and use["storage_bytes"] > 300_000
        return use if (use["attempts"], reported) == (2, 2) and is_whole else None

    use = poll(settled, "the account", 30)
    assert use["cost"] == pytest.approx(3600 * use["cpu_hours"] + 36_000 * use["gpu_hours"], rel=0.01)
    report = priced.client.get("usage").json()
    assert (report["jobs"], report["attempts"], report["currency"]) == (1, 2, "EUR")
    assert report["cost"] == pytest.approx(use["cost"], rel=0.01)
    [line] = report["lines"]
    assert line["experiment_id"] == experiment_id and line["name"] == "My Experiment" and line["jobs"] == 1

    assert priced.client.delete(f"{owner}/jobs/{job_id}").status_code == 200
    after = priced.client.get("usage").json()
    assert (after["cost"], after["jobs"]) == (report["cost"], 1)
    day = timedelta(days=1)
    today = datetime.now(UTC)
    span = {"from": (today - day).date().isoformat(), "to": (today + day).isoformat()}
    assert priced.client.get("usage", params=span).json()["attempts"] == 2
    later = priced.client.get("usage", params={"from": (today + day).isoformat()}).json()
    assert (later["attempts"], later["cost"], later["lines"]) == (0, 0, [])


def test_usage_is_of_the_own_org_and_checks_its_dates(facade: Facade, ann: Member) -> None:
    eve = facade.member(user="eve", release="5.5", root="orgs")
    assert eve.client.get("usage").json()["jobs"] == 0
    for name in ("from", "to"):
        refused = ann.client.get("usage", params={name: "tomorrow"})
        assert refused.status_code == 400 and refused.json()["error_desc"].startswith(f"{name}: ")
