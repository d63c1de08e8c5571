"""The flows of sweeps and trials, without a yard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.testing.utilities import prefect_test_harness
from prefect_trainyard.blocks import ArtifactStorage, layout
from prefect_trainyard.flows import job as job_flows
from prefect_trainyard.flows import trial as trial_flows
from prefect_trainyard.flows.sweep import _Sweep
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import NotFound
from prefect_trainyard.schemas.jobs import Datasets, ExperimentRecord, JobRequest
from prefect_trainyard.schemas.results import JobResult
from prefect_trainyard.schemas.sweeps import STUDIES_VARIABLE, SweepSettings
from prefect_trainyard.sweeps.search import Search
from prefect_trainyard.tasks.context import JobContext, JobFolder
from prefect_trainyard.tasks.reporter import JobReporter
from prefect_trainyard.tasks.tracking import RUN_FILE

NETWORK = "classification_pyt"


class Lines:
    """A `JobReporter` that only keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


def open_sweep(home: Path, job_id: str, **settings: Any) -> tuple[Search, list[str]]:
    """Return the search of a sweep as its flow opens it, and what the flow says of it."""
    record = ExperimentRecord(id=uuid4(), name="digits", network=NETWORK, datasets=Datasets(eval=uuid4()))
    storage = ArtifactStorage(url=f"file://{home}/storage")
    job = JobContext(org="acme", job_id=job_id, experiment="acme/digits", storage=storage)
    request = JobRequest(action=Action.TRAIN, org="acme", experiment_id=record.id)
    wanted = SweepSettings(algorithm="random", max_trials=4, **settings)
    flow, reporter = _Sweep(job, request, record, wanted, FlowRun(flow_id=uuid4())), Lines()
    search = flow._open(JobFolder(storage, job.path, home), home, cast(JobReporter, reporter))
    return search, reporter.lines


@pytest.mark.parametrize("home_of_studies", ["journal", "database"])
def test_a_sweep_learns_from_an_earlier_one_wherever_its_study_is(
    home_of_studies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home_of_studies == "database":
        monkeypatch.setenv(STUDIES_VARIABLE, f"sqlite:///{tmp_path}/studies.db")
    earlier = str(uuid4())
    search, _ = open_sweep(tmp_path, earlier)
    while (trial := search.next()) is not None:
        search.answered(trial, [0.5], results={}, best_epoch=1, seconds=1)
    _, lines = open_sweep(tmp_path, str(uuid4()), warm_start=[earlier])
    assert f"Learned from 4 trials of the sweep {earlier}." in lines
    journal = tmp_path / "storage" / layout.job("acme", earlier) / "study.journal"
    assert journal.exists() is (home_of_studies == "journal")
    nobody = uuid4()
    with pytest.raises(NotFound, match=f"warm_start: the job {nobody} has no study"):
        open_sweep(tmp_path, str(uuid4()), warm_start=[nobody])


def test_only_a_part_of_a_training_needs_a_network_that_trains_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[int | None] = []

    def train(*data: str, until_epoch: int | None, **asked: Any) -> JobResult:
        parts.append(until_epoch)
        return JobResult(action=Action.TRAIN, uri="", latest_epoch=until_epoch or 9)

    monkeypatch.setenv("TRAINYARD_STORAGE_URL", f"file://{tmp_path}/storage")
    monkeypatch.setattr(job_flows, "train_task", train)
    monkeypatch.setattr(trial_flows, "suspend_flow_run", lambda **how: None)
    storage = ArtifactStorage(url=f"file://{tmp_path}/storage")
    record = ExperimentRecord(id=uuid4(), name="digits", network=NETWORK, datasets=Datasets(train=[uuid4()]))
    storage.write_json(layout.experiment("acme", record.id), record.model_dump(mode="json"))
    sweep_id = uuid4()
    storage.write_json(f"{layout.job('acme', sweep_id)}/{RUN_FILE}", {"run_id": "none"})
    with prefect_test_harness():
        for until_epoch in (3, 9):
            trial_flows.trial(
                org="acme",
                sweep_job_id=sweep_id,
                number=0,
                until_epoch=until_epoch,
                max_epochs=9,
                experiment_id=record.id,
                network=NETWORK,
            )
    assert parts == [3, None]
