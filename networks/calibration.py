"""What int8 engines are calibrated with, as one file, for all families of dense networks.

A tensorfile is a safetensors file with `images`, BCHW, uint8, in the size that the network takes; its metadata say how
they are normalized. So an engine can be built again, here or elsewhere, where the data set is no longer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..datasets.index import open_index
from ..schemas.errors import JobFailed
from ..schemas.reporting import Reporter
from ..schemas.results import Artifact, ArtifactKind, Output
from .deployment_specs import TensorfileSpec
from .images import Images
from .onnx_tools import METADATA_KEY, load_graph, read_metadata
from .records import ModelRecord, json_or_none

_TENSOR = "images"
_SUFFIX = ".safetensors"


def open_images(data: Path, record: ModelRecord) -> Images:
    """Return the images of an index as the network of `record` takes them."""
    return Images(open_index(data), record.shape)


def write_tensorfile(
    spec: TensorfileSpec,
    *,
    model: Path,
    data: Path,
    out: Path,
    reporter: Reporter,
    parse: Callable[[object, str], ModelRecord],
    open_images: Callable[[Path, Any], Images] = open_images,
) -> Output:
    """Write the images of `data` that an int8 engine of the graph `model` is calibrated with.

    Raises:
        JobFailed: no graph of this family.
    """
    record = parse(json_or_none(read_metadata(load_graph(model)).get(METADATA_KEY)), model.name)
    reporter.progress(0.1, "reading images")
    pixels_BCHW = spread(open_images(data, record), spec.images)
    path = out / "calibration" / f"calibration.tensorfile{_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"scale": "1/255", "mean": json.dumps(record.mean), "std": json.dumps(record.std)}
    save_file({_TENSOR: pixels_BCHW.contiguous()}, path, about)
    reporter.saved([path])
    count, channels, height, width = pixels_BCHW.shape
    return Output(
        artifacts=[Artifact.at(path, out, ArtifactKind.CALIBRATION, "Images for calibration", record.epoch)],
        kpi={"images": float(count)},
        classes=record.classes,
        message=f"Wrote {count} images of {channels} x {height} x {width}.",
    )


def read_pixels(
    calibration: Path, record: ModelRecord, wanted: int, open_images: Callable[..., Images]
) -> torch.Tensor:
    """Return up to `wanted` images, BCHW, uint8, of a tensorfile or an index.

    Raises:
        JobFailed: a file that is no tensorfile, or one of another network's size.
    """
    if calibration.is_dir():
        return spread(open_images(calibration, record), wanted)
    try:
        pixels_BCHW = load_file(calibration)[_TENSOR]
    except (SafetensorError, KeyError) as error:
        raise JobFailed(f"{calibration.name} is no tensorfile: {error}", hint="Run calibration_tensorfile.") from error
    if pixels_BCHW.dtype is not torch.uint8 or pixels_BCHW.shape[1:] != record.shape or not len(pixels_BCHW):
        raise JobFailed(
            f"{calibration.name} has {pixels_BCHW.dtype} of {tuple(pixels_BCHW.shape[1:])}, the graph takes "
            f"{tuple(record.shape)}.",
            hint="Run calibration_tensorfile after the export job of this graph.",
        )
    return pixels_BCHW[_evenly(len(pixels_BCHW), wanted)]


def spread(images: Images, wanted: int) -> torch.Tensor:
    """Return up to `wanted` images, BCHW, uint8."""
    # why: classes lie side by side in an index, so evenly spread numbers are of all of them.
    return images.pixels(_evenly(len(images), wanted))


def _evenly(count: int, wanted: int) -> list[int]:
    numbers: list[int] = np.linspace(0, count - 1, min(count, wanted)).astype(int).tolist()
    return numbers
