"""Reading a COCO set of square pictures of one size, and its mAP at IoU 0.5, for the plain scripts of detectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image

#: What torch.utils.data.DataLoader gets: pictures of shape CHW, 0 to 1, and their boxes and classes, from 0.
Item = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def read(folder: str) -> tuple[list[Item], COCO, int]:
    """Return pictures with boxes_N4 (left, top, right, bottom) and labels_N, the truth, and the number of classes."""
    truth = json.loads(Path(folder, "annotations.json").read_text())
    first = min(category["id"] for category in truth["categories"])
    items = []
    for image in truth["images"]:
        pixels = np.array(Image.open(Path(folder, "images", image["file_name"]))).transpose(2, 0, 1)
        mine = [each for each in truth["annotations"] if each["image_id"] == image["id"]]
        x, y, w, h = torch.tensor([each["bbox"] for each in mine]).reshape(-1, 4).float().unbind(1)
        labels = torch.tensor([each["category_id"] - first for each in mine]).long()
        items.append((torch.tensor(pixels / 255).float(), torch.stack([x, y, x + w, y + h], 1), labels))
    return items, COCO(truth), len(truth["categories"])


def mean_ap(truth: COCO, found: list[Item]) -> float:
    """Return the mAP at IoU 0.5 of boxes_N4, scores_N and labels_N of each picture."""
    first, rows = min(truth.getCatIds()), []
    for image, (boxes, scores, labels) in zip(truth.getImgIds(), found, strict=True):
        sizes = boxes[:, 2:] - boxes[:, :2]
        numbers = torch.full((len(scores), 1), float(image))
        rows.append(torch.cat([numbers, boxes[:, :2], sizes, scores[:, None], labels[:, None] + first], 1))
    evaluation = COCOeval_faster(truth, truth.loadRes(torch.cat(rows).double().numpy()), "bbox", print_function=print)
    evaluation.evaluate(), evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, :, 0, -1].mean())
