"""The mean IoU of masks that fill their boxes: what `benchmarks/models.py` compares masks made of boxes with.

python benchmarks/plain/fill_boxes.py TRAIN EVAL EPOCHS SEED

EVAL is a COCO set with masks. Nothing is learned.
"""

from __future__ import annotations

import sys

import numpy as np
from boxes import read

ious = []
_, truth, _ = read(sys.argv[2])
for entry in truth.dataset["annotations"]:
    mask, (x, y, width, height) = truth.annToMask(entry) > 0, map(round, entry["bbox"])
    box = np.zeros_like(mask)
    box[y : y + height, x : x + width] = True
    ious.append((mask & box).sum() / (mask | box).sum())
print(float(np.mean(ious)))
