"""Secrets of users at rest: encrypted with a key that lies in the home of the yard, as docs/security.md tells.

How they reach a job: the facade writes the variables of a job, sealed with this key, to `.secrets` in the folder of
the job. `tasks.secrets.read_secrets` opens the file in the process of the job. Nothing of them is in a parameter of
the flow run, in MLflow, in a URL or in a log, and the job asks the facade for nothing.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet, MultiFernet

from ....tasks.secrets import open_keys


class SecretBox:
    """Encrypts what users entrust to the yard. The first use makes the key, readable by its owner only."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._keys: MultiFernet | None = None

    def encrypt(self, text: str) -> str:
        return self._opened().encrypt(text.encode()).decode()

    def decrypt(self, text: str) -> str:
        return self._opened().decrypt(text.encode()).decode()

    def _opened(self) -> MultiFernet:
        if self._keys is None:
            if not self._key_file.exists():
                _make_key(self._key_file)
            self._keys = open_keys(self._key_file)
        return self._keys


def _make_key(file: Path) -> None:
    """Write a new key, whole or not at all; whoever comes second leaves the first one's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".key-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(Fernet.generate_key() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, file)
    finally:
        Path(name).unlink()
