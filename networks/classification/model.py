"""A classifier: a timm network with the facts that are needed to use it, on disk and in memory."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import timm
import torch
from pydantic import Field
from torch import nn

from ...schemas.errors import JobFailed, SpecError
from .. import records
from ..records import ModelRecord
from ..weights import load_weights, resize_to, save_weights

MULTITASK: Final = "multitask_classification"

#: The networks that share these models. The weights of one may be the base of another.
NETWORKS: Final = ("classification_pyt", "classification_tf2", "classification", MULTITASK)


class Record(ModelRecord):
    """A classifier."""

    network: str = NETWORKS[0]
    tasks: dict[str, list[str]] = Field(default_factory=dict)
    """Where there are tasks, `classes` has a name for every logit, `task=class`."""
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (len(self.classes),)

    @property
    def unit(self) -> str:
        return "labels" if self.tasks else "images"

    def labels(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Return the class of each task, of shape (B, tasks); one column for a classifier without tasks."""
        ends = np.cumsum([len(classes) for classes in self.tasks.values()], dtype=np.int64)
        return np.stack([part.argmax(axis=1) for part in np.split(logits, ends[:-1], axis=1)], axis=1)


def parse_record(raw: object, where: str) -> Record:
    """Return the record found in the file `where`; JobFailed when it is of another network."""
    return records.parse_record(raw, where, Record, NETWORKS)


def build(record: Record) -> nn.Module:
    """Return the network with random weights.

    Raises:
        SpecError: timm has no such model, or the model does not take such images.
    """
    if not timm.is_model(record.backbone):
        close = difflib.get_close_matches(record.backbone, timm.list_models(), n=5, cutoff=0.5)
        raise SpecError(
            f"model.backbone.type: timm has no model {record.backbone!r}.",
            hint=f"Similar names: {', '.join(close)}." if close else "timm.list_models() lists the names.",
        )
    options: dict[str, Any] = {"drop_rate": record.drop_rate}
    if record.drop_path_rate > 0:
        options["drop_path_rate"] = record.drop_path_rate
    make = {"pretrained": False, "num_classes": len(record.classes), "in_chans": record.channels, **options}
    try:
        model = _create(record, make)
        model.eval()
        with torch.inference_mode():
            logits = model(torch.zeros(1, *record.shape))
    except (RuntimeError, ValueError, TypeError, AssertionError, ZeroDivisionError, IndexError) as error:
        raise SpecError(
            f"model.backbone.type: {record.backbone} cannot be built for images of {record.width} x {record.height} "
            f"pixels with {record.channels} channels: {_one_line(error)}.",
            hint="Set model.input_width and model.input_height to what the backbone takes (often 224), "
            "or use another backbone.",
        ) from error
    if logits.shape != (1, len(record.classes)):
        raise SpecError(f"model.backbone.type: {record.backbone} is no classifier.", hint="Use another backbone.")
    return model


def _create(record: Record, options: dict[str, Any]) -> nn.Module:
    try:
        # why: transformers of timm are made for one size of image; networks of convolutions do not know the word.
        return timm.create_model(record.backbone, img_size=(record.height, record.width), **options)
    except TypeError:
        return timm.create_model(record.backbone, **options)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def save_model(path: Path, state: dict[str, torch.Tensor], record: Record) -> None:
    save_weights(path, state, record.model_dump())


def load_model(path: Path) -> tuple[nn.Module, Record]:
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
    record = parse_record(raw, path.name)
    model = build(record)
    resize_to(model, state)
    load_exactly(model, state, path.name)
    return model, record


def load_exactly(model: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise JobFailed(f"The weights in {where} do not fit the network they name: {_one_line(error)}.") from error
    model.eval()


def start_from(model: nn.Module, path: Path, record: Record) -> str:
    """Give `model` what fits of the weights in `path`, for transfer learning; return a sentence about it.

    The backbone may be pruned. The classifier is taken over only from a model of the same classes.

    Raises:
        JobFailed: the weights are of another backbone.
    """
    state, raw = load_weights(path)
    same_classes = False
    if raw is not None:
        base = parse_record(raw, path.name)
        if base.backbone != record.backbone or base.channels != record.channels:
            raise JobFailed(
                f"The base weights are of {base.backbone} with {base.channels} channels, and the spec asks for "
                f"{record.backbone} with {record.channels}.",
                hint=f"Set model.backbone.type to {base.backbone}, or choose another base experiment.",
            )
        same_classes = base.classes == record.classes
    if not same_classes:
        classifier = {f"{name}.{leaf}" for name in _classifiers(model) for leaf in ("weight", "bias")}
        state = {name: tensor for name, tensor in state.items() if name not in classifier}
    resize_to_backbone = {name: tensor for name, tensor in state.items() if tensor.ndim > 0}
    wanted = model.state_dict()
    fitting = {n: t for n, t in resize_to_backbone.items() if n in wanted and wanted[n].ndim == t.ndim}
    if len(fitting) < 0.5 * len([t for t in wanted.values() if t.ndim > 0]):
        raise JobFailed(
            f"The base weights do not belong to {record.backbone}: only {len(fitting)} of {len(wanted)} tensors have "
            "its names.",
            hint="Choose the backbone that the weights were trained with.",
        )
    if raw is not None:
        resize_to(model, fitting)
        _fit_classifier(model, fitting, record)
    wanted = model.state_dict()
    fitting = {n: t for n, t in fitting.items() if wanted[n].shape == t.shape}
    model.load_state_dict(fitting, strict=False)
    head = "with" if same_classes else "without"
    return f"Starting from {path.name}: {len(fitting)} tensors taken over, {head} the classifier."


def _classifiers(model: nn.Module) -> list[str]:
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return [names] if isinstance(names, str) else list(names)


def _fit_classifier(model: nn.Module, state: dict[str, torch.Tensor], record: Record) -> None:
    """Make the classifier anew when the pruned backbone gives it fewer features."""
    for name in _classifiers(model):
        layer = model.get_submodule(name)
        if f"{name}.weight" in state or not isinstance(layer, nn.Linear):
            continue
        seen: list[int] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape[-1]))
        try:
            model(torch.zeros(1, *record.shape))
        except RuntimeError:
            # why: the layer itself refuses the features of a pruned backbone; their number is all we need.
            pass
        finally:
            hook.remove()
        if seen and seen[0] != layer.in_features:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Linear(seen[0], layer.out_features))
