"""A classifier of two tasks in plain PyTorch and timm: what `benchmarks/models.py` compares with.

python benchmarks/plain/tasks.py TRAIN EVAL BACKBONE EPOCHS SEED

TRAIN and EVAL are folders with a folder `images` and a table `train.csv`: the file name, then a column per task.
Prints the mean accuracy of the tasks after the last epoch.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
transform = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
classes: list[dict[str, int]] = [{}, {}]


def read(folder: str) -> TensorDataset:
    _, *rows = csv.reader(Path(folder, "train.csv").read_text().splitlines())
    images = torch.stack([transform(Image.open(Path(folder, "images", row[0]))) for row in rows])
    labels = [[names.setdefault(name, len(names)) for names, name in zip(classes, r[1:], strict=True)] for r in rows]
    return TensorDataset(images, torch.tensor(labels))


train, evaluation = read(sys.argv[1]), read(sys.argv[2])
sizes, epochs = [len(known) for known in classes], int(sys.argv[4])
torch.manual_seed(int(sys.argv[5]))
model = timm.create_model(sys.argv[3], num_classes=sum(sizes))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
batches = DataLoader(train, 64, shuffle=True)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
for _ in range(epochs):
    for x, y in batches:
        optimizer.zero_grad()
        parts = model.train()(x).split(sizes, 1)
        torch.stack([F.cross_entropy(part, y[:, task]) for task, part in enumerate(parts)]).mean().backward()
        optimizer.step()
        schedule.step()
images, labels = evaluation.tensors
with torch.inference_mode():
    found = torch.stack([part.argmax(1) for part in model.eval()(images).split(sizes, 1)], 1)
print(float((found == labels).float().mean()))
