"""What distributions with networks of their own test them with. Needs pytest, which is not installed with this one."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("prefect_trainyard.testing.networks")

from .networks import ContractData, KeepingReporter, NetworkContract  # noqa: E402 why: rewriting comes before

__all__ = ["ContractData", "KeepingReporter", "NetworkContract"]
