"""The gen_trt_engine action: an engine for inference, by TensorRT or ONNX Runtime."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="gen_trt_engine")
def gen_trt_engine(
    parent: ParentLike,
    calibration_data: DatasetLike | None = None,
    *,
    spec: dict[str, object] | None = None,
) -> JobResult:
    """Build an engine from the ONNX file of `parent`; int8 needs `calibration_data`.

    After `calibration_tensorfile` its images are taken instead, and the ONNX file of its parent.
    """
    return run_network_action(
        Action.GEN_TRT_ENGINE,
        lambda i: i.implementation.build_engine(
            i.spec, model=i.model, calibration=i.data.get("calibration"), out=i.out, reporter=i.reporter
        ),
        network=None,
        spec=spec,
        datasets={"calibration": calibration_data},
        parent=parent,
    )
