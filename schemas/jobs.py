"""What a job is asked to do: the parameters of every flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from .actions import Action

Org = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9]{1,255}$")]

#: Which of a parent's checkpoints a child uses, in the words of the API documents.
CheckpointChoice = Literal["best_model", "latest_model", "from_epoch_number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which weights of a parent job to use; `epoch` is for `from_epoch_number`."""

    method: CheckpointChoice = "best_model"
    epoch: int | None = None


#: Prefix of the tags by which a flow run is known as a job, e.g. `trainyard.action:train`.
TAG = "trainyard."

#: Environment variable with the file whose key opens the secrets of jobs. Its name is no secret.
KEY_FILE_VARIABLE = "TRAINYARD_SECRETS_KEY_FILE"

#: Name of the deployment of the `run` action, where others have the name of a network.
COMMAND = "command"

#: Environment variable with the type of the work pool that commands and bundles go to, where it is not the yard's own.
COMMAND_POOL_VARIABLE = "TRAINYARD_COMMAND_POOL"

#: Work pool of the workers of a yard.
WORK_POOL = "trainyard"


def command_pool_name(kind: str) -> str:
    """Return the name of the work pool of another type that commands and bundles go to."""
    return f"{WORK_POOL}-{kind}"


class Datasets(BaseModel):
    """Ids of the data sets of a job, by role."""

    train: list[UUID] = []
    eval: UUID | None = None
    inference: UUID | None = None
    calibration: UUID | None = None


class JobRequest(BaseModel):
    """One job, as the facade submits it and as the form in the Prefect UI fills it in.

    What is left out is resolved when the job runs: data sets from the experiment, the network
    from the experiment or the parent job, every parameter of the spec from its default.
    """

    model_config = ConfigDict(extra="forbid")

    action: Action
    org: Org
    network: str | None = Field(default=None, description="Name of the network, for example classification_pyt.")
    experiment_id: UUID | None = Field(default=None, description="Experiment that the job belongs to.")
    dataset_id: UUID | None = Field(default=None, description="Data set that a convert job works on.")
    parent_job_id: UUID | None = Field(default=None, description="Job whose result this job starts from.")
    datasets: Datasets | None = Field(default=None, description="Instead of the data sets of the experiment.")
    base_experiment_id: UUID | None = None
    checkpoint: CheckpointChoice | None = Field(
        default=None, description="Which checkpoint of the parent to use; the default is the experiment's choice."
    )
    checkpoint_epoch: int | None = Field(default=None, ge=0, description="Epoch for from_epoch_number.")
    name: str | None = Field(default=None, max_length=500)
    spec: dict[str, object] = {}


class ExperimentRecord(BaseModel):
    """What a job needs to know about its experiment, kept in storage as `experiments/{id}.json`.

    The catalog is the home of these facts; this copy lets a flow that was started by a schedule
    or by hand find them without the facade.
    """

    id: UUID
    name: str
    network: str
    datasets: Datasets = Datasets()
    base_experiment_ids: list[UUID] = []
    checkpoint: CheckpointChoice = "best_model"
    checkpoint_epochs: dict[str, int] = {}
