"""Which GPUs a worker may give to its runs, found without touching CUDA."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_TIMEOUT_S = 20


def gpu_ids(setting: str) -> tuple[str, ...]:
    """Return the ids for `CUDA_VISIBLE_DEVICES` that `setting` means.

    `auto` takes what CUDA_VISIBLE_DEVICES allows, else every GPU of the machine; `0` means none;
    anything else is a list such as `0,2` or `GPU-5a…,MIG-…` (`0,` is GPU 0 alone).
    """
    setting = setting.strip()
    if setting == "auto":
        allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
        return _split(allowed) if allowed is not None else _detect()
    return () if setting == "0" else _split(setting)


def gpu_type(ids: tuple[str, ...]) -> str | None:
    """Return the model of the first of these GPUs, as the driver calls it."""
    if not ids or (tool := shutil.which("nvidia-smi")) is None:
        return None
    command = [tool, f"--id={ids[0]}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        named = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return named.stdout.strip().partition("\n")[0] or None


def _split(ids: str) -> tuple[str, ...]:
    return tuple(id.strip() for id in ids.split(",") if id.strip() and id.strip() != "-1")


def _detect() -> tuple[str, ...]:
    """Ask the driver's tool, which sees what the container may use, else look at the driver's files."""
    if (tool := shutil.which("nvidia-smi")) is not None:
        command = [tool, "--query-gpu=index", "--format=csv,noheader"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        except (subprocess.SubprocessError, OSError):
            return ()
        return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip().isdigit())
    cards = Path("/proc/driver/nvidia/gpus")
    return tuple(str(index) for index, _ in enumerate(cards.iterdir())) if cards.is_dir() else ()
