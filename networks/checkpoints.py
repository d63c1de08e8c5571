"""Checkpoints that are there whole or not at all, and how the newest one is found.

A checkpoint is a file `checkpoint_epoch_NNN.pth` and its manifest `checkpoint_epoch_NNN.json` with size
and SHA-256. The manifest is written last, so a file without one, or one that it does not describe, was
never complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from ..schemas.errors import JobFailed, StorageFull

_CHUNK_BYTES = 4 * 2**20


class Manifest(BaseModel):
    """What `checkpoint_*.json` says about the file beside it."""

    file: str
    size_bytes: int
    sha256: str
    epoch: int
    """Epochs that were complete."""
    step: int
    """Steps since the start of training."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, then put it on disk as `path`; nothing of it stays on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        if _is_of_full_disk(error):
            raise StorageFull(f"No room left to write {path.name}.") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _is_of_full_disk(error: BaseException | None) -> bool:
    # why the chain: torch.save raises a RuntimeError over what the file raised.
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        error = error.__cause__ or error.__context__
    return False


def save_checkpoint(folder: Path, state: dict[str, Any], *, epoch: int, step: int, name: str) -> list[Path]:
    """Write a checkpoint as `name`.pth, then remove the older ones; return the two new files.

    When there is one of that name, the new one has another: the old one stays until the new one is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_taken = (folder / f"{name}.json").exists() and not (folder / f"{name}_again.json").exists()
    path = folder / (f"{name}_again.pth" if is_taken else f"{name}.pth")
    manifest_path = path.with_suffix(".json")
    # why: a manifest of an earlier file of this name must not describe the new one for a moment.
    manifest_path.unlink(missing_ok=True)
    write_atomically(path, lambda file: torch.save(state, file))
    manifest = Manifest(
        file=path.name, size_bytes=path.stat().st_size, sha256=file_sha256(path), epoch=epoch, step=step
    )
    write_atomically(manifest_path, lambda file: file.write(manifest.model_dump_json(indent=1).encode()))
    for other in folder.glob("checkpoint_*"):
        if other.stem != path.stem:
            other.unlink(missing_ok=True)
    for left_by_a_killed_process in folder.glob(".*.tmp"):
        left_by_a_killed_process.unlink(missing_ok=True)
    return [path, manifest_path]


def newest_checkpoint(folder: Path) -> tuple[Path, Manifest] | None:
    """Return the complete checkpoint with the most steps, or None. Damaged ones are passed over."""
    for path, manifest in sorted(_manifests(folder), key=lambda found: found[1].step, reverse=True):
        with contextlib.suppress(OSError):
            if path.stat().st_size == manifest.size_bytes and file_sha256(path) == manifest.sha256:
                return path, manifest
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU. No code in the file is ever run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise JobFailed(f"{path.name} is not a checkpoint that can be read.") from error
    if not isinstance(state, dict):
        raise JobFailed(f"{path.name} is not a checkpoint of a training run.")
    return state


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def rng_state() -> dict[str, Any]:
    """Return the states of all global random generators, as tensors and plain Python."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    numbers = torch.from_numpy(np.asarray(keys).astype(np.int64))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(name),
            numbers,
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": random.getstate(),
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(state["python"])


def _manifests(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    for path in folder.glob("checkpoint_*.json"):
        with contextlib.suppress(OSError, ValidationError):
            yield path.with_suffix(".pth"), Manifest.model_validate_json(path.read_bytes())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
