"""The log of a job: it exists from POST on and its last line says how the job ended."""

from __future__ import annotations

from uuid import UUID

from ...blocks import ArtifactStorage, layout
from ...schemas.states import JobState

#: Clients read a log until one of these lines comes; there is no word for a cancelled job among them.
DONE_LINE, ERROR_LINE = "Done EOF", "Error EOF"


def start_log(storage: ArtifactStorage, org: str, job_id: UUID, line: str) -> None:
    """Write the first line of the log of a new job."""
    storage.append_text(layout.log(org, job_id), f"{line}\n")


def end_log(storage: ArtifactStorage, org: str, job_id: UUID, state: JobState, reason: str = "") -> None:
    """Write the last line of the log, once; `reason` before it, for jobs that could not write it themselves."""
    path = layout.log(org, job_id)
    text = _tail(storage, path)
    if text.rstrip().endswith((DONE_LINE, ERROR_LINE)):
        return
    newline = "" if not text or text.endswith("\n") else "\n"
    said = f"{' '.join(reason.split())}\n" if reason else ""
    storage.append_text(path, f"{newline}{said}{DONE_LINE if state == JobState.DONE else ERROR_LINE}\n")


def reopen_log(storage: ArtifactStorage, org: str, job_id: UUID, line: str) -> None:
    """Take the last line back, because the job goes on: a client that reads along must not stop there."""
    path = layout.log(org, job_id)
    if storage.exists(path):
        lines = storage.read_bytes(path).decode(errors="replace").splitlines()
        kept = [text for text in lines if text not in (DONE_LINE, ERROR_LINE)]
        storage.write_bytes(path, "".join(f"{text}\n" for text in kept).encode())
    storage.append_text(path, f"{line}\n")


def _tail(storage: ArtifactStorage, path: str, size: int = 256) -> str:
    if not storage.exists(path):
        return ""
    with storage.open(path) as file:
        file.seek(max(0, storage.size(path) - size))
        return file.read().decode(errors="replace")
