"""A classifier in plain PyTorch and timm: what `benchmarks/models.py` compares with.

python benchmarks/plain/classify.py TRAIN EVAL BACKBONE LR EPOCHS SEED

TRAIN and EVAL are folders with one folder of images per class. Prints the accuracy after the last epoch.
"""

from __future__ import annotations

import sys

import timm
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
transform = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
train, evaluation = (ImageFolder(folder, transform) for folder in sys.argv[1:3])
lr, epochs = float(sys.argv[4]), int(sys.argv[5])
torch.manual_seed(int(sys.argv[6]))
model = timm.create_model(sys.argv[3], num_classes=len(train.classes))
optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
batches = DataLoader(train, 64, shuffle=True)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
for _ in range(epochs):
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
        schedule.step()
right = 0
model.eval()
with torch.inference_mode():
    for x, y in DataLoader(evaluation, 256):
        right += int((model(x).argmax(1) == y).sum())
print(right / len(evaluation))
