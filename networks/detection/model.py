"""A detector with the facts that are needed to use it, on disk and in memory."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torchvision.ops import box_iou

from ...schemas.errors import JobFailed, SpecError
from .. import records
from ..records import Floats, ModelRecord
from ..weights import load_weights, resize_to, save_weights
from .detector import Detector
from .geometry import Resizing
from .masks import overlaps
from .selection import Limits, Selection, select

#: Network -> module here whose `build(record)` returns it with random weights. They are imported when needed.
_MODULES: Final = {
    "ssd": "ssd",
    "dssd": "ssd",
    "retinanet": "retinanet",
    "faster_rcnn": "faster_rcnn",
    "mask_rcnn": "mask_rcnn",
    "yolo_v3": "yolo_models",
    "yolo_v4": "yolo_models",
    "yolo_v4_tiny": "yolo_models",
    "detectnet_v2": "detectnet_models",
    "efficientdet": "efficientdet_models",
    "efficientdet_tf2": "efficientdet_models",
    "deformable_detr": "detr_models",
    "dino": "detr_models",
}

NETWORKS: Final = tuple(_MODULES)

#: What two models are compared by: boxes that are this sure in one of them and at least half as sure in the other,
#: and overlap by this much, as their masks do.
_SURE, _SAME = 0.3, 0.7


class Record(ModelRecord):
    """A detector."""

    # why: what turns codes into boxes counts pixels, and a step of 8 bits is many of them.
    INT8_OPERATIONS: ClassVar = ("Conv", "Gemm", "MatMul")

    resize: Literal["stretch-bilinear", "letterbox"] = "letterbox"
    options: dict[str, Any] = Field(default_factory=dict)
    """What else the architecture is made of, plain JSON."""
    selection: Literal["nms", "top_k"] = "nms"
    is_ordered: bool = True
    candidates: int = 0
    """Of a picture."""
    mask_side: int = 0
    """These four are those of the detector, for graphs and engines."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of a graph."""
        return ("boxes", "scores", "masks") if self.mask_side else ("boxes", "scores")

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.candidates, self._scored + self.mask_side**2

    @property
    def _scored(self) -> int:
        """What a candidate has before its mask: edges and scores."""
        return 4 + len(self.classes)

    @property
    def unit(self) -> str:
        return "objects"

    @property
    def resizing(self) -> Resizing:
        return "letterbox" if self.resize == "letterbox" else "stretch"

    def difference(self, expected: Floats, found: Floats) -> float:
        """Return the largest difference of a score, of a cell of a mask, or of an edge as a share of the input.

        A candidate that is not among those of the other, in a network that chooses its candidates, differs by its
        score at most.
        """
        scale = np.ones(expected.shape[-1], np.float32)
        scale[:4] = 1 / max(self.width, self.height)
        if self.is_ordered:
            return float((np.abs(found - expected) * scale).max())
        largest = 0.0
        for ours, theirs in zip(expected * scale, found * scale, strict=True):
            scored = slice(self._scored)
            distances = np.abs(ours[:, None, scored] - theirs[None, :, scored]).max(axis=2)
            for by_other, rows, others in ((distances, ours, theirs), (distances.T, theirs, ours)):
                nearest = np.abs(rows - others[by_other.argmin(axis=1)]).max(axis=1)
                largest = max(largest, float(np.minimum(nearest, rows[:, 4 : self._scored].max(axis=1)).max()))
        return largest

    def agreement(self, expected: Floats, found: Floats) -> tuple[int, int]:
        """Return how many of the objects in two outputs are in both."""
        same = total = 0
        for ours, theirs in zip(torch.from_numpy(expected), torch.from_numpy(found), strict=True):
            for one, other in ((ours, theirs), (theirs, ours)):
                sure, others = self.select(one, Limits(score=_SURE)), self.select(other, Limits(score=_SURE / 2))
                is_same = box_iou(sure.boxes, others.boxes) >= _SAME
                is_same &= sure.labels[:, None] == others.labels[None]
                if self.mask_side:
                    cells = one[sure.candidates, self._scored :], other[others.candidates, self._scored :]
                    is_same &= overlaps(*cells) >= _SAME
                same, total = same + int(is_same.any(dim=1).sum()), total + len(sure.labels)
        return same, total

    def select(self, candidates_NX: torch.Tensor, limits: Limits) -> Selection:
        """Return what is told of a picture; `candidates_NX` are edges, scores and cells of the mask side by side."""
        return select(candidates_NX[:, :4], candidates_NX[:, 4 : self._scored], self.selection, limits)

    def cells(self, candidates_NX: torch.Tensor, selection: Selection) -> torch.Tensor:
        """Return the cells of the masks of what is told, of shape NMM."""
        return candidates_NX[selection.candidates, self._scored :].reshape(-1, self.mask_side, self.mask_side)


def parse_record(raw: object, where: str) -> Record:
    """Return the record found in the file `where`; JobFailed when it is of another network."""
    return records.parse_record(raw, where, Record, NETWORKS)


