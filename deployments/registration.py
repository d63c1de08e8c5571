"""Deploys every action of every network, each with a form of its own in the Prefect UI."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel

from .. import __version__
from ..datasets.formats import data_types, formats_of
from ..flows.bundle import train_bundle
from ..flows.command import run
from ..flows.job import JOB_FLOWS
from ..flows.pipeline import train_and_compress
from ..flows.sweep import sweep
from ..flows.trial import trial
from ..networks.registry import networks
from ..schemas.actions import USERS_CODE, Action
from ..schemas.attempts import Priority
from ..schemas.bundles import BUNDLE
from ..schemas.jobs import COMMAND, COMMAND_POOL_VARIABLE, TAG, WORK_POOL, command_pool_name
from ..schemas.specs import Spec
from ..schemas.sweeps import SWEEP_VARIABLES, SweepSettings
from .containers import with_gpus
from .warm_worker import TrainyardWorker, wait_for_prefect

#: What the form says under each field. The spec has descriptions of its own.
_ARGUMENTS = """
    org: Org that the job belongs to.
    experiment_id: Experiment that the job belongs to.
    dataset_id: Data set that the job is about.
    network: Name of the network; left out, that of the experiment.
    parent_job_id: Job whose model this job starts from.
    datasets: Data sets of this job instead of those of the experiment.
    base_experiment_id: Pretrained weights instead of those of the experiment.
    checkpoint: Which weights of the parent to use; left out, the choice of the experiment.
    checkpoint_epoch: Epoch for from_epoch_number.
    command: What to run, and what it needs.
    project_id: Project that the job belongs to.
    bundle_id: Bundle to train, again or for the first time.
    parameters: Instead of parameters of the manifest with the same names.
    name: Name of the job.
    spec: Parameters of the action.
    settings: What is searched, how, and when the search ends.
    sweep_job_id: Sweep that the trial belongs to.
    number: Number of the trial in its sweep.
    until_epoch: Epoch after which the sweep decides whether the trial goes on.
    max_epochs: Epoch after which the trial has ended.
"""

#: Without a step, other workers take the folder they are in for the code of the flow, and copy it; `/` in a container.
_NOTHING_TO_PULL = [{"prefect.deployments.steps.set_working_directory": {"directory": "/"}}]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedFlow:
    """One deployment: `flow/name` in the words of Prefect."""

    flow: str
    name: str
    entrypoint: str
    form: dict[str, Any]
    description: str
    tags: list[str]
    job_variables: dict[str, Any] = field(default_factory=dict)


def deployed_flows() -> Iterator[DeployedFlow]:
    """Yield all deployments of a yard, made from the registered networks."""
    for dataset_type in data_types():
        # The formats of a type that have an action have one spec for it.
        of_type = {action: spec for kind in formats_of(dataset_type) for action, spec in kind.specs.items()}
        for action, spec in of_type.items():
            yield _of_action(action, dataset_type, spec, [])
    yield DeployedFlow(
        flow=run.name,
        name=COMMAND,
        entrypoint="prefect_trainyard.flows.command.run",
        form=_form(run.fn, {}),
        description=run.fn.__doc__ or "",
        tags=["trainyard", f"{TAG}action:{Action.RUN}"],
    )
    yield DeployedFlow(
        flow=train_bundle.name,
        name=BUNDLE,
        entrypoint="prefect_trainyard.flows.bundle.train_bundle",
        form=_form(train_bundle.fn, {}),
        description=train_bundle.fn.__doc__ or "",
        tags=["trainyard", f"{TAG}action:{Action.TRAIN_BUNDLE}"],
    )
    for network in networks():
        for action, spec in network.specs.items():
            yield _of_action(action, network.name, spec, [f"{TAG}network:{network.name}"])
        if Action.TRAIN in network.specs:
            yield from _of_sweep(network.name, network.specs[Action.TRAIN])
        if Action.PRUNE in network.specs and Action.EXPORT in network.specs:
            specs = {
                "train_spec": network.specs[Action.TRAIN],
                "prune_spec": network.specs[Action.PRUNE],
                "retrain_spec": network.specs[Action.RETRAIN],
                "engine_spec": network.specs[Action.GEN_TRT_ENGINE],
            }
            yield DeployedFlow(
                flow=train_and_compress.name,
                name=network.name,
                entrypoint="prefect_trainyard.flows.pipeline.train_and_compress",
                form=_form(train_and_compress.fn, specs),
                description=train_and_compress.fn.__doc__ or "",
                tags=["trainyard", f"{TAG}network:{network.name}"],
            )


def _of_action(action: Action, name: str, spec: type[Spec], tags: list[str]) -> DeployedFlow:
    function = JOB_FLOWS[action].fn
    return DeployedFlow(
        flow=str(action),
        name=name,
        entrypoint=f"prefect_trainyard.flows.job.{action}",
        form=_form(function, {"spec": spec}),
        description=function.__doc__ or "",
        tags=["trainyard", f"{TAG}action:{action}", *tags],
    )


def _of_sweep(network: str, spec: type[Spec]) -> Iterator[DeployedFlow]:
    yield DeployedFlow(
        flow=sweep.name,
        name=network,
        entrypoint="prefect_trainyard.flows.sweep.sweep",
        form=_form(sweep.fn, {"spec": spec, "settings": SweepSettings}),
        description=sweep.fn.__doc__ or "",
        tags=["trainyard", f"{TAG}action:{Action.TRAIN}", f"{TAG}network:{network}"],
        job_variables=SWEEP_VARIABLES,
    )
    yield DeployedFlow(
        flow=trial.name,
        name=network,
        entrypoint="prefect_trainyard.flows.trial.trial",
        form=_form(trial.fn, {"spec": spec}),
        description=trial.fn.__doc__ or "",
        tags=["trainyard", f"{TAG}network:{network}"],
    )


def _form(function: Callable[..., Any], specs: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the JSON schema of a flow's parameters, with the specs as typed sections."""

    def form() -> None: ...

    original = signature(function, eval_str=True)
    form.__signature__ = original.replace(  # type: ignore[attr-defined]
        parameters=[
            parameter.replace(annotation=specs[name], default=specs[name]()) if name in specs else parameter
            for name, parameter in original.parameters.items()
        ],
        return_annotation=None,
    )
    form.__doc__ = f"{function.__doc__}\n\nArgs:{_ARGUMENTS}"
    return parameter_schema(form).model_dump_for_openapi()


