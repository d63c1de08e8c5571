"""Where a data set is in its life."""

from __future__ import annotations

from enum import StrEnum


class DatasetStatus(StrEnum):
    EMPTY = "empty"
    RECEIVING = "receiving"
    READY = "ready"
