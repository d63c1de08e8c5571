"""Where things lie in the artifact storage. Keys are made from ids only, never from user text."""

from __future__ import annotations

from uuid import UUID

Id = UUID | str

#: Name of the code in the folder of a `run` job.
CODE = "code.tar.gz"

#: Names in the folder of a bundle.
BUNDLE_CODE, BUNDLE_DATA, BUNDLE_RECORD = "code.zip", "data.zip", "bundle.json"

#: Names in the folder of a job that trained a bundle: its models, and what it says of itself and of them.
MODELS, TRAINING = "models", "training.json"

#: How the names of the folders of trials begin, in the folder of their sweep.
TRIAL = "experiment_"

#: Name of its variables there.
SECRETS = ".secrets"


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


def bundles(org: str) -> str:
    return f"{org}/bundles"


def bundle(org: str, bundle_id: Id) -> str:
    """Folder of a bundle: `code.zip`, `data.zip`, and `bundle.json`, which says what they are."""
    return f"{bundles(org)}/{bundle_id}"


def job(org: str, job_id: Id) -> str:
    """Folder with everything that a job made; `result.json` and `status.json` lie in it."""
    return f"{jobs(org)}/{job_id}"


def trial(org: str, sweep_id: Id, number: int) -> str:
    """Folder of a trial in the folder of its sweep."""
    return f"{job(org, sweep_id)}/{TRIAL}{number}"


def trial_log(org: str, sweep_id: Id, number: int) -> str:
    return f"{trial(org, sweep_id, number)}/log.txt"


def earlier_trial_log(org: str, sweep_id: Id, number: int) -> str:
    return f"{trial(org, sweep_id, number)}/log.1.txt"


def log(org: str, job_id: Id) -> str:
    """Log of a job, from POST to its last line `Done EOF` or `Error EOF`."""
    return f"{logs(org)}/{job_id}.txt"


def earlier_log(org: str, job_id: Id) -> str:
    """What the log held before it grew too long; there are at most these two segments."""
    return f"{logs(org)}/{job_id}.1.txt"


def code(org: str, job_id: Id) -> str:
    """The tar with which a `run` job starts, as it was uploaded."""
    return f"{job(org, job_id)}/{CODE}"


def secrets(org: str, job_id: Id) -> str:
    """Variables of a job, encrypted. The file is in no list of files and in no download."""
    return f"{job(org, job_id)}/{SECRETS}"


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


def base_experiments() -> str:
    return "base_experiments"


def base_experiment(experiment_id: Id) -> str:
    """Folder of a base experiment (pretrained weights), shared by all orgs."""
    return f"{base_experiments()}/{experiment_id}"
