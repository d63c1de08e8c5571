"""What a run asks for is what its container gets, in the templates that Prefect has for such work pools.

Prefect itself fills them in here; no container is started, and no cluster is needed.
"""

from __future__ import annotations

from typing import Any

import pytest
from prefect.utilities.templating import apply_values
from prefect_trainyard.deployments.containers import container_variables, with_gpus
from station import Station


@pytest.fixture(params=["docker", "kubernetes"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def template(kind: str, station: Station) -> dict[str, Any]:
    packages = station.client.read_worker_metadata()
    return with_gpus(kind, packages[f"prefect-{kind}"][kind]["default_base_job_configuration"])


def filled(template: dict[str, Any], cpus: int, gpus: int, memory_mb: int | None) -> dict[str, Any]:
    properties = template["variables"]["properties"]
    values = {name: schema["default"] for name, schema in properties.items() if schema.get("default") is not None}
    values |= {"gpus": gpus, **container_variables(cpus, gpus, memory_mb)}
    return apply_values(template["job_configuration"], values)


def asked_of(kind: str, job: dict[str, Any]) -> tuple[Any, Any]:
    """Return the limits of memory and GPUs."""
    if kind == "docker":
        return job.get("mem_limit"), job.get("container_create_kwargs")
    limits = job["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    return limits.get("memory"), limits.get("nvidia.com/gpu")


def test_containers_get_memory_and_gpus_that_were_asked_for(kind: str, template: dict[str, Any]) -> None:
    gpus = {"docker": {"device_requests": [{"count": 2, "capabilities": [["gpu"]]}]}, "kubernetes": 2}
    memory = {"docker": "16384m", "kubernetes": "16384Mi"}
    assert asked_of(kind, filled(template, 4, 2, 16384)) == (memory[kind], gpus[kind])


def test_containers_get_no_gpu_and_no_limit_of_memory_unasked(kind: str, template: dict[str, Any]) -> None:
    memory, gpus = asked_of(kind, filled(template, 1, 0, None))
    assert memory is None
    assert not gpus


def test_cluster_finds_a_node_with_enough_cores(station: Station) -> None:
    packages = station.client.read_worker_metadata()
    template = with_gpus("kubernetes", packages["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"])
    (container,) = filled(template, 4, 0, None)["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == {"cpu": "4"}


def test_templates_of_other_pools_stay_as_they_are(station: Station) -> None:
    template = station.client.read_worker_metadata()["prefect"]["process"]["default_base_job_configuration"]
    assert with_gpus("process", template) == template
