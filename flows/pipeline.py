"""Pipelines: chains of jobs as one flow. Every stage is a job of its own, with its own id."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import flow

from ..schemas.jobs import Org
from ..schemas.results import JobResult
from .job import evaluate, export, gen_trt_engine, prune, retrain, train


@flow(name="train_and_compress", flow_run_name="train_and_compress {experiment_id}", persist_result=False)
def train_and_compress(
    org: Org,
    experiment_id: UUID,
    train_spec: dict[str, Any] | None = None,
    prune_spec: dict[str, Any] | None = None,
    retrain_spec: dict[str, Any] | None = None,
    engine_spec: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Train, prune, retrain, evaluate, export and build an engine; return the job id of every stage."""

    def stage(job: Any, parent: JobResult | None, spec: dict[str, Any] | None) -> JobResult:
        result: JobResult = job(
            org=org, experiment_id=experiment_id, parent_job_id=parent.job_id if parent else None, spec=spec or {}
        )
        return result

    trained = stage(train, None, train_spec)
    pruned = stage(prune, trained, prune_spec)
    retrained = stage(retrain, pruned, retrain_spec or train_spec)
    evaluated = stage(evaluate, retrained, None)
    exported = stage(export, retrained, None)
    engine = stage(gen_trt_engine, exported, engine_spec)
    stages = [trained, pruned, retrained, evaluated, exported, engine]
    return {str(result.action): result.job_id or "" for result in stages}
