"""A sweep as a job: started, adopted, told about, resumed, extended. There is no controller: tests do what it would."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from facade_support import Facade, Member, serve
from prefect_trainyard.api.catalog import Catalog
from prefect_trainyard.api.services.jobs.runs import FlowRuns
from prefect_trainyard.api.services.projection.adoption import adopt_run
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from prefect_trainyard.schemas.sweeps import SweepSettings
from support import poll
from sweep_support import (
    NETWORK,
    RATE,
    configure,
    progress,
    searching,
    start_running,
    start_trial,
    state_of,
    write_status,
    write_trials,
)
from v4_support import V4

SPEC = {"train": {"train_config": {"runner": {"max_epochs": 4}}, "num_gpus": 2}, "gpus": 2}


def resume(member: Member, owner: str, job_id: str, **body: Any) -> Any:
    return member.client.post(f"{owner}/jobs/{job_id}:resume", content=json.dumps(body))


def changes_of(member: Member, job_id: str) -> dict[str, Any]:
    return dict(member.facade.storage.read_json(layout.resume(member.org, job_id)))


def finished(member: Member, owner: str, **told: Any) -> str:
    job_id = start_running(member, owner)
    write_status(member, job_id, **told)
    member.finish(job_id)
    member.wait(owner, job_id, "Done")
    return job_id


# --- start


def test_a_train_job_of_a_search_is_a_run_of_the_sweep_flow(ann: Member) -> None:
    owner = searching(ann, automl_algorithm="tpe", automl_max_recommendations=6)
    job_id = ann.start(owner, "train", specs=SPEC, name="first")
    run, prefect = ann.facade.prefect.run(job_id), ann.facade.prefect.client
    deployment = prefect.get(f"deployments/name/sweep/{NETWORK}").json()
    assert run["deployment_id"] == deployment["id"] and run["name"] == f"sweep-{NETWORK}"
    dataset_id = ann.client.get(owner).json()["eval_dataset"]
    settings = SweepSettings(algorithm="tpe", metrics=["accuracy_top-1"], max_trials=6)
    assert run["parameters"] == {
        "org": ann.org,
        "experiment_id": owner.partition("/")[2],
        "network": NETWORK,
        "datasets": {"train": [dataset_id], "eval": dataset_id, "inference": None, "calibration": None},
        "name": "first",
        "spec": {"train": {"train_config": {"runner": {"max_epochs": 4}}, "num_gpus": 2}},
        "settings": settings.model_dump(mode="json", exclude_none=True),
    }
    assert run["job_variables"] == {"cpus": 0, "gpus": 0, "gpus_up_to": 2, "max_attempts": 100}
    tags = {f"org:{ann.org}", "action:train", f"network:{NETWORK}", f"experiment:{owner.partition('/')[2]}"}
    assert {f"trainyard.{tag}" for tag in tags} <= set(run["tags"])
    assert not [tag for tag in run["tags"] if tag.startswith("trainyard.sweep")]
    job = ann.job(owner, job_id)
    assert (job["action"], job["status"], job["specs"]) == ("train", "Pending", SPEC)
    assert "automl_result" not in job["result"] and not job["result"].get("stats")


def test_gpus_and_attempts_that_a_client_asks_for_are_kept(ann: Member) -> None:
    owner = searching(ann)
    run = ann.facade.prefect.run(ann.start(owner, "train", num_gpu=4, max_attempts=2, priority="high"))
    assert run["job_variables"] == {"cpus": 0, "gpus": 0, "gpus_up_to": 4, "max_attempts": 2}
    assert run["work_queue_name"] == "high"


def test_only_train_is_searched(ann: Member) -> None:
    owner = searching(ann)
    parent = ann.start(owner, "train")
    pruned = ann.start(owner, "prune", parent_job_id=parent)
    retrained = ann.start(owner, "retrain", parent_job_id=pruned)
    deployment = ann.facade.prefect.client.get(f"deployments/name/retrain/{NETWORK}").json()
    run = ann.facade.prefect.run(retrained)
    assert run["deployment_id"] == deployment["id"] and "settings" not in run["parameters"]
    configure(ann, owner, automl_enabled=False)
    plain = ann.facade.prefect.run(ann.start(owner, "train"))
    assert "settings" not in plain["parameters"] and plain["parameters"]["checkpoint"] == "best_model"


def test_a_chain_of_v4_starts_from_the_sweep(ann: Member) -> None:
    owner = searching(ann)
    v4 = V4.of(ann)
    sweep, evaluate = v4.start(owner.replace("experiments", "model"), "train", "evaluate")
    assert ann.facade.prefect.run(sweep)["parameters"]["settings"]["algorithm"] == "bayesian"
    assert ann.facade.prefect.run(evaluate)["parameters"]["parent_job_id"] == sweep


def test_what_a_trial_costs_in_an_hour_is_told_to_the_sweep(prefect_server, tmp_path) -> None:
    prices = {"price_per_cpu_hour": 1.5, "price_per_gpu_hour": {"H200": 4.0, "default": 2.0}}
    settings = ApiSettings(home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=0, **prices)
    for facade in serve(settings, prefect_server):
        member = facade.member()
        owner = searching(member, automl_max_cost=20)
        run = prefect_server.run(member.start(owner, "train", specs=SPEC))
        assert run["parameters"]["settings"]["max_cost"] == 20.0
        assert run["parameters"]["settings"]["cost_per_hour"] == 1.5 + 2 * 4.0


# --- adoption


def test_a_sweep_started_in_the_prefect_ui_is_the_same_job_in_rest(ann: Member) -> None:
    experiment_id = ann.ready()
    owner = f"experiments/{experiment_id}"
    parameters = {"org": ann.org, "experiment_id": experiment_id, "settings": {"algorithm": "random", "max_trials": 2}}
    job_id = ann.facade.prefect.start_by_hand(f"sweep/{NETWORK}", parameters)
    poll(lambda: ann.client.get(f"{owner}/jobs/{job_id}").status_code == 200, "the adoption", 30)
    assert ann.job(owner, job_id)["action"] == "train"
    assert ann.client.get(f"{owner}/jobs/{job_id}:automl_details").json()["trials"] == []
    # it keeps its own settings, those of the experiment are of another search
    assert ann.client.post(f"{owner}/jobs/{job_id}:cancel").status_code == 200
    ann.client.post(f"{owner}/jobs/{job_id}:cancel")
    assert resume(ann, owner, job_id).status_code == 200
    settings = changes_of(ann, job_id)["settings"]
    assert (settings["algorithm"], settings["max_trials"]) == ("random", 2)
    assert "automl_algorithm" in ann.client.get(f"{owner}/jobs/{job_id}/logs").text


def test_a_sweep_that_somebodys_own_flow_calls_is_one_too(ann: Member) -> None:
    experiment_id, prefect = ann.ready(), ann.facade.prefect.client
    flow_id = prefect.post("flows/", json={"name": "sweep"}).json()["id"]
    made = prefect.post(
        "flow_runs/",
        json={
            "flow_id": flow_id,
            "parameters": {"org": ann.org, "experiment_id": experiment_id},
            "tags": ["trainyard.action:train", f"trainyard.org:{ann.org}"],
            "state": {"type": "RUNNING"},
        },
    )
    path = f"experiments/{experiment_id}/jobs/{made.json()['id']}"
    poll(lambda: ann.client.get(path).status_code == 200, "the adoption", 30)
    assert ann.client.get(f"{path}:automl_details").status_code == 200


def test_trials_are_no_jobs_and_prefect_is_never_asked_about_them(facade: Facade, ann: Member, monkeypatch) -> None:
    owner = searching(ann)
    sweep = start_running(ann, owner)
    asked: list[UUID] = []
    runs = facade.app.state.services.runs
    read = runs.read

    async def read_and_remember(run_id: UUID) -> Any:
        asked.append(run_id)
        return await read(run_id)

    monkeypatch.setattr(runs, "read", read_and_remember)
    trials = [start_trial(ann, sweep, number, "COMPLETED") for number in range(3)]
    facade.prefect.tell(trials[0], message="epoch 1 of 3")
    # an event that comes later is handled, so those before it are
    facade.prefect.move(sweep, "PAUSED", "Suspended")
    ann.wait(owner, sweep, "Canceled")
    assert [job["id"] for job in ann.client.get("experiments/all/jobs").json()] == [sweep]
    assert UUID(sweep) in asked and not {UUID(trial) for trial in trials} & set(asked)
    assert ann.client.get(f"{owner}/jobs/{trials[0]}").status_code == 404


def test_a_trial_with_the_tags_of_a_job_is_none_all_the_same(ann: Member) -> None:
    owner = searching(ann)
    sweep, prefect = start_running(ann, owner), ann.facade.prefect
    trial = start_trial(ann, sweep, 0)
    tags = [*prefect.run(trial)["tags"], "trainyard.action:train"]
    prefect.client.patch(f"flow_runs/{trial}", json={"tags": tags}).raise_for_status()

    async def adopt() -> object:
        catalog, runs = Catalog(ann.facade.settings.database_url), FlowRuns(prefect.api_url)
        try:
            return await adopt_run(catalog, runs, UUID(trial))
        finally:
            await catalog.close()
            await runs.close()

    assert asyncio.run(adopt()) is None
    assert [job["id"] for job in ann.client.get(f"{owner}/jobs").json()] == [sweep]


# --- how far it is

TOLD = {
    "best": 0.75,
    "best_trial": 1,
    "current_trial": 3,
    "trials": {"success": 2, "running": 2},
    "epochs_left": 12,
    "seconds_per_epoch": 1.25,
    "eta_s": 90.0,
}
STATS = {
    "Estimated time for automl completion": "0:01:30.00",
    "Current experiment number": "3",
    "Number of epochs yet to start": "12",
    "Time per epoch in seconds": "1.25",
    "Number of success experiments": "2",
    "Number of running experiments": "2",
}


def stats_of(result: dict[str, Any]) -> dict[str, str]:
    return {stat["metric"]: stat["value"] for stat in result["stats"]}


def test_progress_of_a_sweep_shows_in_the_words_of_the_documents(ann: Member) -> None:
    owner = searching(ann)
    job_id = start_running(ann, owner)
    ann.facade.prefect.tell(job_id, message="4 trials", sweep=progress())
    poll(lambda: ann.job(owner, job_id)["result"].get("stats"), "the first report", 30)
    assert stats_of(ann.job(owner, job_id)["result"]) == {"Number of epochs yet to start": "0"}
    ann.facade.prefect.tell(job_id, message="4 trials", fraction=0.25, eta_s=90.0, sweep=progress(**TOLD))
    result = poll(
        lambda: found if "automl_result" in (found := ann.job(owner, job_id)["result"]) else None, "the report", 10
    )
    assert stats_of(result) == STATS and result["eta"] == "0:01:30.00"
    assert result["automl_result"] == [{"metric": "best_accuracy_top-1", "value": 0.75}]
    shown = V4.of(ann).ok("GET", f"{owner.replace('experiments', 'model')}/job/{job_id}")["result"]
    assert stats_of(shown) == STATS and shown["automl_result"] == result["automl_result"]
    ann.facade.prefect.tell(job_id, message="a report without", sweep=None)
    poll(lambda: ann.job(owner, job_id)["result"]["message"] == "a report without", "the next report", 30)
    assert stats_of(ann.job(owner, job_id)["result"]) == STATS


def test_the_last_report_counts_at_the_end_though_its_event_comes_too_late(ann: Member) -> None:
    owner = searching(ann)
    job_id = finished(ann, owner, **{**TOLD, "best": 0.875, "trials": {"success": 4}, "epochs_left": 0, "eta_s": 0.0})
    ann.facade.prefect.tell(job_id, sweep=progress(best=0.5))
    result = ann.job(owner, job_id)["result"]
    assert result["automl_result"] == [{"metric": "best_accuracy_top-1", "value": 0.875}]
    stats = stats_of(result)
    assert stats["Number of epochs yet to start"] == "0" and stats["Number of success experiments"] == "4"
    assert stats["parameters"] == "123"


def test_details_show_every_trial_and_which_is_the_best(facade: Facade, ann: Member) -> None:
    owner = searching(ann, automl_algorithm="hyperband")
    job_id = ann.start(owner, "train")
    path = f"{owner}/jobs/{job_id}:automl_details"
    before = ann.client.get(path).json()
    assert before["status"] == "Pending" and before["algorithm"] is None and before["trials"] == []
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.wait(owner, job_id, "Running")
    run_id = str(uuid4())
    write_trials(
        ann,
        job_id,
        {
            "id": 0,
            "specs": {RATE: 0.1},
            "status": "success",
            "result": 0.75,
            "results": {"accuracy_top-1": 0.75, "loss": float("nan")},
            "job_id": run_id,
            "best_epoch_number": 3,
            "epochs": 3,
            "bracket": 0,
            "rung": 2,
            "seconds": 4.5,
        },
        {"id": 1, "specs": {RATE: 0.2}, "status": "pruned", "result": 0.5, "epochs": 1, "bracket": 0, "rung": 1},
        {"id": 2, "specs": {RATE: 0.3}, "status": "pending", "bracket": 1},
    )
    ann.facade.prefect.tell(job_id, sweep=progress(**{**TOLD, "best_trial": 0}))
    poll(lambda: ann.client.get(path).json()["best"] is not None, "the report", 30)
    details = ann.client.get(path).json()
    assert {name: details[name] for name in ("job_id", "metric", "best_trial", "maximize", "epochs_left")} == {
        "job_id": job_id,
        "metric": "accuracy_top-1",
        "best_trial": 0,
        "maximize": True,
        "epochs_left": 12,
    }
    assert details["trials_by_status"] == {"success": 2, "running": 2}
    first, second, third = details["trials"]
    assert (first["best"], second["best"], first["specs"], first["job_id"]) == (True, False, {RATE: 0.1}, run_id)
    assert first["results"] == {"accuracy_top-1": 0.75, "loss": None}
    assert (third["status"], third["result"], third["rung"]) == ("pending", None, None)
    assert details["brackets"] == [
        {"bracket": 0, "rungs": {"2": [0], "1": [1]}},
        {"bracket": 1, "rungs": {"0": [2]}},
    ]
    new = facade.member(org=ann.org, user="bob", release="5.5", root="orgs")
    assert new.client.get(path).json() == details


def test_jobs_that_are_no_search_have_no_details(facade: Facade, ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    answer = ann.client.get(f"{owner}/jobs/{job_id}:automl_details")
    assert (answer.status_code, answer.json()) == (404, {"error_desc": "No AutoML run found", "error_code": 404})
    sweep = ann.start(searching(ann), "train")
    eve = facade.member(user="eve")
    assert eve.client.get(f"{searching(eve)}/jobs/{sweep}:automl_details").status_code == 404


# --- going on


def test_a_stopped_sweep_goes_on_with_the_present_settings(ann: Member) -> None:
    owner = searching(ann, automl_max_recommendations=4)
    job_id = start_running(ann, owner)
    ann.facade.prefect.move(job_id, "PAUSED", "Suspended")
    ann.wait(owner, job_id, "Canceled")
    configure(ann, owner, automl_max_recommendations=8, automl_max_concurrent=2)
    spec = {"train": {"train_config": {"runner": {"max_epochs": 7}}}}
    assert resume(ann, owner, job_id, specs=spec).status_code == 200
    assert state_of(ann, job_id) == ("SCHEDULED", "Resuming") and ann.job(owner, job_id)["specs"] == spec
    changes = changes_of(ann, job_id)
    assert changes["spec"] == spec and set(changes) == {"spec", "settings"}
    assert SweepSettings.model_validate(changes["settings"]).max_trials == 8
    assert changes["settings"]["max_concurrent"] == 2
    # what was changed once stays
    for _ in range(2):
        ann.client.post(f"{owner}/jobs/{job_id}:cancel")
    ann.wait(owner, job_id, "Canceled")
    configure(ann, owner, automl_max_recommendations=9)
    assert resume(ann, owner, job_id).status_code == 200
    assert changes_of(ann, job_id)["spec"] == spec and changes_of(ann, job_id)["settings"]["max_trials"] == 9


def test_a_stopped_sweep_keeps_its_settings_when_the_experiment_asks_for_another_search(ann: Member) -> None:
    owner = searching(ann, automl_max_recommendations=4)
    job_id = start_running(ann, owner)
    ann.facade.prefect.move(job_id, "CANCELLED")
    ann.wait(owner, job_id, "Canceled")
    configure(ann, owner, automl_enabled=False, automl_algorithm="hyperband", automl_max_recommendations=8)
    bad = {"train": {"train_config": {"runner": {"max_epochs": 0}}}}
    assert resume(ann, owner, job_id, specs=bad).status_code == 400
    assert state_of(ann, job_id)[0] == "CANCELLED"
    assert resume(ann, owner, job_id).status_code == 200
    settings = changes_of(ann, job_id)["settings"]
    assert (settings["algorithm"], settings["max_trials"]) == ("bayesian", 4)
    log = ann.client.get(f"{owner}/jobs/{job_id}/logs").text
    assert "another search (automl_algorithm)" in log and "EOF" not in log


def test_a_finished_sweep_is_extended_when_more_is_asked_for(ann: Member) -> None:
    owner = searching(ann, automl_max_recommendations=4)
    job_id = finished(ann, owner, **TOLD)
    refused = resume(ann, owner, job_id)
    assert refused.status_code == 400 and "automl_max_recommendations (4)" in refused.json()["error_desc"]
    configure(ann, owner, automl_max_recommendations=10, automl_algorithm="tpe")
    refused = resume(ann, owner, job_id)
    assert refused.status_code == 400 and "automl_algorithm" in refused.json()["error_desc"]
    configure(ann, owner, automl_algorithm="bayesian")
    child = ann.start(owner, "evaluate", parent_job_id=job_id)
    refused = resume(ann, owner, job_id)
    assert refused.status_code == 400 and child in refused.json()["error_desc"]
    assert ann.job(owner, job_id)["status"] == "Done" and state_of(ann, job_id)[0] == "COMPLETED"
    assert not ann.facade.storage.exists(layout.resume(ann.org, job_id))
    assert ann.client.post(f"{owner}/jobs/{child}:cancel").status_code == 200
    ann.wait(owner, child, "Canceled")

    assert resume(ann, owner, job_id).status_code == 200
    job = ann.job(owner, job_id)
    assert (job["status"], job["job_tar_stats"]) == ("Pending", {}) and "kpi" not in job["result"]
    assert stats_of(job["result"])["Number of success experiments"] == "2"
    run = ann.facade.prefect.run(job_id)
    assert run["state"]["name"] == "Resuming" and run["next_scheduled_start_time"] is not None
    assert changes_of(ann, job_id)["settings"]["max_trials"] == 10
    assert ann.client.get(f"{owner}/jobs/{job_id}:download").status_code == 404
    waiting = ann.start(owner, "evaluate", parent_job_id=job_id)
    assert state_of(ann, waiting)[1] == "AwaitingParent"
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.wait(owner, job_id, "Running")
    ann.facade.prefect.tell(job_id, fraction=0.5, sweep=progress(**{**TOLD, "best": 0.9375}))
    poll(lambda: ann.job(owner, job_id)["result"]["automl_result"][0]["value"] == 0.9375, "the next report", 30)
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")
    assert ann.client.get(f"{owner}/jobs/{job_id}/logs").text.count("EOF") == 1
    poll(lambda: state_of(ann, waiting)[1] == "Scheduled", "the child", 30)
    assert ann.client.post(f"{owner}/jobs/{waiting}:cancel").status_code == 200
    refused = resume(ann, owner, job_id)
    assert refused.status_code == 400 and "automl_max_recommendations (10)" in refused.json()["error_desc"]


@pytest.mark.parametrize("end", ["FAILED", "CRASHED"])
def test_a_failed_sweep_can_be_resumed(ann: Member, end: str) -> None:
    owner = searching(ann)
    job_id = start_running(ann, owner)
    child = ann.start(owner, "evaluate", parent_job_id=job_id)
    ann.facade.prefect.move(job_id, end, message="None of 3 trials came to an end.")
    ann.wait(owner, job_id, "Error")
    ann.wait(owner, child, "Error")
    assert resume(ann, owner, job_id).status_code == 200
    assert ann.job(owner, job_id)["status"] == "Pending" and state_of(ann, job_id) == ("SCHEDULED", "Resuming")
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")


def test_jobs_that_are_no_sweeps_are_resumed_as_before(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    done, failed = ann.start(owner, "train"), ann.start(owner, "train")
    ann.finish(done)
    ann.facade.prefect.move(failed, "FAILED")
    for job_id, status in ((done, "Done"), (failed, "Error")):
        ann.wait(owner, job_id, status)
        refused = resume(ann, owner, job_id)
        assert refused.status_code == 400 and "only a cancelled or paused one" in refused.json()["error_desc"]
