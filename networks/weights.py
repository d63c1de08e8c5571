"""Weight files (safetensors) that say what they are of, and networks rebuilt from the shapes in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..schemas.errors import JobFailed
from .checkpoints import write_atomically

_KEY = "trainyard"


def save_weights(path: Path, state: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
    """Write `state` with `record`, plain JSON, in its header."""
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    content = save(tensors, metadata={_KEY: json.dumps(record)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Return the tensors and the record of a weight file; the record is None in a file of somebody else.

    Raises:
        JobFailed: the file is not there or is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            record = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 why: no mapping
        return tensors, None if record is None else json.loads(record)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise JobFailed(f"{path.name} is not a safetensors file that can be read: {error}.") from error


def resize_to(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give the parameters, buffers and layers of `model` the shapes in `state`, as a pruned network has them.

    The values are not copied. A tensor of another rank than the model's belongs to another network
    and is left for `load_state_dict` to refuse.
    """
    for prefix, module in model.named_modules():
        changed = False
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            saved = state.get(f"{prefix}.{name}" if prefix else name)
            if saved is None or saved.shape == tensor.shape or saved.ndim != tensor.ndim:
                continue
            new = torch.empty(saved.shape, dtype=tensor.dtype, device=tensor.device)
            if isinstance(tensor, nn.Parameter):
                setattr(module, name, nn.Parameter(new, requires_grad=tensor.requires_grad))
            else:
                module.register_buffer(name, new)
            changed = True
        if changed:
            _align_attributes(module)


def _align_attributes(module: nn.Module) -> None:
    """Set the sizes that a layer keeps beside its tensors."""
    if isinstance(module, _ConvNd) and not module.transposed:
        if module.groups == module.in_channels:
            # why: in a depthwise layer the number of groups follows the channels.
            multiplier = module.out_channels // module.in_channels
            module.groups = module.weight.shape[0] // multiplier
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _BatchNorm) and module.weight is not None:
        module.num_features = module.weight.shape[0]
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = module.weight.shape[0]


def count_parameters(model: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
