"""Secrets at rest: sealed with a key that only the yard has, opened by jobs with the same one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken
from prefect_trainyard.api.services.accounts.secrets import SecretBox
from prefect_trainyard.blocks import ArtifactStorage, layout
from prefect_trainyard.schemas.errors import JobFailed
from prefect_trainyard.schemas.jobs import KEY_FILE_VARIABLE
from prefect_trainyard.tasks.context import JobContext
from prefect_trainyard.tasks.redaction import Redaction, given_secrets
from prefect_trainyard.tasks.secrets import read_secrets


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "secrets.key"


@pytest.fixture
def job(tmp_path: Path) -> JobContext:
    storage = ArtifactStorage(url=f"file://{tmp_path}/storage")
    return JobContext(org="acme", job_id="j1", experiment="acme/x", storage=storage)


def test_what_was_sealed_opens_again_and_is_not_what_is_kept(key_file: Path) -> None:
    box = SecretBox(key_file)
    sealed = box.encrypt("pässword")
    assert "pässword" not in sealed
    assert SecretBox(key_file).decrypt(sealed) == "pässword"
    assert box.encrypt("pässword") != sealed, "equal secrets do not look equal"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in key_file.parent.iterdir()] == ["secrets.key"]


def test_a_changed_text_or_another_key_opens_nothing(key_file: Path, tmp_path: Path) -> None:
    sealed = SecretBox(key_file).encrypt("x")
    with pytest.raises(InvalidToken):
        SecretBox(tmp_path / "other.key").decrypt(sealed)
    with pytest.raises(InvalidToken):
        SecretBox(key_file).decrypt(sealed[:-4] + "AAA=")


def test_a_new_key_before_the_old_one_seals_while_the_old_one_still_opens(key_file: Path) -> None:
    sealed = SecretBox(key_file).encrypt("old")
    old = key_file.read_bytes()
    new = Fernet.generate_key()
    key_file.write_bytes(new + b"\n" + old)
    box = SecretBox(key_file)
    assert box.decrypt(sealed) == "old"
    assert Fernet(new).decrypt(box.encrypt("new")) == b"new"


def test_a_job_reads_what_the_facade_has_sealed(
    key_file: Path, job: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(key_file))
    assert read_secrets(job) == {}
    sealed = SecretBox(key_file).encrypt(json.dumps({"A": "b"}))
    job.storage.write_bytes(layout.secrets("acme", "j1"), sealed.encode())
    assert read_secrets(job) == {"A": "b"}
    key_file.write_bytes(Fernet.generate_key())
    with pytest.raises(JobFailed, match="cannot be read"):
        read_secrets(job)
    monkeypatch.delenv(KEY_FILE_VARIABLE)
    with pytest.raises(JobFailed, match="no key"):
        read_secrets(job)


def test_what_users_give_is_hidden_whatever_its_name_but_for_what_would_blot_out_the_log() -> None:
    given = {"PLAIN": "hunter2hunter2", "MY_TOKEN": "abc123", "EPOCHS": "100000000", "MODE": "offline", "X_KEY": "k"}
    assert given_secrets(given) == {"hunter2hunter2", "abc123"}
    assert Redaction(given_secrets(given)).clean("got hunter2hunter2 and abc123, offline") == "got *** and ***, offline"