def build(record: Record) -> tuple[Detector, Record]:
    """Return the network with random weights, and the record with what the network says about its candidates.

    Raises:
        SpecError: it cannot be built like that.
    """
    try:
        model: Detector = import_module(f".{_MODULES[record.network]}", __package__).build(record).eval()
        with torch.no_grad():
            boxes, scores, *masks = model(torch.zeros(1, *record.shape))
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError) as error:
        raise SpecError(
            f"{record.network} on {record.backbone} cannot be built for pictures of {record.width} x {record.height} "
            f"pixels: {_one_line(error)}.",
            hint="Use a network of convolutions that halves the size at each stage, for example a resnet, a vgg, an "
            "efficientnet or a mobilenet, or another size.",
        ) from error
    assert scores.shape == (*boxes.shape[:2], len(record.classes))
    assert [part.shape for part in masks] == [(*boxes.shape[:2], model.mask_side**2)] * bool(model.mask_side)
    known = {
        "selection": model.selection,
        "is_ordered": model.is_ordered,
        "candidates": boxes.shape[1],
        "mask_side": model.mask_side,
    }
    return model, record.model_copy(update=known)


def save_model(path: Path, state: dict[str, torch.Tensor], record: Record) -> None:
    save_weights(path, state, record.model_dump(mode="json"))


def load_model(path: Path) -> tuple[Detector, Record]:
    """Return the network in a weight file, pruned or not, ready to predict on the CPU.

    Raises:
        JobFailed: the file is damaged or of another network.
    """
    state, raw = load_weights(path)
    if raw is None:
        raise JobFailed(
            f"{path.name} holds weights without a description of their network.",
            hint="Such files can only be the base experiment of a train job.",
        )
    model, record = build(parse_record(raw, path.name))
    resize_to(model, state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise JobFailed(f"The weights in {path.name} do not fit the network they name: {_one_line(error)}.") from error
    return model.eval(), record


def start_from(path: Path, record: Record) -> tuple[Detector, Record, str]:
    """Return the network of `record` with what fits of the weights in `path`, its record, and a sentence about it.

    They are of a model of this network, pruned or not, or plain weights of the backbone in the names of timm. The
    heads are taken over only from a model of the same classes.

    Raises:
        JobFailed: they are of another network.
    """
    state, raw = load_weights(path)
    model, record = build(record)
    if raw is None:
        return model, record, _start_from_backbone(model, state, path.name, record)
    base = parse_record(raw, path.name)
    wanted, given = ((r.network, r.backbone, r.channels, r.options) for r in (record, base))
    if wanted != given:
        what = "other options" if _described(base) == _described(record) else _described(base)
        raise JobFailed(
            f"The base weights are of {what}, and the spec asks for {_described(record)}.",
            hint="Set the spec to what the base weights are of, or choose another base experiment.",
        )
    same_classes = base.classes == record.classes
    own = model.state_dict()
    heads = set() if same_classes else _names_of(model, model.fixed_layers())
    # why: more or fewer pixels may make more or fewer feature maps.
    taken = {name: tensor for name, tensor in state.items() if name in own and name not in heads}
    # why: a head of other classes keeps its own outputs, and takes what inputs the pruned base leaves it.
    fresh = {
        name: own[name][:, : state[name].shape[1]] if own[name].ndim > 1 else own[name] for name in heads & state.keys()
    }
    resize_to(model, {**taken, **fresh})
    try:
        model.load_state_dict({**taken, **fresh}, strict=False)
    except RuntimeError as error:
        raise JobFailed(f"The weights in {path.name} do not fit the network they name: {_one_line(error)}.") from error
    heads_too = "with" if same_classes else "without"
    return model, record, f"Starting from {path.name}: {len(taken)} tensors taken over, {heads_too} the heads."


def _start_from_backbone(model: Detector, state: dict[str, torch.Tensor], name: str, record: Record) -> str:
    own = model.state_dict()
    best: dict[str, torch.Tensor] = {}
    for prefix in ("", "backbone.", "backbone.network."):
        named = {f"{prefix}{key}": tensor for key, tensor in state.items()}
        best = max(best, {k: t for k, t in named.items() if k in own and own[k].shape == t.shape}, key=len)
    count = sum(key.startswith("backbone.") for key in own)
    if len(best) < count / 2:
        raise JobFailed(
            f"The base weights in {name} do not belong to {record.backbone}: {len(best)} of the {count} tensors of "
            "the backbone are there.",
            hint="Choose the backbone that the weights were trained with.",
        )
    model.load_state_dict(best, strict=False)
    return f"Starting from {name}: {len(best)} tensors taken over."


def _names_of(model: nn.Module, layers: list[nn.Module]) -> set[str]:
    """Return the names of the tensors of some layers."""
    names = {layer: name for name, layer in model.named_modules()}
    return {f"{names[layer]}.{leaf}" for layer in layers for leaf in layer.state_dict()}


def _described(record: Record) -> str:
    return f"{record.network} on {record.backbone} for {record.channels} channels"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
