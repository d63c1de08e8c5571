"""The flow of a trial: one training of a sweep, rung by rung under the same flow run id."""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.logging import get_run_logger

from ..blocks import layout, load_storage
from ..schemas.actions import Action
from ..schemas.jobs import Datasets, JobRequest, Org
from ..schemas.results import JobResult
from ..tasks.context import STORAGE_PATIENCE_S, JobContext, SweepTrial, running_as
from ..tasks.redaction import REDACTION, given_secrets
from ..tasks.secrets import read_secrets
from ..tasks.tracking import RUN_FILE
from .job import call_task, read_experiment
from .joblog import log_to


@flow(name="trial", flow_run_name="trial {number} of {sweep_job_id}", log_prints=True, persist_result=False)
def trial(
    org: Org,
    sweep_job_id: UUID,
    number: int,
    until_epoch: int,
    max_epochs: int,
    experiment_id: UUID,
    network: str,
    datasets: Datasets | None = None,
    base_experiment_id: UUID | None = None,
    spec: dict[str, Any] | None = None,
) -> JobResult:
    """Train one point of a sweep until an epoch; before the last one, wait suspended to be told to go on."""
    storage = load_storage().patient(STORAGE_PATIENCE_S)
    run = FlowRunContext.get()
    assert run is not None and run.flow_run is not None
    request = JobRequest(
        action=Action.TRAIN,
        org=org,
        experiment_id=experiment_id,
        network=network,
        datasets=datasets,
        base_experiment_id=base_experiment_id,
        spec=spec or {},
    )
    sweep = JobContext(org=org, job_id=str(sweep_job_id), experiment="", storage=storage)
    log = layout.trial_log(org, sweep_job_id, number), layout.earlier_trial_log(org, sweep_job_id, number)
    with log_to(storage, *log):
        job = JobContext(
            org=org,
            job_id=str(run.flow_run.id),
            experiment=f"{org}/{experiment_id}",
            storage=storage,
            sweep=SweepTrial(
                job_id=sweep.job_id,
                number=number,
                mlflow_run_id=str(storage.read_json(f"{sweep.path}/{RUN_FILE}")["run_id"]),
            ),
        )
        variables = read_secrets(sweep)
        REDACTION.add(given_secrets(variables))
        os.environ.update(variables)
        with running_as(job):
            # why: the rest of a training is no part; networks that cannot train in parts can do it.
            part = until_epoch if until_epoch < max_epochs else None
            result = call_task(request, read_experiment(storage, request), storage, part)
        ended = (result.latest_epoch or 0) < until_epoch  # its own early stopping
        if until_epoch < max_epochs and not ended:
            get_run_logger().info("Epoch %d is reached. The sweep decides whether it goes on.", until_epoch)
            # A key for each rung: Prefect takes a second suspension with the same one for the first.
            suspend_flow_run(timeout=None, key=f"epoch-{until_epoch}")
    return result
