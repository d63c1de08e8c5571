"""The manifest of a bundle: code, data and the stages that train, as one archive. See docs/workspace.md."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: Name of the manifest at the top of a bundle.
MANIFEST = "bundle.toml"

#: The message of a job while its environment is made: it does not train yet.
BUILDING_MESSAGE = "Building the environment."

#: Name of the one deployment of the action, where others have the name of a network.
BUNDLE = "bundle"

_PARTS_MAX = 32


def _relative(path: str) -> str:
    parts = path.split("/")
    if len(parts) > _PARTS_MAX or any(part in ("", ".", "..") for part in parts) or "\\" in path:
        raise ValueError("it is no path below the bundle")
    if not path.isprintable():
        raise ValueError("it has characters that do not print")
    return path


def _printable(text: str) -> str:
    if not all(character.isprintable() or character in "\n\t" for character in text):
        raise ValueError("it has characters that do not print")
    return text


Path = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_relative)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,99}$")]
Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
Metric = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./ -]{0,99}$")]
Parameter = bool | int | float | Text
#: `{job id}-{number}`.
ModelId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[1-9][0-9]{0,5}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Stage(_Part):
    """One step of the pipeline: a Python program that is run in the folder of the bundle."""

    name: Word
    entry_point: Path = Field(description="A Python file of the bundle.")
    arguments: list[Text] = Field(default=[], max_length=100)
    inputs: list[Path] = Field(default=[], max_length=1000, description="Files of the bundle or of earlier stages.")
    outputs: list[Path] = Field(default=[], max_length=1000, description="What the stage has made when it ends.")


class Resources(_Part):
    """What the job asks of a worker."""

    cpus: int = Field(default=1, ge=1, le=4096)
    gpus: int = Field(default=0, ge=0, le=1024)
    gpu_type: str | None = Field(default=None, max_length=100)
    memory_mb: int | None = Field(default=None, ge=1, le=1 << 30)
    disk_mb: int | None = Field(default=None, ge=1, le=1 << 40)


class BundleManifest(_Part):
    """What `bundle.toml` says."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_printable)]
    description: Text = ""
    data: Path = Field(default="data", description="The folder with the data; everything else is code.")
    requirements: Path | None = Field(default=None, description="A file as for pip, of what is to be installed.")
    parents: list[ModelId] = Field(default=[], max_length=10, description="Models that the training starts from.")
    parameters: dict[Word, Parameter] = Field(default={}, max_length=200)
    metrics: dict[Metric, Literal["maximize", "minimize"]] = Field(
        default={}, max_length=100, description="What is better, for metrics by which models are sorted."
    )
    resources: Resources = Resources()
    stages: list[Stage] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _fits_together(self) -> BundleManifest:
        names = [stage.name for stage in self.stages]
        if len(names) != len(set(names)):
            raise ValueError("stages: two have the same name")
        outputs = [output for stage in self.stages for output in stage.outputs]
        if len(outputs) != len(set(outputs)):
            raise ValueError("stages: two have the same output")
        for output in outputs:
            if output == self.data or output.startswith(f"{self.data}/"):
                raise ValueError(f"stages: the output {output} lies in the folder of the data, which stays as it is")
        for value in self.parameters.values():
            if isinstance(value, float) and value - value != 0.0:
                raise ValueError("parameters: a number is not finite")
            if isinstance(value, int) and abs(value) >= 1 << 63:
                raise ValueError("parameters: a number is too large")
        return self

    def is_data(self, path: str) -> bool:
        """Whether a path of the bundle lies in the folder of the data."""
        return path.startswith(f"{self.data}/")


class Report(BaseModel):
    """A line that a stage writes to `$TRAINYARD_METRICS`."""

    model_config = ConfigDict(extra="forbid")

    metrics: dict[Metric, Annotated[float, Field(allow_inf_nan=True)]] = Field(default={}, max_length=100)
    step: int = Field(default=0, ge=0, le=1 << 31)
    model: str | None = Field(
        default=None,
        max_length=255,
        description="What in `$TRAINYARD_MODELS` these are the metrics of; it is complete.",
    )
    progress: float | None = Field(default=None, ge=0, le=1)
    message: Text = ""


class ModelFile(BaseModel):
    path: str
    size_bytes: int
    sha256: str


class TrainedModel(BaseModel):
    """One model that a job has made: a file or a folder."""

    number: int = Field(ge=1, description="The how-manieth of its job it is; its id is made of both.")
    name: str
    files: list[ModelFile]
    sha256: str = Field(description="Over all paths and hashes.")
    metrics: dict[str, float] = {}
    step: int = 0
    created_at: datetime

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class BundleRecord(BaseModel):
    """What a job needs to know of its bundle, kept beside it as `bundle.json`."""

    workspace: str
    manifest: BundleManifest
    code_sha256: str
    data_sha256: str


class ParentModel(BaseModel):
    model_id: str
    job_id: str
    sha256: str


class Environment(BaseModel):
    """In what a job ran."""

    sha256: str = Field(description="Over the requirements, the interpreter and what the worker has installed.")
    python: str
    platform: str
    packages: list[str] = Field(description="What is installed in it, as for pip.")


class TrainingRecord(BaseModel):
    """What a job of a bundle says of itself, stored beside its models as `training.json`."""

    environment: Environment | None = None
    parameters: dict[str, Parameter] = {}
    metrics: dict[str, float] = Field(default={}, description="The last value of each metric.")
    models: list[TrainedModel] = []
    parents: list[ParentModel] = []
    mlflow_run_id: str | None = None
