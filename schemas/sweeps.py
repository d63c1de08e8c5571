"""Sweeps: what a search over specs is asked to do, and what it tells of itself while it runs."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

#: How the next trial is chosen. `bayesian` and `hyperband` are words of the API documents.
Algorithm = Literal["bayesian", "hyperband", "asha", "tpe", "random", "grid", "cmaes", "nsga2"]

#: Those that give most trials a small part of the epochs and go on with the best.
BY_RUNGS: frozenset[str] = frozenset({"hyperband", "asha"})

#: Metric that stands for the network's own.
KPI = "kpi"

#: Name of the flow of a train job that is a sweep; all other jobs have a flow of the name of their action.
SWEEP_FLOW = "sweep"

#: Its job variables: it waits for its trials and needs no slot, and goes on however many workers it loses.
SWEEP_VARIABLES = {"cpus": 0, "gpus": 0, "max_attempts": 100}

#: Tag of the flow run of a trial: the job id of its sweep.
SWEEP_TAG = "trainyard.sweep"

#: Names in the folder of a sweep.
CONTROLLER_FILE, BEST_MODEL, STUDY_FILE = "controller.json", "best_model", "study.journal"

#: Environment variable with the database of the studies, an SQLAlchemy URL; without one each sweep has a journal.
STUDIES_VARIABLE = "TRAINYARD_OPTUNA_DATABASE_URL"

TrialStatus = Literal["pending", "running", "paused", "success", "failure", "pruned"]

Count = Annotated[int, Field(ge=1, le=100_000)]


class Range(BaseModel):
    """Where to look for one parameter, instead of what its spec says."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    low: float | None = None
    high: float | None = None
    log: bool | None = Field(default=None, description="Look at orders of magnitude; `low` is above 0 then.")
    step: float | None = Field(default=None, gt=0, description="Look only at multiples of this above `low`.")
    choices: list[str | int | float | bool] | None = Field(default=None, min_length=1, max_length=1000)


class SweepSettings(BaseModel):
    """What a search is asked to do."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    algorithm: Algorithm = "bayesian"
    metrics: list[str] = Field(
        default=[], max_length=3, description="What to optimise; empty or `kpi`: the network's own. Several for nsga2."
    )
    max_trials: Count = Field(default=20, description="Number of trials; hyperband has its own from `max_epochs`.")
    max_epochs: Count = Field(
        default=27, description="R of hyperband and asha: most epochs of a trial, times the next."
    )
    epoch_multiplier: Count = Field(default=1, description="Epochs of one unit of `max_epochs`.")
    reduction: int = Field(default=3, ge=2, le=100, description="nu or eta: one of so many trials goes on to a rung.")
    delete_checkpoints: bool = Field(
        default=True, description="Keep the checkpoints and weights of the best trial only."
    )
    add: list[str] = Field(default=[], description="Parameters to vary besides those that the spec varies by itself.")
    remove: list[str] = Field(default=[], description="Parameters to keep at their value in the spec.")
    override_disabled: bool = Field(
        default=False, description="`add` may name parameters that the spec does not offer."
    )
    ranges: dict[str, Range] = Field(default={}, description="By parameter: where to look, instead of its own bounds.")
    max_concurrent: Count | None = Field(default=None, description="Trials at once; none: as many as the workers take.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    start_from_spec: bool = Field(default=True, description="The first trial is the spec as it is.")
    warm_start: list[UUID] = Field(default=[], max_length=100, description="Sweeps whose trials this one learns from.")
    patience: int = Field(default=0, ge=0, description="End after so many trials without a better one; 0: never.")
    max_seconds: float | None = Field(default=None, gt=0, description="Start no trials after so much time.")
    max_cost: float | None = Field(default=None, gt=0, description="Start no trials when those before cost so much.")
    cost_per_hour: float = Field(default=0.0, ge=0, description="What an hour of one trial costs, for `max_cost`.")


class TrialRecord(BaseModel):
    """One trial as `controller.json` and `:automl_details` show it."""

    id: int
    specs: dict[str, object] = Field(description="The varied parameters by dotted name.")
    status: TrialStatus
    result: float | None = None
    results: dict[str, float] = Field(default={}, description="All metrics of the best epoch.")
    job_id: str | None = Field(default=None, description="Flow run of the trial.")
    best_epoch_number: int | None = None
    epochs: int = 0
    bracket: int | None = None
    rung: int | None = None
    seconds: float = 0.0
    message: str = ""


class SweepProgress(BaseModel):
    """How far a sweep is; part of the progress report of its job."""

    algorithm: Algorithm
    metric: str
    maximize: bool
    best: float | None = None
    best_trial: int | None = None
    current_trial: int | None = Field(default=None, description="The newest one.")
    trials: dict[TrialStatus, int] = Field(default={}, description="Number of trials by status.")
    epochs_left: int = Field(default=0, description="Epochs that no trial has begun, as far as is known.")
    seconds_per_epoch: float | None = None
    eta_s: float | None = None
