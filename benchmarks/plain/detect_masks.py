"""Objects with masks in plain PyTorch: what `benchmarks/models.py` compares with.

python benchmarks/plain/detect_masks.py TRAIN EVAL LR EPOCHS SEED

TRAIN and EVAL are COCO sets with masks, of square pictures of one size. MaskRCNN of torchvision on its resnet18. Prints
the mAP of masks at IoU 0.5 after the last epoch.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from boxes import read
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as runs
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone


def masks_of(truth: COCO) -> list[torch.Tensor]:
    """Return the masks_NHW of each picture, in the order of `read`."""
    found = []
    for image in truth.getImgIds():
        entries = [each for each in truth.dataset["annotations"] if each["image_id"] == image]
        found.append(torch.tensor(np.stack([truth.annToMask(entry) for entry in entries])))
    return found


(train, given, classes), (evaluation, truth, _) = read(sys.argv[1]), read(sys.argv[2])
rate, epochs, size = float(sys.argv[3]), int(sys.argv[4]), train[0][0].shape[-1]
torch.manual_seed(int(sys.argv[5]))
body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d)
model = MaskRCNN(
    body,
    classes + 1,
    min_size=size,
    max_size=size,
    rpn_anchor_generator=AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5),
    rpn_post_nms_top_n_test=100,
    box_batch_size_per_image=128,
    box_score_thresh=0.01,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
items = list(zip(train, masks_of(given), strict=True))
batches = torch.utils.data.DataLoader(items, 8, shuffle=True, collate_fn=list)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
for _ in range(epochs):
    for batch in batches:
        targets = [{"boxes": boxes, "labels": labels + 1, "masks": masks} for (_, boxes, labels), masks in batch]
        optimizer.zero_grad()
        sum(model.train()([pixels for (pixels, _, _), _ in batch], targets).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
results, first = [], min(truth.getCatIds())
for image, (pixels, _, _) in zip(truth.getImgIds(), evaluation, strict=True):
    with torch.inference_mode():
        found = model.eval()([pixels])[0]
    for mask, score, label in zip(found["masks"], found["scores"], found["labels"], strict=True):
        packed = runs.encode(np.asfortranarray((mask[0] > 0.5).numpy().astype(np.uint8)))
        about = {"image_id": image, "category_id": int(label) - 1 + first, "score": float(score)}
        results.append({**about, "segmentation": packed})
scores = COCOeval_faster(truth, truth.loadRes(results), "segm", print_function=print)
scores.evaluate(), scores.accumulate()
print(float(scores.eval["precision"][0, :, :, 0, -1].mean()))
