from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session", autouse=True)
def prefect_alone() -> Iterator[None]:
    """A Prefect server and nothing else: no facade, no worker."""
    with prefect_test_harness():
        yield
