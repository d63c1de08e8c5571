"""The command line of users and operators, against a real facade."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from facade_support import Facade, Member, serve
from prefect_trainyard.api.services.files.joblog import end_log
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from prefect_trainyard.cli import upkeep
from prefect_trainyard.deployments.home import Home, ProcessRecord, YardState
from prefect_trainyard.schemas.errors import InvalidInput
from prefect_trainyard.schemas.states import JobState
from support import TRAINYARD, poll, trainyard


def write_state(facade: Facade) -> str:
    """Leave in the home what `trainyard up` leaves there, and return it."""
    home = Home(facade.settings.home)
    home.create()
    home.write_state(
        YardState(
            supervisor=ProcessRecord.of(os.getpid()),
            api_url=facade.url,
            prefect_url=facade.prefect.api_url.removesuffix("/api"),
            mlflow_url="",
            ready=True,
        )
    )
    return str(home.path)


def run(facade: Facade, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the operator in the home of the facade."""
    home = write_state(facade)
    return trainyard(*arguments, "--home", home, check=check, **catalog(facade), **environment)


def catalog(facade: Facade) -> dict[str, str]:
    return {"TRAINYARD_CATALOG_URL": facade.settings.database_url}


def shown(facade: Facade, *arguments: str) -> Any:
    return json.loads(run(facade, *arguments, "--json").stdout)


def started(member: Member) -> tuple[str, str]:
    owner = f"experiments/{member.ready()}"
    return owner, member.start(owner, "train", name="first")


def append(member: Member, job_id: str, *lines: str) -> None:
    member.facade.storage.append_text(layout.log(member.org, job_id), "".join(f"{line}\n" for line in lines))


def test_log_is_printed_for_the_owner_of_the_home_and_for_a_key(ann) -> None:
    owner, job_id = started(ann)
    append(ann, job_id, "one line", "naïve ☃")
    text = ann.client.get(f"{owner}/jobs/{job_id}/logs").text
    assert run(ann.facade, "logs", job_id).stdout == text
    key = ann.facade.key(ann.org, "ann")
    assert trainyard("logs", job_id, "--url", ann.facade.url, "--key", key).stdout == text
    assert trainyard("logs", job_id, TRAINYARD_URL=ann.facade.url, TRAINYARD_KEY=key).stdout == text


def test_followed_log_ends_with_the_job_and_outlives_the_facade(ann, tmp_path: Path) -> None:
    _, job_id = started(ann)
    settings: ApiSettings = ann.facade.settings
    printed = tmp_path / "log.txt"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TRAINYARD_", "PREFECT_", "MLFLOW_"))}
    first = serve(settings, ann.facade.prefect)
    facade = next(first)
    home = write_state(facade)
    with printed.open("wb") as output:
        command = [str(TRAINYARD), "logs", job_id, "--follow", "--home", home]
        process = subprocess.Popen(command, stdout=output, env={**inherited, **catalog(facade)})
    try:
        append(ann, job_id, "before")
        poll(lambda: "before" in printed.read_text(), "the first line", 30)
        first.close()
        append(ann, job_id, "while nobody served")
        write_state(ann.facade)  # another port, as after `down` and `up`
        append(ann, job_id, "after")
        end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.DONE)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    text = ann.facade.storage.read_bytes(layout.log(ann.org, job_id)).decode()
    assert printed.read_text() == text and text.endswith("before\nwhile nobody served\nafter\nDone EOF\n")


def test_followed_log_is_there_for_a_key_too(ann) -> None:
    _, job_id = started(ann)
    end_log(ann.facade.storage, ann.org, UUID(job_id), JobState.FAILED, "No worker came.")
    key = ann.facade.key(ann.org, "ann")
    printed = trainyard("logs", "-f", job_id, "--url", ann.facade.url, "--key", key).stdout
    assert printed.endswith("No worker came.\nError EOF\n")


def test_jobs_are_listed_and_shown(ann) -> None:
    owner, job_id = started(ann)
    second = ann.start(owner, "train", name="second")
    listed = shown(ann.facade, "jobs", "list", "--org", ann.org)
    assert [job["id"] for job in listed] == [second, job_id]
    assert [job["id"] for job in shown(ann.facade, "jobs", "list", "--org", ann.org, "--limit", "1")] == [second]
    lines = run(ann.facade, "jobs", "list", "--org", ann.org).stdout.splitlines()
    assert len(lines) == 2 and lines[1].startswith(job_id) and "train" in lines[1] and "Pending" in lines[1]
    assert json.loads(run(ann.facade, "jobs", "show", job_id).stdout)["name"] == "first"


