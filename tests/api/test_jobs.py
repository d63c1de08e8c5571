"""Jobs between REST and Prefect: one id, one life, whoever starts and ends them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from facade_support import serve
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from prefect_trainyard.schemas.actions import Action
from support import poll

NO_ZONE_LENGTH = 26


def test_post_answers_the_flow_run_id_and_the_job_is_readable_at_once(ann) -> None:
    experiment_id = ann.ready()
    answer = ann.post_job(f"experiments/{experiment_id}", "train", name="first", description="a try", specs={"gpus": 1})
    assert answer.status_code == 201 and isinstance(answer.json(), str)
    job = ann.job(f"experiments/{experiment_id}", answer.json())
    assert job["id"] == answer.json() and job["status"] == "Pending" and job["parent_id"] is None
    assert (job["name"], job["description"], job["specs"]) == ("first", "a try", {"gpus": 1})
    assert job["result"]["detailed_status"]["message"] and job["experiment_id"] == experiment_id
    assert len(job["created_on"]) <= NO_ZONE_LENGTH
    run = ann.facade.prefect.run(job["id"])
    assert run["parameters"]["org"] == ann.org and run["parameters"]["experiment_id"] == experiment_id
    assert run["parameters"]["spec"] == {}  # unknown keys are the client's own
    tags = {f"org:{ann.org}", "action:train", "network:classification_pyt", f"experiment:{experiment_id}"}
    assert {f"trainyard.{tag}" for tag in tags} <= set(run["tags"])
    assert ann.client.get(f"experiments/{experiment_id}").json()["jobs"][0]["id"] == job["id"]
    assert [j["id"] for j in ann.client.get(f"experiments/{experiment_id}/jobs").json()] == [job["id"]]


def test_log_is_listed_and_served_from_the_first_second(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    listed = ann.client.get(
        f"{owner}/jobs/{job_id}:list_files", params={"retrieve_logs": "True", "retrieve_specs": "False"}
    )
    assert listed.json() == [f"logs/{job_id}.txt"]
    with_specs = ann.client.get(f"{owner}/jobs/{job_id}:list_files", params={"retrieve_specs": "True"})
    assert with_specs.json() == [f"specs/{job_id}.json"]
    log = ann.client.get(f"{owner}/jobs/{job_id}/logs")
    assert log.status_code == 200 and log.headers["content-type"].startswith("text/plain") and log.text
    for name in (f"logs/{job_id}.txt", f"../logs/{job_id}.txt"):
        picked = ann.client.get(
            f"{owner}/jobs/{job_id}:download_selective_files", params={"file_lists": [name], "tar_files": "False"}
        )
        assert picked.text == log.text


def test_progress_reaches_the_job_within_a_moment(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.wait(owner, job_id, "Running")
    epoch = {"epoch": 1, "max_epoch": 3, "metrics": {"loss": 0.5, "accuracy_top-1": 0.75}, "seconds": 2.0}
    ann.facade.prefect.tell(job_id, message="epoch 1 of 3", epoch=epoch, eta_s=4.0, fraction=1 / 3)
    ann.facade.prefect.tell(job_id, message="nonsense", fraction=7)

    def seen() -> dict[str, Any] | None:
        result = ann.job(owner, job_id)["result"]
        return result if "epoch" in result else None

    result = poll(seen, "the progress", 30)
    assert (result["epoch"], result["max_epoch"], result["message"]) == (1, 3, "epoch 1 of 3")
    curve = next(c for c in result["graphical"] if c["metric"] == "loss")
    assert curve["values"] == {"1": 0.5} and (curve["x_min"], curve["x_max"]) == (1, 1)
    assert result["time_per_epoch"] == "0:00:02.00" and result["eta"] == "0:00:04.00"


def test_done_job_has_results_tar_and_checkpoint_numbers(ann) -> None:
    experiment_id = ann.ready()
    owner = f"experiments/{experiment_id}"
    job_id = ann.start(owner, "train")
    ann.finish(job_id)
    job = ann.wait(owner, job_id, "Done")
    result = job["result"]
    assert result["kpi"][0] == {"metric": "accuracy_top-1", "values": {"2": 0.5}} and result["key_metric"] == 0.5
    assert result["categorical"][0]["category_wise_values"][0] == {"category": "cat", "value": 0.75}
    assert result["graphical"][0]["values"] == {"1": 1.0, "2": 0.5, "3": 1 / 3}
    assert result["stats"] == [{"metric": "parameters", "value": "123"}]
    assert result["detailed_status"]["status"] == "SUCCESS"
    epochs = ann.client.get(owner).json()["checkpoint_epoch_number"]
    assert epochs == {f"best_model_{job_id}": 2, f"latest_model_{job_id}": 3}
    assert ann.facade.storage.read_json(layout.experiment(ann.org, experiment_id))["checkpoint_epochs"] == epochs
    assert ann.client.get(f"{owner}/jobs/{job_id}/logs").text.endswith("\nDone EOF\n")

    path = f"{owner}/jobs/{job_id}:download"
    whole = ann.client.get(path)
    assert len(whole.content) == job["job_tar_stats"]["file_size"] == 300_000
    assert hashlib.sha256(whole.content).hexdigest() == job["job_tar_stats"]["sha256_digest"]
    assert "attachment" in whole.headers["content-disposition"]
    head = ann.client.head(path)
    assert head.status_code == 200 and head.headers["content-length"] == "300000" and head.content == b""
    part = ann.client.get(path, headers={"Range": "bytes=123456-"})
    assert part.status_code == 206 and part.content == whole.content[123_456:]
    assert ann.client.get(path, headers={"Range": "bytes=300000-"}).status_code == 416


def test_selective_download_picks_by_name_and_by_best_and_latest(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")
    path = f"{owner}/jobs/{job_id}:download_selective_files"

    def members(**query: Any) -> dict[str, bytes]:
        answer = ann.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        assert int(answer.headers["content-length"]) == len(answer.content)
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
            return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]

    best, latest = (f"{job_id}/train/model_epoch_00{n}.safetensors" for n in (2, 3))
    assert members(best_model="True", latest_model="False", tar_files="True") == {best: b"weights of epoch 2"}
    assert set(members(best_model="True", latest_model="True", file_lists=[f"{job_id}/result.json"])) == {
        best,
        latest,
        f"{job_id}/result.json",
    }
    assert {best, latest} <= set(members())
    one = ann.client.get(path, params={"file_lists": latest, "tar_files": "False"})
    assert one.content == b"weights of epoch 3"
    for name in ("../../token.key", "/etc/passwd", f"{job_id}/../../logs", f"{job_id}/train/nothing", "", "logs/x.txt"):
        refused = ann.client.get(path, params={"file_lists": [name]})
        assert refused.status_code == 404, name


def test_no_download_before_the_end(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    for method in ("GET", "HEAD"):
        assert ann.client.request(method, f"{owner}/jobs/{job_id}:download").status_code == 404
    assert ann.job(owner, job_id)["job_tar_stats"] == {}


def test_completed_run_without_its_files_is_not_done(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.facade.prefect.move(job_id, "COMPLETED")
    ann.wait(owner, job_id, "Running")
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")


def test_child_waits_for_its_parent_and_is_released_by_its_end(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    parent = ann.start(owner, "train")
    child = ann.start(owner, "evaluate", parent_job_id=parent)
    waiting = ann.job(owner, child)
    assert waiting["status"] == "Pending" and parent in waiting["result"]["detailed_status"]["message"]
    run = ann.facade.prefect.run(child)
    assert run["state"]["name"] == "AwaitingParent" and run["parameters"]["parent_job_id"] == parent
    ann.finish(parent)

    def released() -> bool:
        return bool(ann.facade.prefect.run(child)["state"]["name"] == "Scheduled")

    poll(released, "the child to be released", 30)
    assert ann.facade.prefect.run(child)["next_scheduled_start_time"] < datetime.now(UTC).isoformat()
    grandchild = ann.start(owner, "evaluate", parent_job_id=parent)
    assert ann.facade.prefect.run(grandchild)["state"]["name"] == "Scheduled"


@pytest.mark.parametrize("end", ["FAILED", "CRASHED", "CANCELLED"])
def test_children_of_a_parent_that_did_not_make_it_fail_at_once_with_the_reason(ann, end: str) -> None:
    owner = f"experiments/{ann.ready()}"
    parent = ann.start(owner, "train")
    child = ann.start(owner, "prune", parent_job_id=parent)
    grandchild = ann.start(owner, "retrain", parent_job_id=child)
    ann.facade.prefect.move(parent, "RUNNING")
    ann.facade.prefect.move(parent, end, message="Flow run encountered an exception: JobFailed: out of memory")
    status = "Canceled" if end == "CANCELLED" else "Error"
    said = ann.wait(owner, child, status)["result"]["message"]
    assert parent in said
    assert "out of memory" in said or end == "CANCELLED"
    told = ann.wait(owner, grandchild, status)["result"]["message"]
    assert child in told and parent in told and ("out of memory" in told or end == "CANCELLED")
    assert ann.job(owner, parent)["status"] == status
    log = ann.client.get(f"{owner}/jobs/{child}/logs").text
    assert parent in log and log.endswith("\nError EOF\n")
    late = ann.post_job(owner, "evaluate", parent_job_id=parent)
    assert late.status_code == 400 and parent in late.json()["error_desc"]


def test_cancel_ends_a_pending_job_at_once_and_asks_a_running_one(ann) -> None:
    owner = f"datasets/{ann.filled()}"
    pending, running = ann.start(owner, "convert"), ann.start(owner, "convert")
    ann.facade.prefect.move(running, "RUNNING")
    ann.wait(owner, running, "Running")
    for job_id in (pending, running):
        assert ann.client.post(f"{owner}/jobs/{job_id}:cancel").status_code == 200
    assert ann.job(owner, pending)["status"] == "Canceled"
    assert ann.facade.prefect.run(running)["state"]["type"] == "CANCELLING"
    assert ann.job(owner, running)["status"] == "Running"
    ann.facade.prefect.move(running, "CANCELLED")
    ann.wait(owner, running, "Canceled")
    assert ann.client.post(f"{owner}/jobs/{running}:cancel").status_code == 404


def test_waiting_job_can_be_cancelled_and_its_parent_goes_on(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    parent = ann.start(owner, "train")
    child = ann.start(owner, "evaluate", parent_job_id=parent)
    ann.client.post(f"{owner}/jobs/{child}:cancel")
    assert ann.job(owner, child)["status"] == "Canceled"
    assert ann.job(owner, parent)["status"] == "Pending"


def test_resume_goes_on_under_the_same_id_with_another_spec(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.facade.prefect.move(job_id, "CANCELLED")
    ann.wait(owner, job_id, "Canceled")
    poll(lambda: "EOF" in ann.client.get(f"{owner}/jobs/{job_id}/logs").text, "the end of the log", 30)
    spec = {"train": {"train_config": {"runner": {"max_epochs": 7}}}, "gpus": 1}
    answer = ann.client.post(
        f"{owner}/jobs/{job_id}:resume", content=json.dumps({"parent_job_id": None, "specs": spec})
    )
    assert answer.status_code == 200, answer.text
    job = ann.job(owner, job_id)
    assert job["status"] == "Pending" and job["specs"] == spec
    assert ann.facade.prefect.run(job_id)["state"]["type"] == "SCHEDULED"
    overrides = ann.facade.storage.read_json(f"{layout.job(ann.org, job_id)}/resume.json")
    assert overrides == {"spec": {"train": {"train_config": {"runner": {"max_epochs": 7}}}}}
    assert "EOF" not in ann.client.get(f"{owner}/jobs/{job_id}/logs").text
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")
    assert ann.client.get(f"{owner}/jobs/{job_id}/logs").text.count("EOF") == 1


def test_resume_is_for_stopped_training_only(ann) -> None:
    experiment_id = ann.ready()
    owner = f"experiments/{experiment_id}"
    train = ann.start(owner, "train")
    refused = ann.client.post(f"{owner}/jobs/{train}:resume", content="{}")
    assert refused.status_code == 400 and "pending" in refused.json()["error_desc"]
    evaluate = ann.start(owner, "evaluate", parent_job_id=train)
    ann.client.post(f"{owner}/jobs/{evaluate}:cancel")
    refused = ann.client.post(f"{owner}/jobs/{evaluate}:resume", content="{}")
    assert refused.status_code == 400 and "Action not train" in refused.json()["error_desc"]
    ann.client.post(f"{owner}/jobs/{train}:cancel")
    for body in (
        {"specs": {"train": {"train_config": {"runner": {"max_epochs": -1}}}}},
        {"parent_job_id": str(uuid4())},
    ):
        answer = ann.client.post(f"{owner}/jobs/{train}:resume", content=json.dumps(body))
        assert answer.status_code in (400, 404), body
        assert ann.job(owner, train)["status"] == "Canceled"


def test_delete_frees_what_the_job_left_and_forgets_it_everywhere(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    refused = ann.client.delete(f"{owner}/jobs/{job_id}")
    assert refused.status_code == 400 and "not ended" in refused.json()["error_desc"]
    child = ann.start(owner, "evaluate", parent_job_id=job_id)
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")
    assert child in ann.client.delete(f"{owner}/jobs/{job_id}").json()["error_desc"]
    ann.client.post(f"{owner}/jobs/{child}:cancel")
    assert ann.client.delete(f"{owner}/jobs/{job_id}").status_code == 200
    assert ann.client.get(f"{owner}/jobs/{job_id}").status_code == 404
    assert not [path for path in ann.facade.files_of(ann.org) if job_id in path]
    assert not ann.facade.prefect.exists(job_id)


def test_deleting_an_experiment_cancels_its_jobs_and_frees_everything(ann) -> None:
    experiment_id = ann.ready()
    owner = f"experiments/{experiment_id}"
    pending, running = ann.start(owner, "train"), ann.start(owner, "train")
    ann.facade.prefect.move(running, "RUNNING")
    ann.wait(owner, running, "Running")
    assert ann.client.delete(owner).status_code == 200
    assert ann.facade.prefect.run(running)["state"]["type"] == "CANCELLING"
    ann.facade.prefect.move(running, "CANCELLED")
    poll(lambda: not ann.facade.prefect.exists(running), "the running job to be purged", 30)
    poll(lambda: not ann.facade.prefect.exists(pending), "the pending job to be purged", 30)
    left = ann.facade.files_of(ann.org)
    assert all(path.startswith("datasets/") for path in left), left


def test_convert_works_on_a_dataset(ann) -> None:
    dataset_id = ann.filled("raw")
    owner = f"datasets/{dataset_id}"
    job_id = ann.start(owner, "convert", specs={})
    job = ann.job(owner, job_id)
    assert job["dataset_id"] == dataset_id and "experiment_id" not in job
    assert set(ann.facade.prefect.run(job_id)["parameters"]) == {"org", "dataset_id", "spec"}
    second = ann.start(owner, "dataset_convert", parent_job_id=job_id)
    assert ann.facade.prefect.run(second)["state"]["name"] == "AwaitingParent"
    refused = ann.client.delete(owner)
    assert refused.status_code == 400 and "in use" in refused.json()["error_desc"]
    ann.finish(job_id, Action.CONVERT, None)
    ann.wait(owner, job_id, "Done")
    ann.client.post(f"{owner}/jobs/{second}:cancel")
    assert ann.client.delete(owner).status_code == 200
    poll(lambda: ann.facade.files_of(ann.org) == [], "everything to be freed", 30)


def test_run_started_in_the_prefect_ui_is_the_same_job_in_rest(ann) -> None:
    experiment_id, dataset_id = ann.ready(), ann.filled()
    train = ann.facade.prefect.start_by_hand(
        "train/classification_pyt", {"org": ann.org, "experiment_id": experiment_id}
    )
    convert = ann.facade.prefect.start_by_hand(
        "convert/image_classification", {"org": ann.org, "dataset_id": dataset_id}
    )
    for owner, job_id, action in (
        (f"experiments/{experiment_id}", train, "train"),
        (f"datasets/{dataset_id}", convert, "convert"),
    ):
        poll(lambda o=owner, j=job_id: ann.client.get(f"{o}/jobs/{j}").status_code == 200, "the adoption", 30)
        job = ann.job(owner, job_id)
        assert (job["id"], job["action"], job["status"]) == (job_id, action, "Pending")
    ann.finish(train)
    assert ann.wait(f"experiments/{experiment_id}", train, "Done")["result"]["epoch"] == 3


def test_runs_of_unknown_orgs_and_of_foreign_experiments_are_nobodys_jobs(facade, ann) -> None:
    eve = facade.member(user="eve")
    experiment_id = ann.ready()
    for parameters in (
        {"org": "nosuchorg", "experiment_id": experiment_id},
        {"org": eve.org, "experiment_id": experiment_id},
        {"org": ann.org, "experiment_id": str(uuid4())},
    ):
        facade.prefect.start_by_hand("train/classification_pyt", parameters)
    own = facade.prefect.start_by_hand("train/classification_pyt", {"org": ann.org, "experiment_id": experiment_id})
    poll(lambda: ann.client.get(f"experiments/{experiment_id}/jobs/{own}").status_code == 200, "the adoption", 30)
    assert [j["id"] for j in ann.client.get("experiments/all/jobs").json()] == [own]
    assert eve.client.get("experiments/*/jobs").json() == []


def test_a_facade_that_was_away_catches_up_with_everything(prefect_server, tmp_path) -> None:
    settings = ApiSettings(home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=0)
    first = serve(settings, prefect_server)
    member = next(first).member()
    experiment_id = member.ready()
    owner = f"experiments/{experiment_id}"
    parent = member.start(owner, "train")
    child = member.start(owner, "evaluate", parent_job_id=parent)
    lost = member.start(owner, "train")
    first.close()
    member.finish(parent)
    by_hand = prefect_server.start_by_hand(
        "train/classification_pyt", {"org": member.org, "experiment_id": experiment_id}
    )
    prefect_server.client.delete(f"flow_runs/{lost}").raise_for_status()
    second = serve(settings, prefect_server)
    again = next(second).member(org=member.org)
    again.wait(owner, parent, "Done")
    assert "deleted" in again.wait(owner, lost, "Error")["result"]["message"]
    poll(lambda: again.client.get(f"{owner}/jobs/{by_hand}").status_code == 200, "the adoption", 30)
    poll(lambda: prefect_server.run(child)["state"]["name"] == "Scheduled", "the release of the child", 30)
    second.close()


def test_status_and_log_updates_are_kept_until_the_job_ends(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.wait(owner, job_id, "Running")
    path = f"{owner}/jobs/{job_id}"
    sent = ann.client.post(
        f"{path}:status_update", content=json.dumps({"status": '{"message": "halfway", "epoch": 1}'})
    )
    assert sent.status_code == 200 and sent.json()["result"]["message"] == "halfway"
    assert ann.client.get(f"{path}:status_update").json()["id"] == job_id
    lines = ann.facade.storage.read_bytes(f"{layout.job(ann.org, job_id)}/status.json").decode().splitlines()
    assert json.loads(lines[-1]) == {"message": "halfway", "epoch": 1}
    assert ann.client.post(f"{path}:log_update", content='{"log_contents": "a line"}').status_code == 200
    assert ann.client.request("GET", f"{path}:log_update", content='{"log_contents": "another"}').status_code == 200
    assert ann.client.get(f"{path}/logs").text.endswith("a line\nanother\n")
    for body in ('{"status": "x"}', '{"status": "[]"}', '{"status": 5}', '{"log_contents": 5}', "["):
        verb = "log_update" if "log" in body else "status_update"
        assert ann.client.post(f"{path}:{verb}", content=body).status_code == 400
    ann.facade.prefect.move(job_id, "CANCELLED")
    ann.wait(owner, job_id, "Canceled")
    poll(lambda: ann.client.get(f"{path}/logs").text.endswith("Error EOF\n"), "the end of the log", 30)
    assert ann.client.post(f"{path}:log_update", content='{"log_contents": "late"}').status_code == 409
    assert ann.client.get(f"{path}/logs").text.endswith("Error EOF\n")


def bad_jobs() -> dict[str, dict[str, Any]]:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    epochs = {"train": {"train_config": {"runner": {"max_epochs": 0}}}}
    return {
        "no action": {},
        "action is a number": {"action": 5},
        "unknown action": {"action": "fly"},
        "action of other networks": {"action": "auto3dseg"},
        "action of datasets": {"action": "convert"},
        "spec is a list": {"action": "train", "specs": []},
        "spec is text": {"action": "train", "specs": "x"},
        "spec below its bound": {"action": "train", "specs": epochs},
        "spec of a wrong type": {
            "action": "train",
            "specs": {"train": {"train_config": {"runner": {"max_epochs": "5"}}}},
        },
        "spec of another network": {"action": "train", "specs": {"kitti_config": {"image_extension": ".jpg"}}},
        "spec with a template": {"action": "train", "specs": {"x": {"__prefect_kind": "jinja", "template": "{{ 1 }}"}}},
        "spec with a hidden template": {"action": "train", "specs": {"x": [{"__prefect_kind": "json", "value": "1"}]}},
        "spec chooses a cluster": {"action": "train", "specs": {"cluster": "mine"}},
        "section is a list": {"action": "train", "specs": {"train": deep}},
        "name too long": {"action": "train", "name": "x" * 501},
        "name with a line break": {"action": "train", "name": "x\nEOF"},
        "description too long": {"action": "train", "description": "x" * 1001},
        "gpus below zero": {"action": "train", "num_gpu": -1},
        "gpus is a float": {"action": "train", "num_gpu": 1.5},
        "gpus above int64": {"action": "train", "num_gpu": 2**63},
        "unknown platform": {"action": "train", "platform": "tpu"},
        "parent is no uuid": {"action": "evaluate", "parent_job_id": "../x"},
        "parent is a number": {"action": "evaluate", "parent_job_id": 5},
        "evaluate without parent": {"action": "evaluate"},
        "prune without parent": {"action": "prune"},
        "retrain without parent": {"action": "retrain"},
        "export without parent": {"action": "export"},
        "engine without parent": {"action": "gen_trt_engine"},
        "inference without parent": {"action": "inference"},
    }


@pytest.mark.parametrize("body", bad_jobs().values(), ids=bad_jobs().keys())
def test_refuses_a_bad_job_and_starts_nothing(ann, body: dict[str, Any]) -> None:
    owner = f"experiments/{ann.ready()}"
    before, runs = ann.facade.files_of(ann.org), ann.facade.prefect.count_runs()
    answer = ann.client.post(f"{owner}/jobs", content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error_desc", "error_code"} and len(answer.json()["error_desc"]) > 15
    assert ann.client.get(f"{owner}/jobs").json() == []
    assert ann.facade.prefect.count_runs() == runs
    assert ann.facade.files_of(ann.org) == before


def test_spec_errors_name_path_and_bound(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    spec = {"train": {"train_config": {"runner": {"max_epochs": 0}}}}
    said = ann.post_job(owner, "train", specs=spec).json()["error_desc"]
    assert "train.train_config.runner.max_epochs" in said and "greater than or equal to 1" in said


def test_missing_data_is_named_before_anything_starts(ann) -> None:
    empty, single, full = ann.dataset(), ann.filled(classes=["cat"]), ann.filled()
    for datasets, words in (
        ({}, "train_datasets"),
        ({"train_datasets": [empty]}, empty),
        ({"train_datasets": [single]}, "two classes"),
        ({"train_datasets": [full], "eval_dataset": empty}, empty),
    ):
        answer = ann.post_job(f"experiments/{ann.experiment(**datasets)}", "train")
        assert answer.status_code == 400 and words in answer.json()["error_desc"], answer.text
    assert words in ann.post_job(f"datasets/{empty}", "convert").json()["error_desc"]
    no_eval = f"experiments/{ann.experiment(train_datasets=[full])}"
    train = ann.start(no_eval, "train")
    for action, field in (("evaluate", "eval_dataset"), ("inference", "inference_dataset")):
        answer = ann.post_job(no_eval, action, parent_job_id=train)
        assert answer.status_code == 400 and field in answer.json()["error_desc"]


def test_parents_must_have_made_what_the_action_needs(ann) -> None:
    dataset_id = ann.filled()
    owner = f"experiments/{ann.experiment(train_datasets=[dataset_id], eval_dataset=dataset_id)}"
    convert, train = ann.start(f"datasets/{dataset_id}", "convert"), ann.start(owner, "train")
    assert ann.post_job(owner, "train", parent_job_id=convert).status_code == 201
    for action, parent in (("prune", convert), ("gen_trt_engine", train), ("evaluate", convert)):
        answer = ann.post_job(owner, action, parent_job_id=parent)
        assert answer.status_code == 400 and "cannot start from" in answer.json()["error_desc"], answer.text
    assert ann.post_job(f"datasets/{dataset_id}", "convert", parent_job_id=train).status_code == 400


def test_checkpoint_choice_reaches_the_job(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    train = ann.start(owner, "train")
    ann.client.patch(owner, content=json.dumps({"checkpoint_choose_method": "from_epoch_number"}))
    refused = ann.post_job(owner, "evaluate", parent_job_id=train)
    assert refused.status_code == 400 and f"from_epoch_number_{train}" in refused.json()["error_desc"]
    ann.client.patch(owner, content=json.dumps({"checkpoint_epoch_number": {f"from_epoch_number_{train}": 2}}))
    run = ann.facade.prefect.run(ann.start(owner, "evaluate", parent_job_id=train))
    assert (run["parameters"]["checkpoint"], run["parameters"]["checkpoint_epoch"]) == ("from_epoch_number", 2)


def test_job_lists_sort_and_page(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    ids = [ann.start(owner, "train") for _ in range(3)]
    assert [j["id"] for j in ann.client.get(f"{owner}/jobs").json()] == ids[::-1]
    assert [j["id"] for j in ann.client.get(f"{owner}/jobs", params={"sort": "date-ascending"}).json()] == ids
    page = ann.client.get(f"{owner}/jobs", params={"skip": 1, "size": 1})
    assert [j["id"] for j in page.json()] == [ids[1]] and page.headers["x-pagination-total"] == "3"
    assert ann.client.get(f"{owner}/jobs", params={"sort": "name-ascending"}).status_code == 400


def test_fifty_posts_at_once_start_fifty_jobs(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    with ThreadPoolExecutor(16) as pool:
        ids = set(pool.map(lambda _: ann.start(owner, "train"), range(50)))
    assert len(ids) == 50
    assert {j["id"] for j in ann.client.get(f"{owner}/jobs").json()} == ids
