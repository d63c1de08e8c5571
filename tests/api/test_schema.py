"""The served OpenAPI document against the facade: Schemathesis sends what fits the document and what does not.

`make fuzz` runs it for longer, with TRAINYARD_FUZZ_EXAMPLES examples of every operation.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from facade_support import Facade, Member
from sweep_support import RATE, configure, progress, start_running, write_trials

EXAMPLES = int(os.environ.get("TRAINYARD_FUZZ_EXAMPLES", "200"))
HOOKS = Path(__file__).with_name("schema_hooks.py")

#: Who may come in is walked by test_security_routes: here all credentials but one are right, which is not refused.
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "use_after_free", "unsupported_method"),
)

CONFIG = """
hooks = {hooks}

[checks.not_a_server_error]
# 501 is said where the yard lacks something on purpose
expected-statuses = ["2xx", "3xx", "4xx", "501"]
"""

#: The dialects, each by the paths that it alone has. The two roots of TAO v5 are one set of routes: one is enough. As
#: it has most of them, its data sets are a run of their own, beside the others.
DIALECTS = {
    "tao_v5": "^/api/v1/(login$|orgs/(?!.*/datasets))",
    "tao_v5_datasets": "^/api/v1/orgs/.*/datasets",
    "tao_v4": "^/api/v1/(user/|login/)",
    "trainwave": "^(/api/v1/(jobs|metrics|users/me|organizations|projects|cli|code|ssh-keys|ssh-proxy)/|/cli/)",
    "workspace": "^/train/",
    "others": "^/api/v1/(health|liveness|readiness)",
}


@pytest.fixture(scope="module")
def member(facade: Facade) -> Member:
    return facade.member()


@pytest.fixture(scope="module")
def ids(facade: Facade, member: Member) -> dict[str, list[str]]:
    """One of everything, and a job in every state that can be had without a worker."""
    dataset_id, experiment_id = member.filled(), member.ready()
    owner = f"experiments/{experiment_id}"
    done, running, pending = (member.start(owner, "train") for _ in range(3))
    convert = member.start(f"datasets/{dataset_id}", "convert")
    configure(member, owner, automl_enabled=True, automl_algorithm="hyperband", automl_seed=1)
    sweep = start_running(member, owner)
    trial = {"id": 0, "specs": {RATE: 0.1}, "status": "paused", "result": 0.5, "bracket": 0, "rung": 1}
    write_trials(member, sweep, {**trial, "results": {"loss": float("inf")}})
    facade.prefect.tell(sweep, sweep=progress(best=0.5, best_trial=0, trials={"paused": 1}))
    member.finish(done)
    facade.prefect.move(running, "RUNNING")
    member.wait(owner, done, "Done")
    member.wait(owner, running, "Running")
    return {
        "org_name": [member.org],
        "org": [member.org],
        "user_id": [member.user_id],
        "dataset_id": [dataset_id],
        "experiment_id": [experiment_id],
        "model_id": [experiment_id],
        "job_id": [done, running, pending, convert, sweep],
        "action": ["train", "convert", "evaluate"],
        "metric_name": ["cpu", "memory"],
    }


@pytest.fixture(scope="module")
def runs(
    facade: Facade, member: Member, ids: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """All of them, two at a time. Each run has one thread: with more, 3.11 loses count in its parser (SystemError)."""

    def run(dialect: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp(dialect)
        config = folder / "schemathesis.toml"
        config.write_text(CONFIG.format(hooks=json.dumps(str(HOOKS))))
        return subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "--no-color"),
                *("run", f"{facade.url}/openapi.json", "--header", f"Authorization: Bearer {member.token}"),
                *("--include-path-regex", DIALECTS[dialect], "--checks", ",".join(CHECKS)),
                *("--max-examples", str(EXAMPLES), "--workers", "1", "--seed", "1", "--warnings", "off"),
                *("--request-timeout", "30", "--suppress-health-check", "all", "--continue-on-failure"),
            ],
            env={**os.environ, "TRAINYARD_FUZZ_IDS": json.dumps(ids)},
            cwd=folder,
            capture_output=True,
            text=True,
        )

    with ThreadPoolExecutor(2) as pool:
        yield {dialect: pool.submit(run, dialect) for dialect in DIALECTS}


def test_every_route_is_in_one_of_the_runs(facade: Facade) -> None:
    """But for signed requests, of which each needs a signature of its own, and the second root of TAO v5."""
    left = ("/api/v1/services/", "/services/", "/api/v1/users/{user_id}")
    paths = [path for path in facade.app.openapi()["paths"] if not path.startswith(left)]
    assert paths
    for path in paths:
        assert [name for name, pattern in DIALECTS.items() if re.search(pattern, path)], path


@pytest.mark.timeout(0)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_answer_is_one_that_the_document_promises(
    runs: dict[str, Future[subprocess.CompletedProcess[str]]], dialect: str
) -> None:
    run = runs[dialect].result()
    print(run.stdout[-20_000:], run.stderr[-2_000:])
    assert run.returncode == 0
