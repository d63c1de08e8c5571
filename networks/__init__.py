"""One registered record per architecture, one trainer per task family.

Importing the package registers the networks that come with it and stays light; an implementation
is imported when a job runs.
"""

from __future__ import annotations

from .classification.record import CLASSIFIERS
from .registry import register

for network in CLASSIFIERS:
    register(network)
