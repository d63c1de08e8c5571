"""The log of a job: it exists from POST on and its last line says how the job ended."""

from __future__ import annotations

from uuid import UUID

from ....blocks import ArtifactStorage, layout
from ....schemas.states import JobState

#: Clients read a log until one of these lines comes; there is no word for a cancelled job among them.
DONE_LINE, ERROR_LINE = "Done EOF", "Error EOF"
_TAIL_BYTES = 256


def start_log(storage: ArtifactStorage, org: str, job_id: UUID, line: str) -> None:
    """Write the first line of the log of a new job, unless an earlier try to make the job has done so."""
    path = layout.log(org, job_id)
    if not storage.exists(path):
        storage.append_text(path, f"{line}\n")


def end_log(storage: ArtifactStorage, org: str, job_id: UUID, state: JobState, reason: str = "") -> None:
    """Write the last line of the log, once; `reason` before it, for jobs that could not write it themselves."""
    path = layout.log(org, job_id)
    text = _tail(storage, path)
    if is_end(_last_line(text)):
        return
    newline = "" if not text or text.endswith(b"\n") else "\n"
    said = f"{' '.join(reason.split())}\n" if reason else ""
    storage.append_text(path, f"{newline}{said}{DONE_LINE if state == JobState.DONE else ERROR_LINE}\n")


def reopen_log(storage: ArtifactStorage, org: str, job_id: UUID, line: str) -> None:
    """Take the last line back, because the job goes on: a client that reads along must not stop there.

    All that was before it stays where it is, so that a client which read so far goes on from there.
    """
    path = layout.log(org, job_id)
    last = _last_line(_tail(storage, path))
    if is_end(last):
        content = storage.read_bytes(path)
        storage.write_bytes(path, content[: content.rstrip(b"\r\n").rfind(last.encode())])
    storage.append_text(path, f"{line}\n")


def is_end(line: str) -> bool:
    """Tell whether a line of a log says that the job has ended."""
    return line in (DONE_LINE, ERROR_LINE)


def _last_line(tail: bytes) -> str:
    return tail.rstrip(b"\r\n").rpartition(b"\n")[2].decode(errors="replace")


def _tail(storage: ArtifactStorage, path: str) -> bytes:
    if not storage.exists(path):
        return b""
    with storage.open(path) as file:
        file.seek(max(0, storage.size(path) - _TAIL_BYTES))
        return file.read()
