"""What goes and what stays: deletion, age, leftovers; every freed byte is counted once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from facade_support import Facade, Member, Prefect, free_port, serve
from prefect_trainyard.api.catalog import Catalog
from prefect_trainyard.api.catalog.models import Job, Org, UsageRecord, utc_now
from prefect_trainyard.api.services.container import Services
from prefect_trainyard.api.services.upkeep.garbage import Kind, Report
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import ArtifactStorage, layout
from prefect_trainyard.schemas.actions import Action
from sqlalchemy import select, update
from support import mlflow_served, poll
from sweep_support import searching, start_running, start_trial

NOW_S = -60.0
"""Minimum age that lets files of this moment count as old, whatever the clock of the storage says."""


@pytest.fixture(scope="module")
def mlflow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def mlflow_url(mlflow_folder: Path) -> Iterator[str]:
    """A real MLflow server: what it frees and what it keeps is the question here."""
    with mlflow_served(mlflow_folder) as url:
        yield url


@pytest.fixture(scope="module")
def facade(prefect_server: Prefect, mlflow_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facade]:
    settings = ApiSettings(
        home=tmp_path_factory.mktemp("yard"),
        prefect_api_url=prefect_server.api_url,
        mlflow_url=mlflow_url,
        free_min_bytes=0,
        reconcile_interval_s=2.0,
    )
    yield from serve(settings, prefect_server)


class Mlflow:
    """What a job leaves in MLflow, made over its REST API as the clients of MLflow do."""

    def __init__(self, url: str, folder: Path) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/2.0/", timeout=30)
        self._folder = folder / "files"

    def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self._client.request(method, path, **({"params": body} if method == "GET" else {"json": body}))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def record(self, org: str, job_id: str, sweep_id: str | None = None) -> tuple[str, str]:
        """Make a run with a picture and a logged model, both with files; return the ids of both."""
        made = self.call("POST", "mlflow/experiments/create", name=f"{org}/{uuid4()}")["experiment_id"]
        tags = [{"key": "trainyard.job_id", "value": job_id}]
        tags += [{"key": "trainyard.sweep", "value": sweep_id}] if sweep_id is not None else []
        run = self.call("POST", "mlflow/runs/create", experiment_id=made, tags=tags)["run"]["info"]
        model = self.call(
            "POST", "mlflow/logged-models", experiment_id=made, name="train", source_run_id=run["run_id"]
        )["model"]["info"]
        for uri, name in ((run["artifact_uri"], "figures/loss.png"), (model["artifact_uri"], "data/weights.bin")):
            path = uri.removeprefix("mlflow-artifacts:/").strip("/")
            self._client.put(f"mlflow-artifacts/artifacts/{path}/{name}", content=os.urandom(5000)).raise_for_status()
        return run["run_id"], model["model_id"]

    def register(self, run_id: str, model_id: str) -> str:
        name = f"m{uuid4().hex[:8]}"
        self.call("POST", "mlflow/registered-models/create", name=name)
        ids = {"run_id": run_id, "model_id": model_id}
        self.call("POST", "mlflow/model-versions/create", name=name, source=f"models:/{model_id}", **ids)
        return name

    def stage(self, run_id: str) -> str:
        return str(self.call("GET", "mlflow/runs/get", run_id=run_id)["run"]["info"]["lifecycle_stage"])

    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())


@pytest.fixture
def mlflow(mlflow_url: str, mlflow_folder: Path) -> Mlflow:
    return Mlflow(mlflow_url, mlflow_folder)


def stored(member: Member) -> dict[str, int]:
    return {file.path: file.size_bytes for file in member.facade.storage.list_files(member.org, internal=True)}


def trained(member: Member) -> tuple[str, str]:
    """Return an experiment's path and its finished job."""
    owner = f"experiments/{member.ready()}"
    return owner, finished(member, owner)


def finished(member: Member, owner: str, job_id: str | None = None) -> str:
    job_id = job_id or member.start(owner, "train")
    member.finish(job_id)
    member.wait(owner, job_id, "Done")
    return job_id


def change_job(settings: ApiSettings, job_id: str, **values: Any) -> None:
    change(settings, update(Job).where(Job.id == UUID(job_id)).values(**values))


