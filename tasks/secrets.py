"""Secrets of a job: encrypted beside its files, opened in its process and nowhere else."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ..blocks.layout import SECRETS
from ..schemas.errors import JobFailed, NotFound
from ..schemas.jobs import KEY_FILE_VARIABLE
from .context import JobContext


def read_secrets(context: JobContext) -> dict[str, str]:
    """Return the environment variables that the job was given, none where it was given none.

    Raises:
        JobFailed: they cannot be read here: the worker has no key, or another one.
    """
    try:
        content = context.storage.read_bytes(f"{context.path}/{SECRETS}")
    except NotFound:
        return {}
    file = os.environ.get(KEY_FILE_VARIABLE)
    if not file:
        raise JobFailed(
            "The job has secrets, and this worker has no key for them.",
            hint=f"Set {KEY_FILE_VARIABLE} to a copy of the file `secrets.key` of the yard.",
        )
    try:
        return dict(json.loads(open_keys(Path(file)).decrypt(content)))
    except (OSError, ValueError, InvalidToken) as error:
        raise JobFailed(
            "The secrets of the job cannot be read by this worker.", hint=f"{KEY_FILE_VARIABLE} names another key."
        ) from error


def open_keys(file: Path) -> MultiFernet:
    """Return the keys of a file, one a line: the first one seals, each of them opens.

    Raises:
        ValueError: the file holds no key, or something else.
    """
    return MultiFernet([Fernet(line) for line in file.read_bytes().split()])