async def deploy_all() -> list[str]:
    """Make the work pool and all deployments, or bring them up to date; return `flow/name` of each."""
    async with get_client() as client:
        await _ensure_work_pool(client)
        await _ensure_work_queues(client, WORK_POOL)
        command_pool = None
        if kind := os.environ.get(COMMAND_POOL_VARIABLE):
            command_pool = command_pool_name(kind)
            await _ensure_command_pool(client, command_pool, kind)
            await _ensure_work_queues(client, command_pool)
        items = list(deployed_flows())
        flows = {name: await client.create_flow_from_name(name) for name in {item.flow for item in items}}
        deployed = []
        for item in items:
            elsewhere = command_pool if item.flow in USERS_CODE else None
            await client.create_deployment(
                flow_id=flows[item.flow],
                name=item.name,
                version=__version__,
                entrypoint=item.entrypoint,
                parameter_openapi_schema=item.form,
                enforce_parameter_schema=True,
                work_pool_name=elsewhere or WORK_POOL,
                job_variables={"env": _environment()} if elsewhere else item.job_variables,
                pull_steps=_NOTHING_TO_PULL if elsewhere else None,
                tags=item.tags,
                description=item.description,
            )
            deployed.append(f"{item.flow}/{item.name}")
    return deployed


async def _ensure_work_pool(client: PrefectClient) -> None:
    template = TrainyardWorker.get_default_base_job_template()
    try:
        await client.create_work_pool(
            WorkPoolCreate(name=WORK_POOL, type=TrainyardWorker.type, base_job_template=template)
        )
    except ObjectAlreadyExists:
        await client.update_work_pool(WORK_POOL, WorkPoolUpdate(base_job_template=template))


async def _ensure_command_pool(client: PrefectClient, name: str, kind: str) -> None:
    """Make a work pool of another type; one that is there stays as it is: its template is its operator's."""
    packages = await client.read_worker_metadata()
    types = {found["type"]: found for package in packages.values() for found in package.values()}
    with contextlib.suppress(ObjectAlreadyExists):
        template = with_gpus(kind, types[kind]["default_base_job_configuration"])
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))


def _environment() -> dict[str, str]:
    """Return what a run has to know that a worker of another type does not tell it. None of it is a secret."""
    names = ("TRAINYARD_STORAGE_URL", "TRAINYARD_STORAGE_ENDPOINT_URL", "MLFLOW_TRACKING_URI")
    return {name: os.environ[name] for name in names if name in os.environ}


async def _ensure_work_queues(client: PrefectClient, pool: str) -> None:
    """Make a queue for each priority; what has none goes to `default`, which Prefect makes itself."""
    for priority in Priority:
        try:
            queue = await client.read_work_queue_by_name(priority.work_queue, work_pool_name=pool)
        except ObjectNotFound:
            await client.create_work_queue(priority.work_queue, priority=priority, work_pool_name=pool)
            continue
        # Prefect moves the others to make room, so all are set again, in order, until they are right.
        if queue.priority != priority:
            await client.update_work_queue(queue.id, priority=int(priority))


async def main() -> None:
    """Deploy everything as soon as the server is there."""
    await wait_for_prefect()
    for name in await deploy_all():
        print(name)


if __name__ == "__main__":
    asyncio.run(main())
