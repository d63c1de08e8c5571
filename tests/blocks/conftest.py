from __future__ import annotations

from pathlib import Path

import pytest
from prefect_trainyard.blocks import ArtifactStorage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStorage:
    """A storage of each kind, empty."""
    if request.param == "local":
        return ArtifactStorage(url=str(tmp_path / "storage"))
    s3: ArtifactStorage = request.getfixturevalue("s3_storage")
    return s3
