"""Where things lie in the artifact storage. Keys are made from ids only, never from user text."""

from __future__ import annotations

from uuid import UUID

Id = UUID | str


def job(org: str, job_id: Id) -> str:
    """Folder with everything that a job made; `result.json` and `status.json` lie in it."""
    return f"{org}/jobs/{job_id}"


def log(org: str, job_id: Id) -> str:
    """Log of a job, from POST to its last line `Done EOF` or `Error EOF`."""
    return f"{org}/logs/{job_id}.txt"


def resume(org: str, job_id: Id) -> str:
    """What the caller of `:resume` changed: `spec`, `parent_job_id`. A flow run's own parameters cannot change."""
    return f"{job(org, job_id)}/resume.json"


def download(org: str, job_id: Id) -> str:
    """The tar that `:download` serves, built once when the job ends."""
    return f"{org}/downloads/{job_id}.tar.gz"


def download_stats(org: str, job_id: Id) -> str:
    """`file_size` and `sha256_digest` of that tar."""
    return f"{download(org, job_id)}.stats.json"


def dataset(org: str, dataset_id: Id) -> str:
    """Folder of a data set: `raw/` as uploaded, `raw.json` its manifest, `index/` its canonical form."""
    return f"{org}/datasets/{dataset_id}"


def experiment(org: str, experiment_id: Id) -> str:
    """Copy of what jobs need to know of an experiment (`ExperimentRecord`)."""
    return f"{org}/experiments/{experiment_id}.json"


def base_experiment(experiment_id: Id) -> str:
    """Folder of a base experiment (pretrained weights), shared by all orgs."""
    return f"base_experiments/{experiment_id}"
