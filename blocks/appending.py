"""Text files that grow line by line, on a disk that may be full for a while."""

from __future__ import annotations

import os
from pathlib import Path


class GrowingFile:
    """Appends whole lines; what the disk does not take now waits in memory for the next line.

    Each call is one O_APPEND write: lines of several processes do not mix, and what was written survives
    a SIGKILL.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def append(self, text: str) -> bool:
        """Write what waits and then `text`; False when some of it waits still."""
        self._waiting += text.encode(errors="backslashreplace")
        return self.flush()

    def flush(self) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                while self._waiting:
                    self._waiting = self._waiting[os.write(handle, self._waiting) :]
            finally:
                os.close(handle)
        except OSError:
            return False
        return True

    def take_over(self, other: GrowingFile) -> None:
        """Write also what waits in another one, which is not used any more."""
        self._waiting, other._waiting = other._waiting + self._waiting, b""
