"""What a user's code asks for, in the words of work pools whose workers start containers: docker and kubernetes.

Prefect's templates for such pools have no word for GPUs, and each has another one for memory. A run says all words;
a template takes those that it knows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

_KUBERNETES_GPU = "nvidia.com/gpu"


def container_variables(cpus: int, gpus: int, memory_mb: int | None) -> dict[str, Any]:
    """Return the job variables of a run that may use so much.

    Not the image: who chooses it chooses the program that opens the secrets of all orgs.
    """
    found: dict[str, Any] = {"cpu_request": str(cpus)}
    if memory_mb is not None:
        found |= {"mem_limit": f"{memory_mb}m", "memory_limit": f"{memory_mb}Mi"}
    if gpus:
        found["container_create_kwargs"] = {"device_requests": [{"count": gpus, "capabilities": [["gpu"]]}]}
    return found


def with_gpus(kind: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """Return Prefect's base job template of a type of work pool, with a word for GPUs where containers have one."""
    made = copy.deepcopy(dict(template))
    job, variables = made["job_configuration"], made["variables"]["properties"]
    match kind:
        case "docker":
            job["container_create_kwargs"] = "{{ container_create_kwargs }}"
            variables["container_create_kwargs"] = {
                "type": "object",
                "title": "Container create kwargs",
                "description": "More arguments of docker-py for a new container. A run with GPUs asks for them here.",
            }
        case "kubernetes":
            container = job["job_manifest"]["spec"]["template"]["spec"]["containers"][0]
            container.setdefault("resources", {}).setdefault("limits", {})[_KUBERNETES_GPU] = "{{ gpus }}"
            variables["gpus"] = {"type": "integer", "title": "GPUs", "description": f"Limit of {_KUBERNETES_GPU}."}
    return made
