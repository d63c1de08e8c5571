"""Semantic segmentation in plain PyTorch: what `benchmarks/models.py` compares with.

python benchmarks/plain/segment.py TRAIN EVAL unet|segformer EPOCHS SEED

TRAIN and EVAL are folders with `images`, `masks` (a class number per pixel) and `classes.txt`. `unet` is a decoder on
timm's resnet18, `segformer` is mit_b0 of transformers. Prints the mean IoU of the classes after the last epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import SegformerConfig, SegformerForSemanticSegmentation


class UNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = timm.create_model("resnet18", features_only=True)
        self.steps, below = nn.ModuleList(), 512
        for skip, above in ((256, 256), (128, 128), (64, 64), (64, 32), (0, 16)):
            self.steps.append(nn.Sequential(*conv(below + skip, above), *conv(above, above)))
            below = above
        self.head = nn.Conv2d(below, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, x = self.encoder(x)
        for step, skip in zip(self.steps, [*reversed(skips), None], strict=True):
            x = F.interpolate(x, scale_factor=2.0)
            x = step(x if skip is None else torch.cat([x, skip], 1))
        return self.head(x)


class SegFormer(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.network(x).logits, scale_factor=4.0, mode="bilinear")


def conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def read(folder: str) -> TensorDataset:
    paths = sorted(Path(folder, "images").iterdir())
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    masks = np.stack([np.asarray(Image.open(Path(folder, "masks", path.name))) for path in paths])
    images = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return TensorDataset(torch.tensor(images.transpose(0, 3, 1, 2)).float(), torch.tensor(masks).long())


train, evaluation = read(sys.argv[1]), read(sys.argv[2])
epochs, classes = int(sys.argv[4]), len(Path(sys.argv[1], "classes.txt").read_text().split())
torch.manual_seed(int(sys.argv[5]))
model = {"unet": UNet, "segformer": SegFormer}[sys.argv[3]](classes)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
batches = DataLoader(train, 8, shuffle=True)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
for _ in range(epochs):
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
        schedule.step()
images, masks = evaluation.tensors
with torch.inference_mode():
    found = model.eval()(images).argmax(1)
ious = [((found == c) & (masks == c)).sum() / ((found == c) | (masks == c)).sum() for c in range(classes)]
print(float(torch.stack(ious).mean()))
