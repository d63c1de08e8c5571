from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.flows.joblog import job_log
from prefect_trainyard.schemas.errors import JobFailed
from prefect_trainyard.tasks.redaction import Redaction, secrets_of
from support import poll

SECRET = "hunter2-hunter2"


def test_what_counts_as_a_secret() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "HF_TOKEN": "hf_abcdef",
        "SHORT_TOKEN": "abc",
        "SSH_AUTH_SOCK": "/tmp/agent.1",
        "PATH": "/usr/bin:/bin",
        "MY_DATABASE_URL": "postgresql://ann:p%40ssword@db/yard",
        "BROKER": "amqp://ann:pw@queue",
        "ODD": "http://[",
    }
    assert secrets_of(environment) == {"aws-secret", "hf_abcdef", "p%40ssword", "p@ssword", "ann:pw"}


def test_a_longer_secret_leaves_no_rest() -> None:
    redaction = Redaction(["secret", "secret-and-more"])
    assert redaction.clean("a secret-and-more b secret c") == "a *** b *** c"


def test_tracebacks_are_clean_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(redaction := Redaction([SECRET]))
    try:
        raise RuntimeError(f"cannot log in with {SECRET}")
    except RuntimeError:
        logging.getLogger("any").exception("failed with %s", SECRET)
    finally:
        caplog.handler.removeFilter(redaction)
    assert "failed with ***" in caplog.text
    assert "cannot log in with ***" in caplog.text
    assert SECRET not in caplog.text


@flow
def leak(folder: str) -> None:
    with job_log(ArtifactStorage(url=folder), "acme", "1"):
        get_run_logger().info("the key is %s", SECRET)
        raise JobFailed(f"{SECRET} was refused.", hint=f"Not {SECRET}?")


def test_neither_the_job_log_nor_prefect_sees_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", SECRET)
    state = leak(str(tmp_path), return_state=True)
    log = (tmp_path / "acme/logs/1.txt").read_text()
    assert "the key is ***" in log
    assert "JobFailed: *** was refused. Not ***?" in log

    def shipped() -> str | None:
        with get_client(sync_client=True) as client:
            chosen = {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}
            found = client._client.post("/logs/filter", json={"logs": chosen, "limit": 200}).json()
        text = "\n".join(record["message"] for record in found)
        return text if "Finished in state" in text else None

    assert SECRET not in log + poll(shipped, "the logs in Prefect") + str(state.message)
