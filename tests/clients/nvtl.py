"""The unmodified client nvidia-tao-client 5.3.0 as a person runs it, and what its tutorials make of its output."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support import poll

FINAL = ("Done", "Error", "Canceled")


@dataclass(frozen=True)
class Nvtl:
    """The client as a person runs it: a command, its options, what it prints."""

    command: Path
    home: Path
    base_url: str
    network: str | None = None
    """The group of the commands: `nvtl unet dataset-create`."""

    def of(self, network: str) -> Nvtl:
        return replace(self, network=network)

    def __call__(self, *arguments: str) -> str:
        words = [str(self.command), *([self.network] if self.network else []), *arguments]
        run = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=300,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"], "BASE_URL": self.base_url},
        )
        assert run.returncode == 0, f"{' '.join(words)}\n{run.stdout}\n{run.stderr}"
        return run.stdout.strip()

    def literal(self, *arguments: str) -> Any:
        """Return what the tutorials make of the output: they read it as a Python literal."""
        printed = self(*arguments)
        try:
            return json.loads(printed)
        except json.JSONDecodeError:
            return ast.literal_eval(printed)


@dataclass(frozen=True)
class Experiment:
    """An experiment as the notebooks use it: by its id and the commands of the client."""

    nvtl: Nvtl
    id: str

    def patch(self, **fields: Any) -> dict[str, Any]:
        command = ("patch-artifact-metadata", "--id", self.id, "--job_type", "experiment", "--update_info")
        return dict(self.nvtl.literal(*command, json.dumps(fields)))

    def spec(self, action: str) -> dict[str, Any]:
        return dict(self.nvtl.literal("get-spec", "--id", self.id, "--action", action, "--job_type", "experiment"))

    def run(self, action: str, specs: dict[str, Any], parent: str | None = None) -> str:
        arguments = ["experiment-run-action", "--action", action, "--id", self.id, "--specs", json.dumps(specs)]
        printed = self.nvtl(*arguments, *(["--parent_job_id", parent] if parent else []))
        return str(printed.splitlines()[-1].strip().strip('"'))

    def status(self, job: str) -> dict[str, Any]:
        shown = self.nvtl("get-action-status", "--id", self.id, "--job", job, "--job_type", "experiment")
        return dict(json.loads(shown))

    def wait(self, job: str) -> dict[str, Any]:
        def read() -> dict[str, Any] | None:
            return shown if (shown := self.status(job))["status"] in FINAL else None

        return poll(read, f"job {job}", 240, 0.5)

    def finished(self, action: str, specs: dict[str, Any], parent: str | None) -> str:
        job = self.run(action, specs, parent)
        shown = self.wait(job)
        assert shown["status"] == "Done", shown
        return job

    def kpi(self, job: str, metric: str) -> float:
        (kpi,) = [k for k in self.status(job)["result"]["kpi"] if k["metric"] == metric]
        return float(list(kpi["values"].values())[-1])


def upload(nvtl: Nvtl, type: str, format: str, *archives: Path) -> str:
    """Create a data set of some archives as the notebooks do; return its id."""
    created = nvtl("dataset-create", "--dataset_type", type, "--dataset_format", format)
    dataset_id = created.splitlines()[-1].strip()
    patch = json.dumps({"name": archives[0].stem, "description": "digits", "docker_env_vars": {}})
    nvtl("patch-artifact-metadata", "--id", dataset_id, "--job_type", "dataset", "--update_info", patch)
    for archive in archives:
        nvtl("dataset-upload", "--id", dataset_id, "--path", str(archive))
    return dataset_id


def create_experiment(nvtl: Nvtl, encryption_key: str = "nvidia_tlt") -> Experiment:
    assert nvtl.network is not None
    made = nvtl("experiment-create", "--network_arch", nvtl.network, "--encryption_key", encryption_key)
    return Experiment(nvtl, made.splitlines()[-1].strip())
