"""What trials leave to their sweep: they end with it, it pays for them, and they go when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from facade_support import Member, Prefect, serve
from prefect_trainyard.api.catalog.models import Job
from prefect_trainyard.api.services.accounts.usage import run_seconds
from prefect_trainyard.api.services.container import Services
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.schemas.attempts import ATTEMPT_LABEL, Attempt
from support import poll
from sweep_support import searching, start_running, start_trial, state_of


def post(member: Member, owner: str, job_id: str, verb: str) -> None:
    answer = member.client.post(f"{owner}/jobs/{job_id}:{verb}", content="{}")
    assert answer.status_code == 200, answer.text


def wait_for(member: Member, run_id: str, *state: str) -> None:
    poll(lambda: state_of(member, run_id)[: len(state)] == state, f"{run_id} to be {state}", 30)


def of_every_kind(member: Member, sweep: str) -> dict[str, str]:
    """Return trials in all states, by state."""
    return {
        "queued": start_trial(member, sweep, 0, "SCHEDULED"),
        "running": start_trial(member, sweep, 1),
        "between rungs": start_trial(member, sweep, 2, "PAUSED", "Suspended"),
        "done": start_trial(member, sweep, 3, "COMPLETED"),
        "pruned": start_trial(member, sweep, 4, "COMPLETED", "Pruned"),
        "failed": start_trial(member, sweep, 5, "FAILED"),
    }


def assert_ended(member: Member, trials: dict[str, str]) -> None:
    for kind in ("queued", "between rungs"):
        wait_for(member, trials[kind], "CANCELLED")
    wait_for(member, trials["running"], "CANCELLING", "Cancelling")  # its worker does the rest
    assert state_of(member, trials["done"]) == ("COMPLETED", "Completed")
    assert state_of(member, trials["pruned"]) == ("COMPLETED", "Pruned")
    assert state_of(member, trials["failed"])[0] == "FAILED"


# --- the safety net


@pytest.mark.parametrize("end", ["CANCELLED", "FAILED", "CRASHED", "COMPLETED"])
def test_trials_that_a_sweep_leaves_behind_end_with_it(ann: Member, end: str) -> None:
    owner = searching(ann)
    sweep, other = start_running(ann, owner), start_running(ann, owner)
    trials, foreign = of_every_kind(ann, sweep), start_trial(ann, other, 0)
    if end == "COMPLETED":
        ann.finish(sweep)
    else:
        ann.facade.prefect.move(sweep, end)
    assert_ended(ann, trials)
    assert state_of(ann, foreign) == ("RUNNING", "Running")


def test_trials_of_a_sweep_that_is_cancelled_without_a_process_have_ended_when_the_answer_comes(ann: Member) -> None:
    owner = searching(ann)
    sweep = start_running(ann, owner)
    trials = of_every_kind(ann, sweep)
    ann.facade.prefect.move(sweep, "SCHEDULED", "AwaitingRetry", "The worker w was lost.")
    poll(lambda: "lost" in ann.job(owner, sweep)["result"]["message"], "the retry", 30)
    assert state_of(ann, trials["running"])[0] == "RUNNING"  # another worker goes on with the sweep
    post(ann, owner, sweep, "cancel")
    post(ann, owner, sweep, "cancel")  # the first one paused it
    assert state_of(ann, trials["queued"])[0] == "CANCELLED"
    assert_ended(ann, trials)


def test_trials_of_a_paused_sweep_are_suspended(ann: Member) -> None:
    owner = searching(ann)
    sweep = start_running(ann, owner)
    trials = of_every_kind(ann, sweep)
    ann.facade.prefect.move(sweep, "PAUSED", "Suspended")
    wait_for(ann, trials["queued"], "PAUSED", "Suspended")
    wait_for(ann, trials["running"], "CANCELLING", "Pausing")
    assert state_of(ann, trials["between rungs"]) == ("PAUSED", "Suspended")
    ann.wait(owner, sweep, "Canceled")
    post(ann, owner, sweep, "resume")
    assert state_of(ann, trials["queued"]) == ("PAUSED", "Suspended")  # its controller lets it go on


def test_trials_of_a_sweep_that_was_deleted_in_prefect_end(ann: Member) -> None:
    owner = searching(ann)
    sweep = start_running(ann, owner)
    trials = of_every_kind(ann, sweep)
    ann.facade.prefect.client.delete(f"flow_runs/{sweep}").raise_for_status()
    ann.wait(owner, sweep, "Error")
    assert_ended(ann, trials)


def test_trials_that_were_missed_are_found_later(ann: Member) -> None:
    owner = searching(ann)
    sweep = start_running(ann, owner)
    trial = start_trial(ann, sweep, 0)
    ann.facade.prefect.move(sweep, "FAILED")
    ann.wait(owner, sweep, "Error")
    wait_for(ann, trial, "CANCELLING")
    # Its worker gives it back instead of ending it, and the facade does not hear of that.
    ann.facade.prefect.move(trial, "SCHEDULED", "AwaitingRetry")
    wait_for(ann, trial, "CANCELLED")


def test_trials_are_stopped_by_a_facade_that_was_away_when_their_sweep_ended(prefect_server, tmp_path) -> None:
    settings = ApiSettings(home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=0)
    first = serve(settings, prefect_server)
    member = next(first).member()
    owner = searching(member)
    sweep = start_running(member, owner)
    trials = of_every_kind(member, sweep)
    first.close()
    prefect_server.move(sweep, "CRASHED")
    second = serve(settings, prefect_server)
    again = next(second).member(org=member.org)
    again.wait(owner, sweep, "Error")
    assert_ended(again, trials)
    second.close()


# --- accounts


@pytest.fixture
def priced(prefect_server: Prefect, tmp_path: Path) -> Iterator[Member]:
    """A user of a facade where a second of a core costs 1."""
    settings = ApiSettings(
        home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=0, price_per_cpu_hour=3600.0
    )
    facade = serve(settings, prefect_server)
    yield next(facade).member()
    facade.close()


def write_attempt(member: Member, run_id: str, cpus: int) -> None:
    """Do what a worker does before it starts a process."""
    told = Attempt(number=1, at=datetime.now(UTC), worker="w", host="here", cpus=cpus)
    labels = {f"{ATTEMPT_LABEL}1": told.model_dump_json()}
    member.facade.prefect.client.patch(f"flow_runs/{run_id}/labels", json=labels).raise_for_status()


def seconds_of(member: Member, run_id: str) -> float:
    """Return how long the attempts of a trial ran that began and ended once."""
    states = member.facade.prefect.client.get("flow_run_states/", params={"flow_run_id": run_id}).json()
    at = {state["type"]: datetime.fromisoformat(state["timestamp"]) for state in states}
    return (at["COMPLETED"] - at["RUNNING"]).total_seconds()


def test_what_trials_use_is_charged_to_their_sweep(priced: Member) -> None:
    owner, prefect = searching(priced), priced.facade.prefect
    sweep = priced.start(owner, "train")
    write_attempt(priced, sweep, cpus=0)
    prefect.move(sweep, "RUNNING")
    priced.wait(owner, sweep, "Running")
    trials = [start_trial(priced, sweep, number) for number in range(2)]
    for trial in trials:
        write_attempt(priced, trial, cpus=2)
        prefect.move(trial, "COMPLETED")
    priced.finish(sweep)
    priced.wait(owner, sweep, "Done")

    def settled() -> dict[str, Any] | None:
        use = priced.job(owner, sweep)["usage"]
        return use if use["attempts"] == 3 and use["storage_bytes"] > 300_000 else None

    use = poll(settled, "the account", 30)
    used = sum(seconds_of(priced, trial) for trial in trials)
    assert use["cost"] == pytest.approx(2 * used, rel=0.01, abs=1e-4)
    assert use["run_hours"] * 3600 > used
    [line] = priced.client.get("usage").json()["lines"]
    assert (line["jobs"], line["attempts"]) == (1, 3) and line["cost"] == pytest.approx(use["cost"])
    assert priced.client.delete(f"{owner}/jobs/{sweep}").status_code == 200
    after = priced.client.get("usage").json()
    assert (after["jobs"], after["attempts"]) == (1, 3) and after["cost"] == pytest.approx(use["cost"])


def test_a_sweep_that_goes_on_shows_what_its_trials_have_used(priced: Member) -> None:
    owner, prefect = searching(priced), priced.facade.prefect
    sweep = start_running(priced, owner)
    poll(lambda: priced.job(owner, sweep)["usage"]["attempts"] == 1, "the account of its own", 30)
    done, running = start_trial(priced, sweep, 0), start_trial(priced, sweep, 1)
    for trial in (done, running):
        write_attempt(priced, trial, cpus=500)
    prefect.move(done, "COMPLETED")

    async def look() -> None:
        services = Services.build(priced.facade.settings)
        try:
            await services.usage.note_sweeps()  # as it is done every half minute
        finally:
            await services.close()

    asyncio.run(look())

    def cost() -> float:
        return float(priced.job(owner, sweep)["usage"]["cost"])

    # The facade looks by itself too, and may have begun before the accounts were there: then the next look has them.
    poll(lambda: cost() > 500 * seconds_of(priced, done), "the account of the trials")
    assert priced.job(owner, sweep)["usage"]["attempts"] == 3
    first, second = cost(), cost()
    assert first < second  # one of them runs on
    line = priced.client.get("usage").json()
    assert (line["jobs"], line["attempts"]) == (1, 3) and line["cost"] > second


def test_trials_of_a_sweep_whose_row_went_first_are_charged(priced: Member) -> None:
    owner, prefect = searching(priced), priced.facade.prefect
    sweep = start_running(priced, owner)
    write_attempt(priced, sweep, cpus=0)
    trial = start_trial(priced, sweep, 0)
    write_attempt(priced, trial, cpus=3)
    assert priced.client.delete(owner).status_code == 200
    prefect.move(sweep, "CANCELLED")
    wait_for(priced, trial, "CANCELLING")
    assert prefect.exists(sweep), "the accounts of its trials are not closed yet"
    prefect.move(trial, "CANCELLED")
    poll(lambda: not prefect.exists(sweep) and not prefect.exists(trial), "the flow runs to go", 30)
    report = priced.client.get("usage").json()
    assert (report["jobs"], report["attempts"]) == (1, 2) and report["cost"] > 0


def test_the_time_that_trials_run_is_no_time_of_the_sweep() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    own = {"started_at": start.isoformat(), "ended_as": "Suspended", "seconds": 10.0, "cpus": 0}
    of_trial = {**own, "seconds": 500.0, "cpus": 1, "trial": "x", "as_of": start.isoformat()}
    still = {**of_trial, "ended_as": None, "seconds": 0.0}
    job = Job(state="running", state_at=start, attempts=[own, of_trial, still])
    assert run_seconds(job, start + timedelta(seconds=5)) == 15.0  # one that has just begun counts as well


# --- the end of everything


def test_a_deleted_sweep_takes_its_trials_along(ann: Member) -> None:
    owner, prefect = searching(ann), ann.facade.prefect
    sweep = start_running(ann, owner)
    done, between = start_trial(ann, sweep, 0, "COMPLETED"), start_trial(ann, sweep, 1, "PAUSED", "Suspended")
    other = start_trial(ann, start_running(ann, owner), 0)
    prefect.move(sweep, "FAILED")
    ann.wait(owner, sweep, "Error")
    assert ann.client.delete(f"{owner}/jobs/{sweep}").status_code == 200
    assert not any(map(prefect.exists, (sweep, done, between)))
    assert state_of(ann, other)[0] == "RUNNING"


def test_a_paused_sweep_can_be_deleted(ann: Member) -> None:
    owner, prefect = searching(ann), ann.facade.prefect
    sweep = start_running(ann, owner)
    trial = start_trial(ann, sweep, 0, "PAUSED", "Suspended")
    prefect.move(sweep, "PAUSED", "Suspended")
    ann.wait(owner, sweep, "Canceled")
    assert ann.client.delete(f"{owner}/jobs/{sweep}").status_code == 200
    poll(lambda: not prefect.exists(sweep) and not prefect.exists(trial), "the flow runs to go", 30)


def test_deleting_an_experiment_ends_its_sweeps_and_their_trials(ann: Member) -> None:
    owner, prefect = searching(ann), ann.facade.prefect
    sweep = start_running(ann, owner)
    trial = start_trial(ann, sweep, 0)
    assert ann.client.delete(owner).status_code == 200
    prefect.move(sweep, "CANCELLED")
    wait_for(ann, trial, "CANCELLING")
    prefect.move(trial, "CANCELLED")
    poll(lambda: not prefect.exists(sweep) and not prefect.exists(trial), "the flow runs to go", 30)
    left = ann.facade.files_of(ann.org)
    assert all(path.startswith("datasets/") for path in left), left
