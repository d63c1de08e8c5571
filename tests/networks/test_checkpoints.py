from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from prefect_trainyard.networks.checkpoints import (
    load_checkpoint,
    newest_checkpoint,
    restore_rng_state,
    rng_state,
    save_checkpoint,
    write_atomically,
)
from prefect_trainyard.schemas.errors import JobFailed, StorageFull


def save(folder: Path, epoch: int) -> Path:
    state = {"epoch": epoch, "weights": torch.full((1000,), float(epoch))}
    return save_checkpoint(folder, state, epoch=epoch, step=10 * epoch, name=f"checkpoint_epoch_{epoch:03d}")[0]


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == path
    assert (found[1].epoch, found[1].step) == (2, 20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_epoch_002.json", "checkpoint_epoch_002.pth"]
    assert load_checkpoint(path)["epoch"] == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no manifest", "broken manifest", "no file"])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(tmp_path: Path, damage: str) -> None:
    old = save(tmp_path / "old", 1)
    new = save(tmp_path, 2)
    for path in (old, old.with_suffix(".json")):
        path.rename(tmp_path / path.name)
    match damage:
        case "truncated":
            new.write_bytes(new.read_bytes()[:-1])
        case "flipped":
            content = bytearray(new.read_bytes())
            content[len(content) // 2] ^= 1
            new.write_bytes(content)
        case "no manifest":
            new.with_suffix(".json").unlink()
        case "broken manifest":
            new.with_suffix(".json").write_text('{"file": "checkpoint_epoch')
        case "no file":
            new.unlink()
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[1].epoch == 1


def test_what_a_killed_writer_left_is_cleaned_up_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint_epoch_001.pth.4711.tmp").write_bytes(b"half")
    (tmp_path / "checkpoint_epoch_001.pth").write_bytes(b"without a manifest")
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("boom")])
def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new, but")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageFull, match="file"):
        write_atomically(tmp_path / "file", write)
    assert not list(tmp_path.iterdir())


class FullFile:
    """A file on a full disk, as torch sees it."""

    def write(self, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None: ...


def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        torch.save({"weights": torch.zeros(100_000)}, FullFile())

    with pytest.raises(StorageFull):
        write_atomically(tmp_path / "file", write)


def test_a_checkpoint_of_the_same_step_replaces_the_first_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    old = save(tmp_path, 1)
    with monkeypatch.context() as patch, pytest.raises(StorageFull):
        patch.setattr(torch, "save", fail)
        save(tmp_path, 1)
    assert newest_checkpoint(tmp_path) is not None
    new = save(tmp_path, 1)
    assert new != old
    assert [path for path, _ in filter(None, [newest_checkpoint(tmp_path)])] == [new]
    third = save(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == sorted([third, third.with_suffix(".json")])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/trainyard-evil",)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_epoch_001.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(JobFailed):
        load_checkpoint(path)
    assert not Path("/tmp/trainyard-evil").exists()


def test_random_states_survive_a_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"rng": rng_state()}, epoch=0, step=0, name="checkpoint_epoch_000")
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    restore_rng_state(load_checkpoint(tmp_path / "checkpoint_epoch_000.pth")["rng"])
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected
