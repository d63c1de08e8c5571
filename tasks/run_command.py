"""The run action: a command of the user's own, in a sandbox, with a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from prefect import task

from ..blocks.layout import CODE
from ..datasets.archive import ArchiveLimits, extract_archive
from ..schemas.actions import Action
from ..schemas.commands import ENDED_COMMAND, ENDED_SETUP, UPLOADING_MESSAGE, Command
from ..schemas.errors import JobFailed
from ..schemas.results import Artifact, ArtifactKind, EpochMetrics, JobResult
from .artifacts import publish_artifacts
from .context import JobContext, JobFolder, current_job, job_folder, sha256_of
from .redaction import REDACTION, given_secrets
from .reporter import STATUS_FILE, JobReporter
from .sandbox import Sandbox, SandboxLimits, can_confine
from .secrets import read_secrets
from .stopping import GRACE_S, GRACE_SHARE, GRACE_VARIABLE
from .tracking import Tracking, tracking
from .usage import metered

#: Folder of a job with what its command wants to keep, and the variable that tells the command where it is.
OUTPUT, OUTPUT_VARIABLE = "output", "TRAINYARD_OUTPUT_DIR"

#: Code may hold archives: nobody but the user's own command looks into them.
CODE_LIMITS = ArchiveLimits(allow_archives=True)

#: How far a job is before its command ends: nobody knows how long it takes.
_STARTED, _UPLOADING = 0.05, 0.99

#: Processes and threads that a command may have at a time: fewer than would keep others from starting any.
_PROCESSES_MAX = 4096

_MIB = 2**20


@task(name="run")
def run_command(command: Command) -> JobResult:
    """Run the command of a job in a copy of its code, and return the record with what it left in its output folder.

    Raises:
        JobFailed: it ended with another exit code than 0, or by a signal.
        ArchiveError: its code cannot be unpacked.
    """
    job = current_job()
    with job_folder(job) as (folder, scratch), tracking(job, folder) as run:
        reporter = JobReporter(job, folder, str(Action.RUN))
        started, start = datetime.now(UTC), time.monotonic()
        try:
            secrets = read_secrets(job)
            REDACTION.add(given_secrets(secrets))
            digest = _describe(run, folder, command)
            status = _run(job, command, folder, scratch, reporter, run, secrets)
            result = JobResult(
                action=Action.RUN,
                uri=job.storage.address(job.path),
                job_id=job.job_id,
                artifacts=folder.publish(_artifacts(folder)),
                kpi={"exit_code": float(status)},
                message=f"{ENDED_COMMAND} with exit code {status}.",
                spec=command.model_dump(mode="json"),
                mlflow_run_id=run.run_id,
                dataset_digests={"code": digest} if digest else {},
                started_at=started,
                seconds=round(time.monotonic() - start, 3),
            )
            publish_artifacts(str(Action.RUN), result, folder.work, run.url)
            run.finish(result)
        finally:
            reporter.close()
        folder.push([folder.work / STATUS_FILE])
        folder.write_result(result)
        reporter.progress(1.0, result.message)
    return result


def _describe(run: Tracking, folder: JobFolder, command: Command) -> str | None:
    """Record the command; return the SHA-256 of its code."""
    code = folder.work / CODE
    digest = sha256_of(code) if command.needs_code else None
    run.describe(
        title=str(Action.RUN),
        action=Action.RUN,
        network=None,
        spec=command.model_dump(mode="json"),
        parent=None,
        datasets={"code": (CODE, digest)} if digest else {},
    )
    return digest


def _run(
    job: JobContext,
    command: Command,
    folder: JobFolder,
    scratch: Path,
    reporter: JobReporter,
    run: Tracking,
    secrets: Mapping[str, str],
) -> int:
    """Set up and run; return 0."""
    place = scratch / "code"
    if command.needs_code:
        extract_archive(folder.work / CODE, place, CODE_LIMITS)
    else:
        place.mkdir()
    output = folder.work / OUTPUT
    output.mkdir(exist_ok=True)
    if command.image:
        reporter.log(f"The image {command.image} is not used: a command runs in what its worker has set up.")
    environment = {
        **secrets,
        # Lines come as they are written, not when a buffer is full.
        "PYTHONUNBUFFERED": "1",
        "TRAINYARD_JOB_ID": job.job_id,
        OUTPUT_VARIABLE: str(output),
    }
    if not can_confine():
        reporter.log("The kernel of this worker is too old to keep commands from the files of others.")
    disk_bytes = command.disk_mb * _MIB if command.disk_mb is not None else None
    limits = SandboxLimits(
        memory_bytes=command.memory_mb * _MIB if command.memory_mb is not None else None,
        cpus=command.cpus,
        file_bytes=disk_bytes,
        processes=_PROCESSES_MAX,
        folder_bytes=disk_bytes,
    )
    # why beside the code: what a command finds in its folder is its own code and nothing else.
    sandbox = Sandbox(place, environment, limits, reporter.log, REDACTION.clean, venv=scratch / "venv", shared=[output])
    grace_s = GRACE_SHARE * float(os.environ.get(GRACE_VARIABLE, GRACE_S))

    def take(usage: dict[str, float]) -> None:
        reporter.usage(usage)
        # The step is the moment: a job that starts again goes on in the same MLflow run.
        run.writer.put(EpochMetrics(epoch=int(time.time()), max_epoch=0, metrics=usage, seconds=0.0))

    def execute(line: str, what: str) -> None:
        status = sandbox.run([_shell(), "-c", line], grace_s=grace_s)
        if status != 0:
            raise JobFailed(sandbox.excess or f"{what} {_ended(status)}", hint="Its log says more.")

    try:
        with metered(lambda: sandbox.pid, take):
            reporter.progress(0.0, "Setting up the environment.")
            sandbox.prepare_venv()
            if command.setup_command.strip():
                execute(command.setup_command, ENDED_SETUP)
            reporter.progress(_STARTED, "The command is running.")
            execute(command.run_command, ENDED_COMMAND)
        reporter.progress(_UPLOADING, UPLOADING_MESSAGE)
    finally:
        # What a command has left counts even where it failed or was stopped.
        folder.push(_files(output))
    return 0


def _artifacts(folder: JobFolder) -> list[Artifact]:
    names = [file.relative_to(folder.work).as_posix() for file in _files(folder.work / OUTPUT)]
    return [Artifact(path=name, kind=ArtifactKind.REPORT, title=name) for name in names]


def _files(output: Path) -> list[Path]:
    """Return what the command has left; a link could lead to anybody's file."""
    files = []
    for path in sorted(output.rglob("*")):
        if path.is_symlink():
            path.unlink()
        elif path.is_file():
            files.append(path)
    return files


def _shell() -> str:
    return shutil.which("bash") or "/bin/sh"


def _ended(status: int) -> str:
    if status >= 0:
        return f"with exit code {status}."
    name = signal.Signals(-status).name if -status in signal.valid_signals() else "a signal"
    return f"by {name}."
