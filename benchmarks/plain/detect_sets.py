"""Detection with a transformer in plain PyTorch: what `benchmarks/models.py` compares with.

python benchmarks/plain/detect_sets.py TRAIN EVAL BACKBONE LR EPOCHS SEED

TRAIN and EVAL are COCO sets of square pictures of one size. DeformableDetrForObjectDetection of transformers, as small
as that of the benchmark. Prints the mAP at IoU 0.5 after the last epoch.
"""

from __future__ import annotations

import sys

import torch
from boxes import mean_ap, read
from torch import nn
from torchvision.ops import box_convert
from torchvision.transforms.functional import normalize
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

(train, _, classes), (evaluation, truth, _) = read(sys.argv[1]), read(sys.argv[2])
rate, epochs, size = float(sys.argv[4]), int(sys.argv[5]), train[0][0].shape[-1]
torch.manual_seed(int(sys.argv[6]))
small = {"d_model": 128, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "num_queries": 50, "dropout": 0.0}
backbone = {"backbone": sys.argv[3], "use_timm_backbone": True, "use_pretrained_backbone": False}
config = DeformableDetrConfig(**small, **heads, **backbone, num_labels=classes, auxiliary_loss=True)
model = DeformableDetrForObjectDetection(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0001)
batches = torch.utils.data.DataLoader(train, 8, shuffle=True, collate_fn=list)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))


def look(pixels: torch.Tensor) -> torch.Tensor:
    return normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


for _ in range(epochs):
    for batch in batches:
        targets = [
            {"class_labels": labels, "boxes": box_convert(boxes, "xyxy", "cxcywh") / size} for _, boxes, labels in batch
        ]
        optimizer.zero_grad()
        model.train()(look(torch.stack([pixels for pixels, _, _ in batch])), labels=targets).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
found = []
for pixels, _, _ in evaluation:
    with torch.inference_mode():
        answer = model.eval()(look(pixels[None]))
    scores, places = answer.logits[0].sigmoid().flatten().topk(100)
    boxes = box_convert(answer.pred_boxes[0][places // classes] * size, "cxcywh", "xyxy")
    found.append((boxes, scores, places % classes))
print(mean_ap(truth, found))
