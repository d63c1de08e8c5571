"""Object detection in plain PyTorch: what `benchmarks/models.py` compares with.

python benchmarks/plain/detect.py TRAIN EVAL ssd|retinanet|faster_rcnn BACKBONE LR EPOCHS SEED

TRAIN and EVAL are COCO sets of square pictures of one size. The classes are those of torchvision; BACKBONE is a timm
network for ssd, a resnet of torchvision for the others. Prints the mAP at IoU 0.5 after the last epoch.
"""

from __future__ import annotations

import sys

import timm
import torch
from boxes import mean_ap, read
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

LOOK = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class Maps(nn.Module):
    """Maps of a timm network at strides 8, 16 and 32, and halved ones until a single pixel is left."""

    def __init__(self, backbone: str, size: int) -> None:
        super().__init__()
        self.body = timm.create_model(backbone, features_only=True)
        self.chosen = [n for n, stride in enumerate(self.body.feature_info.reduction()) if stride in (8, 16, 32)]
        self.extras = nn.ModuleList()
        while size // 32 >> len(self.extras) > 1:
            width = 256 if self.extras else self.body.feature_info.channels()[-1]
            halving = [nn.Conv2d(width, 256, 3, 2, 1), nn.BatchNorm2d(256), nn.ReLU()]
            self.extras.append(nn.Sequential(*halving))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = [maps for n, maps in enumerate(self.body(x)) if n in self.chosen]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return {str(n): one for n, one in enumerate(maps)}


def build(name: str, backbone: str, size: int, classes: int) -> nn.Module:
    if name == "ssd":
        maps = Maps(backbone, size)
        boxes = DefaultBoxGenerator([[2, 3]] * (3 + len(maps.extras)), min_ratio=0.1, max_ratio=0.9)
        return detection.ssd.SSD(maps, boxes, (size, size), classes, score_thresh=0.01, nms_thresh=0.5, **LOOK)
    whole = {"min_size": size, "max_size": size, **LOOK}
    options = {"backbone_name": backbone, "weights": None, "trainable_layers": 5, "norm_layer": nn.BatchNorm2d}
    ratios, options["returned_layers"] = (0.5, 1.0, 2.0), [2, 3, 4]
    if name == "faster_rcnn":
        whole |= {"rpn_post_nms_top_n_test": 100, "box_batch_size_per_image": 128, "box_score_thresh": 0.01}
        whole["rpn_anchor_generator"] = AnchorGenerator(((32,), (64,), (128,), (256,)), (ratios,) * 4)
        return detection.FasterRCNN(resnet_fpn_backbone(**options), classes, **whole)
    body = resnet_fpn_backbone(**options, extra_blocks=LastLevelP6P7(256, 256))
    sizes = tuple(tuple(int(4 * stride * 2 ** (n / 3)) for n in range(3)) for stride in (8, 16, 32, 64, 128))
    anchors = AnchorGenerator(sizes, (ratios,) * 5)
    return detection.RetinaNet(body, classes, anchor_generator=anchors, score_thresh=0.01, **whole)


(train, _, classes), (evaluation, truth, _) = read(sys.argv[1]), read(sys.argv[2])
rate, epochs, seed = float(sys.argv[5]), int(sys.argv[6]), int(sys.argv[7])
torch.manual_seed(seed)
model = build(sys.argv[3], sys.argv[4], train[0][0].shape[-1], classes + 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
batches = torch.utils.data.DataLoader(train, 8, shuffle=True, collate_fn=list)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
for _ in range(epochs):
    for batch in batches:
        targets = [{"boxes": boxes, "labels": labels + 1} for _, boxes, labels in batch]
        optimizer.zero_grad()
        sum(model.train()([pixels for pixels, _, _ in batch], targets).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
with torch.inference_mode():
    found = [model.eval()([pixels])[0] for pixels, _, _ in evaluation]
print(mean_ap(truth, [(each["boxes"], each["scores"], each["labels"] - 1) for each in found]))
