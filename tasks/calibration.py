"""The calibration_tensorfile action: what an int8 engine is calibrated with, as one file."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="calibration_tensorfile")
def calibration_tensorfile(
    parent: ParentLike, calibration_data: DatasetLike, *, spec: dict[str, object] | None = None
) -> JobResult:
    """Write images of `calibration_data` in the size that the ONNX file of `parent` takes.

    `gen_trt_engine` after it takes the graph of `parent` and these images.
    """
    return run_network_action(
        Action.CALIBRATION_TENSORFILE,
        lambda i: i.implementation.calibration_tensorfile(
            i.spec, model=i.model, data=i.data["calibration"], out=i.out, reporter=i.reporter
        ),
        network=None,
        spec=spec,
        datasets={"calibration": calibration_data},
        parent=parent,
    )
