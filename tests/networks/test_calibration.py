from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prefect_trainyard.networks.calibration import open_images, read_pixels
from prefect_trainyard.networks.records import ModelRecord
from prefect_trainyard.schemas.errors import JobFailed
from safetensors.torch import save_file

RECORD = ModelRecord(
    network="n", backbone="b", classes=["a"], channels=3, width=8, height=6, mean=[0.5] * 3, std=[0.5] * 3
)


def read(path: Path, wanted: int = 100) -> torch.Tensor:
    return read_pixels(path, RECORD, wanted, open_images)


def test_a_tensorfile_gives_images_from_all_of_it(tmp_path: Path) -> None:
    pixels = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 6, 8).contiguous()
    save_file({"images": pixels}, tmp_path / "all.safetensors")
    assert torch.equal(read(tmp_path / "all.safetensors"), pixels)
    assert read(tmp_path / "all.safetensors", 3)[:, 0, 0, 0].tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    "tensors",
    [
        {"images": torch.zeros(2, 3, 8, 6, dtype=torch.uint8)},
        {"images": torch.zeros(2, 3, 6, 8)},
        {"images": torch.zeros(0, 3, 6, 8, dtype=torch.uint8)},
        {"pictures": torch.zeros(2, 3, 6, 8, dtype=torch.uint8)},
    ],
)
def test_what_does_not_fit_the_graph_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(JobFailed, match=r"other\.safetensors"):
        read(tmp_path / "other.safetensors")


def test_a_file_that_is_no_tensorfile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_bytes(b"no tensors")
    with pytest.raises(JobFailed, match="no tensorfile"):
        read(tmp_path / "text.safetensors")
