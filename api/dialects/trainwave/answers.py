"""What the routes answer, for the OpenAPI document. `translate` builds it.

The bare object is what the command line reads; `success` and `data` say the same as the document has it.
"""

from __future__ import annotations

from typing import Any, Generic, NotRequired, TypeVar
from uuid import UUID

from typing_extensions import TypedDict

from ...answers import closed
from ...services.commands.measures import Measure
from ...services.commands.states import CommandState

T = TypeVar("T")
D = TypeVar("D")


@closed
class User(TypedDict):
    id: UUID
    rid: str
    email: str
    username: str
    first_name: str | None
    last_name: str | None


@closed
class Organization(TypedDict):
    id: str
    rid: str
    name: str
    computed_credit_balance: float


@closed
class ProjectOut(TypedDict):
    id: UUID
    rid: str
    name: str
    organization: str
    created_at: str


@closed
class SecretOut(TypedDict):
    id: UUID
    rid: str
    name: str
    organization: str
    project: UUID | None
    digest: str
    created_at: str


@closed
class Owner(TypedDict):
    id: str
    email: str
    username: str


@closed
class JobMetrics(TypedDict):
    gpu_utilization: float | None
    memory_usage: float | None
    cpu: float | None


@closed
class JobConfig(TypedDict):
    id: UUID
    rid: str
    name: str
    image: str
    setup_command: str
    run_command: str
    cpus: int
    gpus: int
    gpu_type: str | None
    memory_mb: int
    hdd_size_mb: int
    env_vars: list[str]
    interactive: bool
    expires_at: NotRequired[int]


@closed
class CloudOffer(TypedDict):
    cpus: int
    memory_mb: int
    compliance_soc2: bool
    gpu_type: str | None
    gpu_memory_mb: int
    gpus: int


@closed
class Instance(TypedDict):
    id: UUID
    rid: str
    state: str
    provider: str | None


@closed
class ListedJob(TypedDict):
    """A job as the command line reads it; `total_cost` in hundredths."""

    id: UUID
    rid: str
    name: str
    state: CommandState
    message: str
    exit_code: int | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    s3_url: str
    upload_url: str
    url: str
    project: ProjectOut
    owner: Owner | None
    config: JobConfig
    cloud_offer: CloudOffer
    cost_per_hour: float
    total_cost: int
    gpu_hours: float
    metrics: JobMetrics
    instances: list[Instance]


@closed
class DocumentJob(TypedDict):
    """A job as the document has it."""

    id: str
    rid: str
    name: str
    description: str
    state: CommandState
    message: str
    exit_code: int | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    project: str
    owner: Owner | None
    gpu_type: str | None
    gpus: int
    cpu_cores: int
    memory_gb: float | None
    cost_per_hour: float
    total_cost: float
    currency: str
    gpu_hours: float
    metrics: JobMetrics


@closed
class Job(ListedJob):
    success: bool
    data: DocumentJob


@closed
class OneUser(User):
    success: bool
    data: User


@closed
class OneProject(ProjectOut):
    success: bool
    data: ProjectOut


@closed
class Page(TypedDict, Generic[D]):
    count: int
    next: str | None
    previous: str | None
    results: list[D]


@closed
class Listed(TypedDict, Generic[T, D]):
    count: int
    next: str | None
    previous: str | None
    results: list[T]
    success: bool
    data: Page[D]


@closed
class Received(TypedDict):
    size_bytes: int


@closed
class CodeReceived(TypedDict):
    success: bool
    data: Received


@closed
class MetricPoint(TypedDict):
    timestamp: str
    value: float


@closed
class MetricSeries(TypedDict):
    metric: Measure
    job_id: str
    unit: str
    points: list[MetricPoint]


@closed
class Metrics(MetricSeries):
    success: bool
    data: MetricSeries


@closed
class Session(TypedDict):
    url: str
    token: str


@closed
class SessionKey(TypedDict):
    api_token: str


@closed
class SessionWaiting(TypedDict):
    status: str


@closed
class SessionConfig(TypedDict):
    status: str
    config: dict[str, Any] | None