def test_faults_are_one_line(ann, tmp_path: Path) -> None:
    _, job_id = started(ann)
    ann.facade.member()  # so that there are two orgs
    faults = [
        run(ann.facade, "logs", str(uuid4()), check=False),
        run(ann.facade, "jobs", "show", str(uuid4()), check=False),
        run(ann.facade, "jobs", "list", check=False),
        run(ann.facade, "logs", job_id, "--url", ann.facade.url, check=False),
        run(ann.facade, "logs", job_id, "--url", ann.facade.url, "--key", "ty-wrong", check=False),
        run(ann.facade, "logs", "-f", str(uuid4()), check=False),
        run(ann.facade, "orgs", "set", "nobody", "--keep-days", "3", check=False),
        run(ann.facade, "orgs", "set", ann.org, check=False),
        run(ann.facade, "orgs", "set", ann.org, "--max-storage", "much", check=False),
        run(ann.facade, "orgs", "set", ann.org, "--max-running", "0", check=False),
        run(ann.facade, "gc", "--org", "nobody", check=False),
        trainyard("gc", "--home", str(tmp_path), check=False),
        trainyard("logs", job_id, "--home", str(tmp_path), check=False),
        trainyard("logs", job_id, "--url", "http://127.0.0.1:9", "--key", "k", check=False),
        trainyard("jobs", "list", "--home", str(tmp_path), TRAINYARD_PORT="many", check=False),
    ]
    for fault in faults:
        assert fault.returncode == 1, fault.args
        assert fault.stderr.startswith("trainyard: ") and fault.stderr.count("\n") == 1, fault.stderr
        assert fault.stdout == ""


def test_quotas_are_set_shown_and_taken_away(ann) -> None:
    given = ("--max-running", "3", "--max-storage", "1.5G", "--keep-days", "7.5", "--keep-jobs", "2")
    run(ann.facade, "orgs", "set", ann.org, *given)

    def read() -> dict[str, Any]:
        (found,) = [org for org in shown(ann.facade, "orgs", "list") if org["name"] == ann.org]
        return dict(found)

    quotas = {"max_running": 3, "max_storage_bytes": 3 << 29, "keep_days": 7.5, "keep_jobs": 2}
    assert {name: read()[name] for name in quotas} == quotas
    (line,) = [text for text in run(ann.facade, "orgs", "list").stdout.splitlines() if text.startswith(ann.org)]
    assert "of 3 jobs" in line and "1.5 GiB" in line and "7.5 days" in line and "newest 2" in line
    run(ann.facade, "orgs", "set", ann.org, "--max-storage", "none", "--keep-days", "None")
    assert {name: read()[name] for name in quotas} == {**quotas, "max_storage_bytes": None, "keep_days": None}


def test_clean_up_lists_what_it_would_do_and_does_it(ann) -> None:
    owner, job_id = started(ann)
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")
    planned = shown(ann.facade, "gc", "--dry-run", "--org", ann.org, "--older-than", "0")
    before = sum(file.size_bytes for file in ann.facade.storage.list_files(ann.org))
    done = shown(ann.facade, "gc", "--org", ann.org, "--older-than", "0")
    after = sum(file.size_bytes for file in ann.facade.storage.list_files(ann.org))
    assert [(item["kind"], item["name"]) for item in done["items"]] == [("old", job_id)]
    assert done["freed_bytes"] == before - after > 0
    assert {**planned, "dry_run": False} == done and planned["dry_run"] is True
    assert ann.client.get(f"{owner}/jobs/{job_id}").status_code == 404
    again = run(ann.facade, "gc", "--org", ann.org, "--older-than", "0").stdout
    assert again == "0 B were freed.\n"


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("4096", 4096), ("100G", 100 << 30), ("1.5t", 3 << 39), ("2 K", None), ("10MiB", 10 << 20)]
)
def test_sizes_are_read_as_people_write_them(text: str, size_bytes: int | None) -> None:
    if size_bytes is None:
        with pytest.raises(InvalidInput, match="no size"):
            upkeep.parse_size(text)
    else:
        assert upkeep.parse_size(text) == size_bytes
