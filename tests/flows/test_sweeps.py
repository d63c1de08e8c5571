"""Sweeps on a yard: real trainings, real kills."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
import yaml
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.sweeps import SweepSettings
from prefect_trainyard.sweeps.samplers import make_sampler
from prefect_trainyard.sweeps.space import build_space
from prefect_trainyard.sweeps.study import Study, open_storage
from prefect_trainyard.sweeps.trials import Metric
from support import QUICK_TRAIN, Yard, poll, upload_dataset

NETWORK = "classification_pyt"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Bench:
    """An experiment on small data, and sweeps of it started as a person in the Prefect UI does."""

    yard: Yard
    experiment: str
    eval_set: str
    prefect: httpx.Client

    def start(self, settings: dict[str, Any], epochs: int = 1, **spec: Any) -> Sweep:
        deployment = self.prefect.get(f"deployments/name/sweep/{NETWORK}").json()
        train = {**QUICK_TRAIN["train"], "train_config": {"runner": {"max_epochs": epochs}}}
        parameters = {
            "org": "acme",
            "experiment_id": self.experiment,
            "spec": {**QUICK_TRAIN, "train": train, **spec},
            "settings": settings,
        }
        made = self.prefect.post(
            f"deployments/{deployment['id']}/create_flow_run",
            json={"parameters": parameters, "state": {"type": "SCHEDULED"}},
        )
        assert made.status_code == 201, made.text
        return Sweep(self, made.json()["id"])


@dataclass
class Sweep:
    bench: Bench
    id: str

    @property
    def folder(self) -> Path:
        return self.bench.yard.home / "storage/acme/jobs" / self.id

    @property
    def log(self) -> str:
        path = self.bench.yard.home / f"storage/acme/logs/{self.id}.txt"
        return path.read_text() if path.exists() else ""

    def run(self) -> dict[str, Any]:
        run: dict[str, Any] = self.bench.prefect.get(f"flow_runs/{self.id}").json()
        return run

    def wait(self, timeout_s: float = 240.0) -> dict[str, Any]:
        def read() -> dict[str, Any] | None:
            run = self.run()
            return run if run["state_type"] in ENDED else None

        run = poll(read, f"the end of the sweep; its log: {self.log}", timeout_s, every_s=0.2)
        # The facade ends the log when it has heard of the end.
        poll(lambda: self.log.endswith("EOF\n"), "the end of the log", 30)
        return run

    def done(self) -> list[dict[str, Any]]:
        """Wait for a good end and return its trials."""
        run = self.wait()
        assert run["state_type"] == "COMPLETED", self.log
        return self.trials()

    def trials(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "controller.json").read_text())
        return found

    def trial_runs(self) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"tags": {"all_": [f"trainyard.sweep:{self.id}"]}}, "limit": 200}
        runs: list[dict[str, Any]] = self.bench.prefect.post("flow_runs/filter", json=wanted).json()
        return runs

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    def epochs_trained(self, number: int) -> list[int]:
        """Return the epochs that the log of a trial tells of, in order."""
        lines = (self.folder / f"experiment_{number}/log.txt").read_text().splitlines()
        return [int(line.split("epoch ")[1].split("/")[0]) for line in lines if " INFO epoch " in line]


@pytest.fixture(scope="module")
def bench(yard: Yard, digits: Path) -> Iterator[Bench]:
    with yard.client() as client, httpx.Client(base_url=f"{yard.prefect_url}/api/", timeout=60) as prefect:
        train_set = upload_dataset(client, digits / "train_1.tar.gz")
        eval_set = upload_dataset(client, digits / "eval.tar.gz")
        body = {"network_arch": NETWORK, "name": "sweeps", "encryption_key": "k"}
        experiment = client.post("experiments", json=body).json()["id"]
        patched = client.patch(
            f"experiments/{experiment}", json={"train_datasets": [train_set], "eval_dataset": eval_set}
        )
        assert patched.status_code == 200
        yield Bench(yard, experiment, eval_set, prefect)


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Sweep:
    """A sweep of three trials of one epoch, to be looked at from all sides."""
    sweep = bench.start({"algorithm": "bayesian", "max_trials": 3, "seed": 1})
    sweep.done()
    return sweep


def test_a_sweep_leaves_what_clients_open(finished: Sweep) -> None:
    trials = finished.trials()
    assert [trial["id"] for trial in trials] == [0, 1, 2] and {trial["status"] for trial in trials} == {"success"}
    assert trials[0]["specs"]["train.train_config.optimizer.lr"] == 0.001, "the first trial is the spec as it is"
    best = max(trials, key=lambda trial: (trial["result"], -trial["id"]))
    result = finished.result()
    assert result["kpi"]["accuracy_top-1"] == best["result"] and result["action"] == "train"
    names = {path.name for path in (finished.folder / "best_model").iterdir()}
    assert {"controller.json", f"recommendation_{best['id']}.yaml", "model_epoch_001.safetensors"} <= names
    recommended = yaml.safe_load((finished.folder / f"recommendation_{best['id']}.yaml").read_text())
    assert recommended == result["spec"]
    assert recommended["train"]["train_config"]["optimizer"]["lr"] == best["specs"]["train.train_config.optimizer.lr"]
    kept = sorted(path.parts[-3] for path in finished.folder.glob("experiment_*/train/*.safetensors"))
    assert kept == [f"experiment_{best['id']}"], "the weights of the others are removed"
    assert "Done EOF" in finished.log


def test_every_trial_is_a_flow_run_and_no_job(finished: Sweep) -> None:
    runs = {run["id"]: run for run in finished.trial_runs()}
    assert {trial["job_id"] for trial in finished.trials()} == set(runs)
    assert {run["state_type"] for run in runs.values()} == {"COMPLETED"}
    with finished.bench.yard.client() as client:
        jobs = client.get(f"experiments/{finished.bench.experiment}/jobs").json()
    listed = {job["id"] for job in (jobs if isinstance(jobs, list) else jobs["jobs"])}
    assert finished.id in listed and not listed & set(runs)


def test_mlflow_has_nested_runs(finished: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = mlflow.MlflowClient(tracking_uri=finished.bench.yard.mlflow_url)
    experiments = [experiment.experiment_id for experiment in tracking.search_experiments()]
    (parent,) = tracking.search_runs(experiments, f"tags.`trainyard.job_id` = '{finished.id}'")
    children = tracking.search_runs(experiments, f"tags.`trainyard.sweep` = '{finished.id}'")
    assert len(children) == 3
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    best = tracking.get_metric_history(parent.info.run_id, "best_accuracy_top-1")
    assert [point.step for point in best] == [1, 2, 3]
    assert [point.value for point in best] == sorted(point.value for point in best)


def test_prefect_shows_a_leaderboard_and_pictures(finished: Sweep) -> None:
    wanted = {"artifacts": {"flow_run_id": {"any_": [finished.id]}}}
    artifacts = {a["key"]: a for a in finished.bench.prefect.post("artifacts/filter", json=wanted).json()}
    board = json.loads(artifacts["sweep-classification-pyt-leaderboard"]["data"])
    results = [float(row["result"]) for row in board]
    assert len(board) == 3 and results == sorted(results, reverse=True) and "lr" in board[0]
    for picture in ("history", "parallel-coordinate"):
        assert artifacts[f"sweep-classification-pyt-{picture}"]["data"].startswith("data:image/png;base64,")


def test_children_use_the_best_model(finished: Sweep) -> None:
    bench = finished.bench
    with bench.yard.client() as client:
        jobs = f"experiments/{bench.experiment}/jobs"
        sent = client.post(jobs, json={"action": "evaluate", "specs": {}, "parent_job_id": finished.id})
        assert sent.status_code == 201, sent.text
        child = Sweep(bench, sent.json())
        assert child.wait()["state_type"] == "COMPLETED"
    assert child.result()["kpi"]["accuracy_top-1"] == pytest.approx(finished.result()["kpi"]["accuracy_top-1"])


def test_killed_at_every_trial_and_every_rung_it_goes_on_with_the_same_trials(bench: Bench, tmp_path: Path) -> None:
    wanted = {"algorithm": "hyperband", "max_epochs": 4, "reduction": 2, "seed": 5}
    sweep = bench.start(wanted)
    killed, answers = 0, -1
    while sweep.run()["state_type"] not in ENDED:
        # An answer of a trial, at a rung or at its end, is one line of the log.
        now = sweep.log.count("accuracy_top-1 0.")
        run = sweep.run()
        if now > answers and run["state_type"] == "RUNNING" and run["infrastructure_pid"]:
            answers = now
            os.kill(int(run["infrastructure_pid"]), signal.SIGKILL)
            killed += 1
            poll(lambda: sweep.run()["state_type"] != "RUNNING", "the loss to be seen", 30)
    trials = sweep.done()
    # R = 4, nu = 2: 4 x 1, 2 x 2, 1 x 4; 2 x 2, 1 x 4; 3 x 4.
    assert [trial["bracket"] for trial in trials] == [0] * 4 + [1] * 2 + [2] * 3
    assert Counter((trial["bracket"], trial["epochs"], trial["status"]) for trial in trials) == {
        (0, 1, "pruned"): 2,
        (0, 2, "pruned"): 1,
        (0, 4, "success"): 1,
        (1, 2, "pruned"): 1,
        (1, 4, "success"): 1,
        (2, 4, "success"): 3,
    }
    assert killed >= 8, f"only {killed} kills"
    for trial in trials:
        assert sweep.epochs_trained(trial["id"]) == list(range(1, trial["epochs"] + 1)), "no epoch twice, none left out"
    runs = Counter(tag for run in sweep.trial_runs() for tag in run["tags"] if tag.startswith("trainyard.trial:"))
    assert runs == {f"trainyard.trial:{number}": 1 for number in range(9)}
    assert [trial["specs"] for trial in trials] == expected_points(wanted, len(trials), tmp_path)
    assert {run["state"]["name"] for run in sweep.trial_runs()} == {"Completed", "Pruned"}


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_stopped_and_resumed_it_goes_on_with_the_same_trials(verb: str, bench: Bench) -> None:
    sweep = bench.start({"algorithm": "asha", "max_trials": 4, "max_epochs": 8, "reduction": 2, "seed": 2}, epochs=8)
    # One trial has ended its first rung, others train or wait.
    poll(lambda: sweep.log.count("accuracy_top-1 0.") >= 2, "two answers", 120)
    with bench.yard.client() as client:
        job = f"experiments/{bench.experiment}/jobs/{sweep.id}"
        if verb == "pause":
            assert client.post(f"{job}:pause").is_success
        else:  # as a person in the Prefect UI does
            cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
            assert bench.prefect.post(f"flow_runs/{sweep.id}/set_state", json=cancelling).is_success
        state = {"pause": "PAUSED", "cancel": "CANCELLED"}[verb]
        poll(lambda: sweep.run()["state_type"] == state, f"{state}; {sweep.log}", 60)
        live = {"SCHEDULED", "PENDING", "RUNNING", "CANCELLING"}
        poll(lambda: not live & {run["state_type"] for run in sweep.trial_runs()}, "the stop of all trials", 60)
        before = {trial["id"]: trial["specs"] for trial in sweep.trials()}
        assert client.post(f"{job}:resume", json={}).is_success
    after = sweep.done()
    assert {trial["id"]: trial["specs"] for trial in after if trial["id"] in before} == before
    assert len(after) == 4 and {trial["status"] for trial in after} <= {"success", "pruned"}
    for trial in after:
        assert sweep.epochs_trained(trial["id"]) == list(range(1, trial["epochs"] + 1)), "no epoch twice, none left out"
    assert len(sweep.trial_runs()) == 4


def test_a_trial_that_loses_its_process_goes_on(bench: Bench) -> None:
    ranges = {"train.train_config.optimizer.lr": {"low": 1e-3, "high": 2e-3}}
    sweep = bench.start({"algorithm": "random", "max_trials": 2, "ranges": ranges}, epochs=6)

    def first() -> dict[str, Any] | None:
        log = sweep.folder / "experiment_0/log.txt"
        if not log.exists() or "epoch 2/6" not in log.read_text():
            return None
        return next((run for run in sweep.trial_runs() if "trainyard.trial:0" in run["tags"]), None)

    victim = poll(first, "two epochs of the first trial", 120)
    os.kill(int(victim["infrastructure_pid"]), signal.SIGKILL)
    assert {trial["status"] for trial in sweep.done()} == {"success"}
    assert sweep.epochs_trained(0)[-1] == 6 and len(sweep.trial_runs()) == 2


def test_a_sweep_of_which_no_trial_can_train_is_an_error_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    data = bench.yard.home / "storage/acme/datasets" / bench.eval_set
    data.rename(tmp_path / "away")
    try:
        sweep = bench.start({"algorithm": "random", "max_trials": 2})
        assert sweep.wait()["state_type"] == "FAILED", sweep.log
    finally:
        (tmp_path / "away").rename(data)
    assert {trial["status"] for trial in sweep.trials()} == {"failure"}
    assert "None of 2 trials came to an end" in sweep.log and sweep.log.endswith("Error EOF\n")
    assert all(trial["message"] for trial in sweep.trials())


def test_optuna_dashboard_opens_the_study(finished: Sweep, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("optuna-dashboard"), finished.folder / "study.journal", "--port", port]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def studies() -> list[dict[str, Any]] | None:
            try:
                return list(httpx.get(f"http://127.0.0.1:{port}/api/studies").json()["study_summaries"])
            except httpx.TransportError:
                return None

        (study,) = poll(studies, "the dashboard", 60)
        assert study["study_name"] == finished.id
    finally:
        server.terminate()
        server.wait(20)


def expected_points(wanted: dict[str, Any], count: int, folder: Path) -> list[dict[str, Any]]:
    """Return the points that an undisturbed search draws: those of Hyperband depend on nothing but the seed."""
    settings = SweepSettings.model_validate(wanted)
    model = get_network(NETWORK).spec(Action.TRAIN)
    space = build_space(model, model.model_validate(QUICK_TRAIN).model_dump(mode="json"), settings)
    study = Study(open_storage(folder / "study.journal"), "x", [Metric("m", True)], space.distributions)
    points = []
    for number in range(count):
        point = space.defaults() if number == 0 else None
        points.append(space.effective(study.propose(make_sampler(settings, number, 0), point)[1]))
    return points