def name_run(settings: ApiSettings, job_id: str, run_id: str) -> None:
    """Let the result of a job name its MLflow run, as that of a real training does."""

    async def run() -> None:
        catalog = Catalog(settings.database_url)
        async with catalog.writing() as session:
            job = await session.get_one(Job, UUID(job_id))
            job.result = {**(job.result or {}), "mlflow_run_id": run_id}
        await catalog.close()

    asyncio.run(run())


def change(settings: ApiSettings, statement: Any) -> None:
    async def run() -> None:
        catalog = Catalog(settings.database_url)
        async with catalog.writing() as session:
            await session.execute(statement)
        await catalog.close()

    asyncio.run(run())


def collect(settings: ApiSettings, **options: Any) -> Report:
    """Clean up as `trainyard gc` does, beside the running facade."""

    async def run() -> Report:
        services = Services.build(settings)
        try:
            return await services.garbage.collect(**{"min_age_s": NOW_S, **options})
        finally:
            await services.close()

    return asyncio.run(run())


def delete(member: Member, owner: str, job_id: str) -> httpx.Response:
    return member.client.delete(f"{owner}/jobs/{job_id}")


def refusal(member: Member, owner: str, job_id: str) -> str:
    answer = delete(member, owner, job_id)
    assert answer.status_code == 400, answer.text
    assert member.client.get(f"{owner}/jobs/{job_id}").status_code == 200
    return str(answer.json()["error_desc"])


def test_deletion_frees_everything_and_tells_how_much(ann, mlflow: Mlflow) -> None:
    owner, job_id = trained(ann)
    run_id, model_id = mlflow.record(ann.org, job_id)
    storage = ann.facade.storage
    storage.write_bytes(layout.earlier_log(ann.org, job_id), b"an earlier segment\n")
    before, kept_by_mlflow = stored(ann), mlflow.bytes()
    answer = delete(ann, owner, job_id)
    assert answer.status_code == 200
    gone = {path: size for path, size in before.items() if path not in stored(ann)}
    assert all(job_id in path for path in gone) and not any(job_id in path for path in stored(ann))
    assert answer.json() == {"freed_bytes": sum(gone.values()) + kept_by_mlflow - mlflow.bytes()}
    assert kept_by_mlflow - mlflow.bytes() == 10_000 and mlflow.stage(run_id) == "deleted"
    found = mlflow._client.get(f"mlflow/logged-models/{model_id}")
    assert found.status_code == 404 or found.json()["model"]["info"].get("lifecycle_stage") == "deleted"
    assert not ann.facade.prefect.exists(job_id)
    assert delete(ann, owner, job_id).status_code == 404
    assert collect(ann.facade.settings, org=ann.org).items == []


def test_delete_of_a_sweep_takes_the_runs_of_its_trials_along(ann, mlflow: Mlflow) -> None:
    owner = searching(ann)
    sweep = finished(ann, owner)
    trials = [start_trial(ann, sweep, number, "COMPLETED") for number in range(2)]
    recorded = [mlflow.record(ann.org, trial, sweep)[0] for trial in trials]
    of_sweep, of_other = mlflow.record(ann.org, sweep)[0], mlflow.record(ann.org, str(uuid4()), str(uuid4()))[0]
    before = mlflow.bytes()
    planned = collect(ann.facade.settings, org=ann.org, older_than=timedelta(0), dry_run=True)
    freed = delete(ann, owner, sweep).json()["freed_bytes"]
    assert [mlflow.stage(run_id) for run_id in (*recorded, of_sweep, of_other)] == ["deleted"] * 3 + ["active"]
    assert before - mlflow.bytes() == 30_000
    assert [(item.name, item.size_bytes) for item in planned.items] == [(sweep, freed)]
    assert not any(map(ann.facade.prefect.exists, (sweep, *trials)))


def test_a_trial_that_the_registry_needs_keeps_its_run(ann, mlflow: Mlflow) -> None:
    owner = searching(ann)
    sweep = finished(ann, owner)
    run_id, model_id = mlflow.record(ann.org, start_trial(ann, sweep, 0, "COMPLETED"), sweep)
    mlflow.register(run_id, model_id)
    assert delete(ann, owner, sweep).status_code == 200
    assert mlflow.stage(run_id) == "active" and not ann.facade.prefect.exists(sweep)


