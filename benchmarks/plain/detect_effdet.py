"""Detection with EfficientDet in plain PyTorch: what `benchmarks/models.py` compares with.

python benchmarks/plain/detect_effdet.py TRAIN EVAL LR EPOCHS SEED

TRAIN and EVAL are COCO sets of square pictures whose side is a multiple of 128. The classes are those of effdet, which
`pip install effdet` brings; d0 on efficientnet_b0. Prints the mAP at IoU 0.5 after the last epoch.
"""

from __future__ import annotations

import sys

import torch
from boxes import mean_ap, read
from effdet import DetBenchPredict, DetBenchTrain, EfficientDet, get_efficientdet_config
from torch import nn
from torchvision.transforms.functional import normalize

(train, _, classes), (evaluation, truth, _) = read(sys.argv[1]), read(sys.argv[2])
rate, epochs, size = float(sys.argv[3]), int(sys.argv[4]), train[0][0].shape[-1]
torch.manual_seed(int(sys.argv[5]))
config = get_efficientdet_config("efficientdet_d0")
config.update(image_size=(size, size), num_classes=classes)
network = EfficientDet(config, pretrained_backbone=False)
model, reader = DetBenchTrain(network, create_labeler=True), DetBenchPredict(network)
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
batches = torch.utils.data.DataLoader(train, 8, shuffle=True, collate_fn=list)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))


def look(pixels: torch.Tensor) -> torch.Tensor:
    return normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


for _ in range(epochs):
    for batch in batches:
        # effdet wants top, left, bottom, right, and classes from 1.
        targets = {"bbox": [boxes[:, [1, 0, 3, 2]] for _, boxes, _ in batch], "cls": [c + 1.0 for _, _, c in batch]}
        optimizer.zero_grad()
        model.train()(look(torch.stack([pixels for pixels, _, _ in batch])), targets)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
with torch.inference_mode():
    found = [reader.eval()(look(pixels[None]))[0] for pixels, _, _ in evaluation]
print(mean_ap(truth, [(each[:, :4], each[:, 4], each[:, 5] - 1) for each in found]))
