"""The types of data that sets are of, as on the wire."""

from __future__ import annotations

IMAGE_CLASSIFICATION = "image_classification"
SEMANTIC_SEGMENTATION = "semantic_segmentation"
OBJECT_DETECTION = "object_detection"
INSTANCE_SEGMENTATION = "instance_segmentation"

#: Types whose images have boxes, and an index with them: see `box_index`.
BOXED = frozenset({OBJECT_DETECTION, INSTANCE_SEGMENTATION})