def test_folders_of_trials_are_no_litter(ann) -> None:
    owner = searching(ann)
    running, done = start_running(ann, owner), finished(ann, owner)
    storage, paths = ann.facade.storage, []
    for sweep in (running, done):
        for name in ("model_epoch_001.safetensors", "log.txt"):
            paths.append(f"{layout.trial(ann.org, sweep, 0)}/{name}")
            storage.write_bytes(paths[-1], b"of a trial")
    half = [f"{layout.trial(ann.org, sweep, 0)}/.checkpoint.42.tmp" for sweep in (running, done)]
    for path in half:
        storage.write_bytes(path, b"half a checkpoint")
    assert [item.name for item in collect(ann.facade.settings, org=ann.org).items] == half[1:]
    assert all(storage.exists(path) for path in (*paths, half[0]))


def test_what_a_job_has_cost_is_known_after_its_deletion(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    ended, running = finished(ann, owner), ann.start(owner, "train")
    ann.facade.prefect.move(running, "RUNNING")
    ann.wait(owner, running, "Running")
    assert delete(ann, owner, ended).status_code == 200
    assert ann.client.delete(owner).status_code == 200  # cancels the other one, whose worker then ends it
    ann.facade.prefect.move(running, "CANCELLED")
    poll(lambda: not ann.facade.prefect.exists(running), "the flow run to go", 30)

    async def read() -> set[str]:
        catalog = Catalog(ann.facade.settings.database_url)
        async with catalog.reading() as session:
            rows = await session.scalars(select(UsageRecord).where(UsageRecord.org == ann.org))
            found = {str(row.job_id) for row in rows if row.action == "train" and row.experiment_id is not None}
        await catalog.close()
        return found

    assert asyncio.run(read()) == {ended, running}


def test_run_that_has_no_tag_yet_is_found_by_what_the_job_wrote_down(ann, mlflow: Mlflow) -> None:
    owner, job_id = trained(ann)
    run_id, _ = mlflow.record(ann.org, str(uuid4()))
    ann.facade.storage.write_json(f"{layout.job(ann.org, job_id)}/mlflow_run.json", {"run_id": run_id})
    assert delete(ann, owner, job_id).status_code == 200
    assert mlflow.stage(run_id) == "deleted"


def test_paused_job_can_be_deleted(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.facade.prefect.move(job_id, "PAUSED", "Suspended")
    poll(lambda: ann.job(owner, job_id)["status"] not in ("Pending", "Running"), "the pause", 30)
    assert delete(ann, owner, job_id).status_code == 200
    assert not ann.facade.prefect.exists(job_id) and not any(job_id in path for path in stored(ann))


def test_what_somebody_needs_stays_and_the_reason_is_told(ann, mlflow: Mlflow) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    assert "has not ended" in refusal(ann, owner, job_id)
    child = ann.start(owner, "evaluate", parent_job_id=finished(ann, owner, job_id=job_id))
    assert child in refusal(ann, owner, job_id)
    assert ann.client.post(f"{owner}/jobs/{child}:cancel").status_code == 200
    ann.wait(owner, child, "Canceled")
    pin = {
        "checkpoint_choose_method": "from_epoch_number",
        "checkpoint_epoch_number": {f"from_epoch_number_{job_id}": 2},
    }
    assert ann.client.patch(owner, content=json.dumps(pin)).status_code == 200
    assert "its epochs" in refusal(ann, owner, job_id)
    assert ann.client.patch(owner, content=json.dumps({"checkpoint_choose_method": "best_model"})).status_code == 200
    run_id, model_id = mlflow.record(ann.org, job_id)
    name = mlflow.register(run_id, model_id)
    name_run(ann.facade.settings, job_id, run_id)
    assert run_id in refusal(ann, owner, job_id)
    assert run_id in ann.client.delete(owner).json()["error_desc"]
    mlflow.call("DELETE", "mlflow/registered-models/delete", name=name)
    assert delete(ann, owner, job_id).status_code == 200


def test_index_stays_while_a_job_reads_the_data(ann) -> None:
    dataset_id = ann.filled()
    owner = f"datasets/{dataset_id}"
    convert = ann.start(owner, "convert")
    ann.finish(convert, Action.CONVERT, None)
    ann.wait(owner, convert, "Done")
    experiment = f"experiments/{ann.experiment(train_datasets=[dataset_id])}"
    reader = ann.start(experiment, "train")
    assert reader in refusal(ann, owner, convert)
    ann.facade.prefect.move(reader, "CANCELLED")
    ann.wait(experiment, reader, "Canceled")
    assert delete(ann, owner, convert).status_code == 200


def test_deletion_while_mlflow_is_away_is_finished_later(ann, mlflow: Mlflow) -> None:
    owner, job_id = trained(ann)
    run_id, model_id = mlflow.record(ann.org, job_id)
    settings = ann.facade.settings
    away = settings.model_copy(update={"mlflow_url": f"http://127.0.0.1:{free_port()}", "reconcile_interval_s": 300})

    async def delete_without_mlflow() -> int:
        services = Services.build(away)
        try:
            return await services.cleanup.delete_job(ann.org, UUID(job_id))
        finally:
            await services.close()

    before = mlflow.bytes()
    freed = asyncio.run(delete_without_mlflow())
    assert ann.client.get(f"{owner}/jobs/{job_id}").status_code == 404
    assert freed == 0 and model_id
    poll(lambda: mlflow.stage(run_id) == "deleted" and not any(job_id in path for path in stored(ann)), "the rest", 30)
    assert before - mlflow.bytes() == 10_000
    poll(lambda: not ann.facade.prefect.exists(job_id), "the flow run to go", 30)


def test_what_the_registry_needs_outlives_its_job(ann, mlflow: Mlflow) -> None:
    """A model that is registered after its job was deleted but before MLflow was asked, for example."""
    owner, job_id = trained(ann)
    run_id, model_id = mlflow.record(ann.org, job_id)
    name = mlflow.register(run_id, model_id)
    before = mlflow.bytes()
    freed = delete(ann, owner, job_id).json()["freed_bytes"]  # its result does not name the run
    assert freed > 0 and not any(job_id in path for path in stored(ann))
    assert mlflow.bytes() == before and mlflow.stage(run_id) == "active"
    assert collect(ann.facade.settings, org=ann.org).items == []
    mlflow.call("DELETE", "mlflow/registered-models/delete", name=name)
    report = collect(ann.facade.settings, org=ann.org)
    assert [(item.kind, item.name, item.size_bytes) for item in report.items] == [(Kind.DELETED, job_id, 10_000)]
    assert mlflow.stage(run_id) == "deleted" and mlflow.bytes() == before - 10_000


@pytest.fixture
def s3_facade(prefect_server: Prefect, s3_storage: ArtifactStorage, tmp_path: Path) -> Iterator[Facade]:
    settings = ApiSettings(
        home=tmp_path,
        prefect_api_url=prefect_server.api_url,
        storage_url=s3_storage.url,
        storage_endpoint_url=s3_storage.endpoint_url,
        free_min_bytes=0,
    )
    for facade in serve(settings, prefect_server):
        yield _OnS3(facade.url, facade.app, facade.settings, facade.prefect)


class _OnS3(Facade):
    @property
    def storage(self) -> ArtifactStorage:
        return ArtifactStorage(url=self.settings.storage_url, endpoint_url=self.settings.storage_endpoint_url)


def litter(member: Member, job_id: str, dataset_id: str) -> dict[str, int]:
    """Leave what crashes, bugs and people leave; return what has to go."""
    storage, org = member.facade.storage, member.org
    junk = {
        f"{layout.job(org, uuid4())}/train/weights.safetensors": 1000,
        layout.log(org, uuid4()): 100,
        layout.earlier_log(org, uuid4()): 50,
        layout.download(org, uuid4()): 2000,
        f"{layout.dataset(org, uuid4())}/raw/images/cat/1.png": 300,
        layout.experiment(org, uuid4()): 30,
        f"{layout.job(org, job_id)}/train/.incoming-abc": 70,
        f"{layout.job(org, job_id)}/train/.checkpoint.42.tmp": 80,
        f"{layout.dataset(org, dataset_id)}/.incoming-def": 90,
        f"{layout.dataset(org, dataset_id)}/indexes/{'0' * 64}/data.arrow": 400,
    }
    for path, size in junk.items():
        storage.write_bytes(path, os.urandom(size))
    return junk


def treasure(member: Member, dataset_id: str) -> list[str]:
    """Leave what looks like litter and is none."""
    storage, org = member.facade.storage, member.org
    current = f"{layout.dataset(org, dataset_id)}/indexes/{'1' * 64}"
    kept = [
        f"{current}/data.arrow",
        f"{layout.jobs(org)}/notes.txt",
        f"{layout.jobs('local')}/{uuid4()}/weights.safetensors",
        f"{layout.base_experiment(uuid4())}/weights.safetensors",
        f"{layout.jobs('nobody')}/{uuid4()}/weights.safetensors",
        f"{org}/datasets/readme.md",
    ]
    for path in kept:
        storage.write_bytes(path, b"treasure")
    pointer = f"{layout.dataset(org, dataset_id)}/index.json"
    storage.write_json(pointer, {"path": current})
    return [*kept, pointer]


def check_garbage(member: Member) -> None:
    storage, settings = member.facade.storage, member.facade.settings
    dataset_id = member.filled()
    owner = f"experiments/{member.experiment(train_datasets=[dataset_id])}"
    job_id = finished(member, owner)
    unknown = member.facade.prefect.start_by_hand(
        "train/classification_pyt", {"org": "elsewhere", "experiment_id": str(uuid4())}
    )
    storage.write_bytes(f"{layout.job(member.org, unknown)}/kept.txt", b"a run that no facade has adopted yet")
    precious, junk = treasure(member, dataset_id), litter(member, job_id, dataset_id)
    before = {file.path: file.size_bytes for file in storage.list_files("", internal=True)}
    assert collect(settings, org=member.org, min_age_s=3600.0).items == []

    planned = collect(settings, org=member.org, dry_run=True)
    assert {file.path: file.size_bytes for file in storage.list_files("", internal=True)} == before
    report = collect(settings, org=member.org)
    after = {file.path: file.size_bytes for file in storage.list_files("", internal=True)}
    assert set(before) - set(after) == set(junk)
    assert report.freed_bytes == sum(before.values()) - sum(after.values()) == sum(junk.values())
    assert replace(report, dry_run=True) == planned
    assert set(precious) <= set(after) and f"{layout.job(member.org, unknown)}/kept.txt" in after
    again = collect(settings, org=member.org)
    assert (again.items, again.freed_bytes) == ([], 0)
    assert member.job(owner, job_id)["status"] == "Done"


def test_litter_goes_and_nothing_else(ann) -> None:
    check_garbage(ann)


def test_litter_in_an_s3_storage_goes_and_nothing_else(s3_facade: Facade) -> None:
    check_garbage(s3_facade.member())


def test_files_of_running_jobs_and_of_data_that_is_being_read_stay(ann) -> None:
    dataset_id = ann.filled()
    owner = f"experiments/{ann.experiment(train_datasets=[dataset_id])}"
    job_id = ann.start(owner, "train")
    half = f"{layout.job(ann.org, job_id)}/train/.checkpoint.42.tmp"
    index = f"{layout.dataset(ann.org, dataset_id)}/indexes/{'0' * 64}/data.arrow"
    for path in (half, index):
        ann.facade.storage.write_bytes(path, b"in use")
    assert collect(ann.facade.settings, org=ann.org).items == []
    ann.facade.prefect.move(job_id, "CANCELLED")
    ann.wait(owner, job_id, "Canceled")
    names = {item.name for item in collect(ann.facade.settings, org=ann.org).items}
    assert names == {half, index.rpartition("/")[0]}


def test_what_is_older_than_the_org_is_of_an_earlier_catalog_and_stays(ann) -> None:
    path = f"{layout.dataset(ann.org, uuid4())}/raw/images/cat/1.png"
    ann.facade.storage.write_bytes(path, b"of an earlier catalog")
    change(
        ann.facade.settings, update(Org).where(Org.name == ann.org).values(created_at=utc_now() + timedelta(hours=1))
    )
    assert collect(ann.facade.settings, org=ann.org).items == []
    assert ann.facade.storage.exists(path)


def test_interrupted_uploads_go_when_none_is_going_on(ann) -> None:
    left = ".incoming/0123/archive"
    ann.facade.storage.write_bytes(left, b"half an archive")
    assert left not in {item.name for item in collect(ann.facade.settings, org=ann.org).items}
    report = collect(ann.facade.settings)
    assert (Kind.HALF_WRITTEN, ".incoming/0123", 15) in {(i.kind, i.name, i.size_bytes) for i in report.items}
    assert not ann.facade.storage.exists(left)


def aged(member: Member, owner: str, days: float) -> str:
    job_id = finished(member, owner)
    change_job(member.facade.settings, job_id, ended_at=utc_now() - timedelta(days=days))
    return job_id


def test_old_jobs_go_by_the_rule_of_their_org(ann, mlflow: Mlflow) -> None:
    settings = ann.facade.settings
    owner = f"experiments/{ann.ready()}"
    ages = {aged(ann, owner, days): days for days in (50, 40, 30, 5, 35)}
    by_age = {days: job_id for job_id, days in ages.items()}
    child = ann.start(owner, "train", parent_job_id=by_age[40])
    run_id, model_id = mlflow.record(ann.org, by_age[50])
    name = mlflow.register(run_id, model_id)
    name_run(settings, by_age[50], run_id)
    assert collect(settings, org=ann.org).items == []
    # The newest two by creation are the child and the one of 35 days.
    change(settings, update(Org).where(Org.name == ann.org).values(keep_days=20.0, keep_jobs=2))
    planned = collect(settings, org=ann.org, dry_run=True)
    before = stored(ann)
    report = collect(settings, org=ann.org)
    assert [(item.kind, item.name) for item in report.items] == [(Kind.OLD, by_age[30])]
    assert {job.job_id: job.why for job in report.kept}.keys() == {UUID(by_age[50]), UUID(by_age[40])}
    assert child in next(job.why for job in report.kept if str(job.job_id) == by_age[40])
    assert replace(report, dry_run=True) == planned
    assert report.freed_bytes == sum(before.values()) - sum(stored(ann).values()) > 0
    assert collect(settings, org=ann.org).items == []
    assert {job["id"] for job in ann.client.get(f"{owner}/jobs").json()} == {*ages, child} - {by_age[30]}
    mlflow.call("DELETE", "mlflow/registered-models/delete", name=name)
    assert [item.name for item in collect(settings, org=ann.org).items] == [by_age[50]]


def test_age_can_be_given_for_one_round(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    old, young = aged(ann, owner, 3), aged(ann, owner, 1)
    report = collect(ann.facade.settings, org=ann.org, older_than=timedelta(days=2))
    assert [item.name for item in report.items] == [old]
    assert [job["id"] for job in ann.client.get(f"{owner}/jobs").json()] == [young]


def test_interrupted_deletion_is_finished_by_the_clean_up(facade: Facade, tmp_path: Path) -> None:
    away = {"home": tmp_path, "mlflow_url": f"http://127.0.0.1:{free_port()}", "reconcile_interval_s": 300.0}
    settings = ApiSettings(**{**facade.settings.model_dump(), "database_url": "", "storage_url": "", **away})
    for other in serve(settings, facade.prefect):
        ann = other.member()
        owner = f"experiments/{ann.ready()}"
        job_id = ann.start(owner, "train")
        ann.finish(job_id)
        ann.wait(owner, job_id, "Done")
        before = stored(ann)
        assert delete(ann, owner, job_id).json() == {"freed_bytes": 0}
        assert stored(ann) == before
        report = collect(settings.model_copy(update={"mlflow_url": facade.settings.mlflow_url}), org=ann.org)
        assert [(item.kind, item.name) for item in report.items] == [(Kind.DELETED, job_id)]
        assert report.freed_bytes == sum(before.values()) - sum(stored(ann).values()) > 0
        assert not facade.prefect.exists(job_id)


def test_unknown_org_is_refused(facade: Facade) -> None:
    with pytest.raises(Exception, match="no org"):
        collect(facade.settings, org="nobody")
