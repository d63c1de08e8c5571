"""What the specs of all families of dense networks share: pruning, export and engines. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from ..schemas.specs import Spec, like, parameter, section


class Prune(Spec):
    method: Literal["ratio", "threshold"] = parameter(
        "ratio",
        description="ratio: remove the least important channels until `pruning_ratio` of all parameters is gone. "
        "threshold: remove every channel whose norm is below `pruning_threshold` of the largest in its layer.",
        popular=True,
    )
    pruning_ratio: float = parameter(
        0.4, description="Share of the parameters to remove, at least.", gt=0, le=0.95, popular=True
    )
    pruning_threshold: float = parameter(
        0.5, description="Relative norm below which a channel goes, with method threshold.", gt=0, lt=1, popular=True
    )
    granularity: int = parameter(8, description="Channel counts stay multiples of this.", ge=1, le=64)
    min_channels: int = parameter(8, description="A layer keeps at least so many channels.", ge=1, le=1024)


class Export(Spec):
    opset_version: int = parameter(18, description="ONNX operator set.", ge=18, le=21)
    batch_size: int = parameter(
        -1, description="Fixed batch size of the graph; -1 leaves it open.", ge=-1, le=1024, popular=True
    )
    tolerance: float = parameter(
        0.001, description="Largest difference of a logit between PyTorch and ONNX Runtime.", gt=0, le=1
    )

    @field_validator("batch_size")
    @classmethod
    def _not_zero(cls, value: int) -> int:
        if value == 0:
            raise ValueError("a batch size is -1 or at least 1")
        return value


class ExportSpec(Spec):
    export: Export = section(Export)


def lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Calibration(Spec):
    images: int = parameter(256, description="Images of the calibration data to use, spread over the classes.", ge=1)
    method: Literal["minmax", "entropy"] = parameter("minmax", description="How the ranges of activations are found.")


class TensorfileSpec(Spec):
    images: int = like(Calibration, "images")


class TensorRT(Spec):
    # Clients write FP16 as well as fp16.
    data_type: Annotated[Literal["fp32", "fp16", "int8"], BeforeValidator(lower)] = parameter(
        "fp32", description="Precision of the engine; int8 needs calibration data.", popular=True
    )
    workspace_size: int = parameter(1024, description="Memory in MiB that TensorRT may use while it builds.", ge=16)
    min_batch_size: int = parameter(1, description="Smallest batch that the engine takes.", ge=1, le=1024)
    opt_batch_size: int = parameter(8, description="Batch that the engine is tuned for.", ge=1, le=1024)
    max_batch_size: int = parameter(64, description="Largest batch that the engine takes.", ge=1, le=1024)
    calibration: Calibration = section(Calibration)

    @model_validator(mode="after")
    def _ordered(self) -> TensorRT:
        if not self.min_batch_size <= self.opt_batch_size <= self.max_batch_size:
            raise ValueError("min_batch_size <= opt_batch_size <= max_batch_size must hold")
        return self


class Engine(Spec):
    backend: Annotated[Literal["auto", "tensorrt", "onnxruntime"], BeforeValidator(lower)] = parameter(
        "auto", description="auto: TensorRT where it and an NVIDIA GPU are there, else ONNX Runtime.", popular=True
    )
    tensorrt: TensorRT = section(TensorRT)


class EngineSpec(Spec):
    gen_trt_engine: Engine = section(Engine)


class FlatPruneSpec(Prune):
    """The parameters stand at the top, as clients write them."""

    method: Literal["ratio", "threshold"] = parameter(
        "threshold",
        description="threshold: remove every channel whose norm is below `pruning_threshold` of the largest in its "
        "layer. ratio: remove the least important channels until `pruning_ratio` of all parameters is gone.",
        popular=True,
    )
    min_channels: int = parameter(
        16,
        description="A layer keeps at least so many channels. Below 16 the last layers lose classes that a retraining "
        "hardly wins back.",
        ge=1,
        le=1024,
    )


class FlatEngineSpec(TensorRT):
    """The parameters stand at the top, as clients write them."""

    backend: Annotated[Literal["auto", "tensorrt", "onnxruntime"], BeforeValidator(lower)] = parameter(
        "auto", description="auto: TensorRT where it and an NVIDIA GPU are there, else ONNX Runtime.", popular=True
    )
