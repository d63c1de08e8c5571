"""One registered record per architecture, one trainer per task family.

Importing the package registers the networks that come with it and stays light; an implementation
is imported when a job runs.
"""

from __future__ import annotations

from .classification.record import CLASSIFIERS
from .detection.record import DETECTORS
from .mal.record import MAL
from .registry import register
from .segmentation.record import SEGFORMER, UNET

for _network in (*CLASSIFIERS, UNET, SEGFORMER, *DETECTORS, MAL):
    register(_network)
