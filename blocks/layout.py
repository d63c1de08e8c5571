"""Where things lie in the artifact storage. Keys are made from ids only, never from user text."""

from __future__ import annotations

from uuid import UUID

Id = UUID | str


def jobs(org: str) -> str:
    return f"{org}/jobs"


def logs(org: str) -> str:
    return f"{org}/logs"


def downloads(org: str) -> str:
    return f"{org}/downloads"


def datasets(org: str) -> str:
    return f"{org}/datasets"


def experiments(org: str) -> str:
    return f"{org}/experiments"


def job(org: str, job_id: Id) -> str:
    """Folder with everything that a job made; `result.json` and `status.json` lie in it."""
    return f"{jobs(org)}/{job_id}"


def log(org: str, job_id: Id) -> str:
    """Log of a job, from POST to its last line `Done EOF` or `Error EOF`."""
    return f"{logs(org)}/{job_id}.txt"


def earlier_log(org: str, job_id: Id) -> str:
    """What the log held before it grew too long; there are at most these two segments."""
    return f"{logs(org)}/{job_id}.1.txt"


def resume(org: str, job_id: Id) -> str:
    """What the caller of `:resume` changed: `spec`, `parent_job_id`. A flow run's own parameters cannot change."""
    return f"{job(org, job_id)}/resume.json"


def download(org: str, job_id: Id) -> str:
    """The tar that `:download` serves, built once when the job ends."""
    return f"{downloads(org)}/{job_id}.tar.gz"


def download_stats(org: str, job_id: Id) -> str:
    """`file_size` and `sha256_digest` of that tar."""
    return f"{download(org, job_id)}.stats.json"


def dataset(org: str, dataset_id: Id) -> str:
    """Folder of a data set: `raw/` as uploaded, `raw.json` its manifest, `index/` its canonical form."""
    return f"{datasets(org)}/{dataset_id}"


def experiment(org: str, experiment_id: Id) -> str:
    """Copy of what jobs need to know of an experiment (`ExperimentRecord`)."""
    return f"{experiments(org)}/{experiment_id}.json"


def base_experiment(experiment_id: Id) -> str:
    """Folder of a base experiment (pretrained weights), shared by all orgs."""
    return f"base_experiments/{experiment_id}"
