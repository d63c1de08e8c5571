"""A sweep whose files are all on S3, while its process, its worker and the facade are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
import s3fs
from faults.yard import ORG, WORKER, FaultyYard, faulty_yard
from prefect_trainyard.blocks import ArtifactStorage, layout
from support import QUICK_TRAIN, poll

pytestmark = pytest.mark.long

SPEC = {**QUICK_TRAIN, "train": {"train_config": {"runner": {"max_epochs": 4}}}}
SWEEP = {"automl_enabled": True, "automl_algorithm": "asha", "automl_max_recommendations": 5, "automl_R": 4}


@pytest.fixture(scope="module")
def yard(s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyYard]:
    access, secret = "trainyard", "trainyardsecret"
    s3fs.S3FileSystem(endpoint_url=s3_url, key=access, secret=secret).mkdir("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        # rclone answers a ranged GET with the checksum of the whole object.
        patch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        patch.setenv("AWS_ACCESS_KEY_ID", access)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        folder = tmp_path_factory.mktemp("sweeps")
        with faulty_yard(folder, cpus="2", storage_url="s3://sweeps/home", storage_endpoint_url=s3_url) as yard:
            yield yard


def test_a_sweep_on_s3_survives_the_death_of_everything(yard: FaultyYard, s3_url: str) -> None:
    storage = ArtifactStorage(url="s3://sweeps/home", endpoint_url=s3_url)
    experiment = yard.experiment()
    settings = {**SWEEP, "automl_nu": 2, "automl_seed": 3}
    assert yard.rest.send("PATCH", experiment, {"automl_settings": settings}).status_code == 200
    jobs = f"{experiment}/jobs"
    sweep = str(yard.rest.send("POST", jobs, {"action": "train", "specs": SPEC}).json())

    def answers() -> int:
        log = layout.log(ORG, sweep)
        return storage.read_bytes(log).decode().count("accuracy_top-1 0.") if storage.exists(log) else 0

    def kill_process_of_sweep() -> None:
        pid = yard.prefect.get(f"flow_runs/{sweep}").json()["infrastructure_pid"]
        os.kill(int(pid), signal.SIGKILL)

    victims = [kill_process_of_sweep, lambda: os.kill(yard.pid(WORKER), signal.SIGKILL), kill_process_of_sweep]
    for number, kill in enumerate(victims, 1):
        poll(lambda number=number: answers() >= number, f"answer {number}", 120, every_s=0.3)
        poll(lambda: yard.prefect.get(f"flow_runs/{sweep}").json()["state_type"] == "RUNNING", "the sweep to run", 60)
        kill()
        yard.wait_until_ready()
    poll(lambda: yard.rest.get(f"{jobs}/{sweep}")["status"] == "Done", "the end of the sweep", 240, every_s=0.5)
    folder = layout.job(ORG, sweep)
    trials = storage.read_json(f"{folder}/controller.json")
    assert len(trials) == 5 and {trial["status"] for trial in trials} <= {"success", "pruned"}
    for trial in trials:
        log = storage.read_bytes(layout.trial_log(ORG, sweep, trial["id"])).decode()
        history = storage.read_json(f"{layout.trial(ORG, sweep, trial['id'])}/result.json")["history"]
        assert [entry["epoch"] for entry in history] == list(range(1, trial["epochs"] + 1)), log
    runs = yard.prefect.post(
        "flow_runs/filter", json={"flow_runs": {"tags": {"all_": [f"trainyard.sweep:{sweep}"]}}}
    ).json()
    assert sorted(tag for run in runs for tag in run["tags"] if "trial:" in tag) == [
        f"trainyard.trial:{number}" for number in range(5)
    ]
    names = {file.path for file in storage.list_files(f"{folder}/best_model")}
    assert "controller.json" in names and any(name.endswith(".safetensors") for name in names)
    details = yard.rest.get(f"{jobs}/{sweep}:automl_details")
    assert json.dumps(details["best"]) and len(details["trials"]) == 5
    child = str(yard.rest.send("POST", jobs, {"action": "evaluate", "parent_job_id": sweep}).json())
    poll(lambda: yard.rest.get(f"{jobs}/{child}")["status"] == "Done", "the child", 60, every_s=0.3)
