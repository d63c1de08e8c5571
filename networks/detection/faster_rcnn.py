"""`faster_rcnn`: a first stage proposes places, a second names and improves them.

Training is that of torchvision. Its inference has as many boxes as it finds, which a dense graph cannot have: here the
first stage always proposes the same number, with duplicates suppressed by one matrix.

Shapes: B pictures, C channels, H height, W width, N proposals of a picture, R proposals of all pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ...schemas.errors import SpecError
from .anchors import decode, ignored_regions, lies_in
from .detector import Candidates, Detector
from .faster_rcnn_spec import FasterRcnnConfig
from .features import Features
from .model import Record
from .pictures import Target

_STRIDES = (8, 16, 32)

#: Side in strides of the anchors of a map.
_ANCHOR_SCALE = 4

#: Sides in strides of a map from which on proposals are cut out of it, rather than out of a finer one.
_COARSER_FROM = 7

#: Best anchors of each map, of which the first stage proposes some.
_BEST_OF_MAP = 250

#: What the second stage multiplies codes by.
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What the two stages are made of and how they learn, in the words of no spec in particular."""

    strides: tuple[int, ...] = _STRIDES
    """Of the maps that proposals are cut out of. The first stage looks at one more, of twice the last stride."""
    coarser_from: float = _COARSER_FROM
    feature_size: int
    head_size: int
    pool_size: int
    scales: Sequence[float]
    """Side in pixels of the anchors of each map, the finest first."""
    ratios: Sequence[float]
    """Width by height of the anchors."""
    proposals: int
    overlap: float
    """Of two proposals that overlap more, the better one stays."""
    training_overlap: float
    """The same while it learns."""
    rpn_batch: int
    rpn_positive: float = 0.5
    rpn_overlaps: tuple[float, float] = (0.7, 0.3)
    """Anchors are objects from the first on, and background below the second."""
    roi_batch: int
    roi_positive: float = 0.25
    roi_overlap: float = 0.5
    """Proposals are objects from here on."""
    rpn_box_weight: float = 1.0
    """Of the loss; the next one too."""
    roi_box_weight: float = 1.0


def build(record: Record) -> FasterRCNN:
    config = FasterRcnnConfig.model_validate(record.options)
    count = len(_STRIDES) + 1
    scales = config.anchor_box_config.scale or [_ANCHOR_SCALE * _STRIDES[0] * 2**level for level in range(count)]
    if len(scales) != count:
        raise SpecError(
            f"model_config.anchor_box_config.scale has {len(scales)} numbers, and there are {count} feature maps.",
            hint=f"Give {count} numbers, or none.",
        )
    stages = Stages(
        feature_size=config.feature_size,
        head_size=config.head_size,
        pool_size=config.roi_pooling_config.pool_size,
        scales=scales,
        ratios=config.anchor_box_config.ratio,
        proposals=config.rpn_nms_max_boxes,
        overlap=config.rpn_nms_overlap_threshold,
        training_overlap=config.rpn_nms_overlap_threshold,
        rpn_batch=config.rpn_mini_batch,
        roi_batch=config.roi_mini_batch,
    )
    return FasterRCNN(record, stages)


class FasterRCNN(Detector):
    is_ordered = False

    def __init__(self, record: Record, stages: Stages) -> None:
        super().__init__()
        self._size = record.width, record.height
        self._count = stages.proposals
        self._overlap = stages.overlap
        self._strides = stages.strides
        self._box_weights = {"loss_rpn_box_reg": stages.rpn_box_weight, "loss_box_reg": stages.roi_box_weight}
        self.backbone = Features(record.backbone, record.channels, stages.strides)
        self.pyramid = FeaturePyramidNetwork(
            self.backbone.channels, stages.feature_size, extra_blocks=LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
        )
        generator = AnchorGenerator(
            sizes=tuple((scale,) for scale in stages.scales),
            # why: those of the library are height by width.
            aspect_ratios=(tuple(1 / ratio for ratio in stages.ratios),) * len(stages.scales),
        )
        self.rpn = _FirstStage(
            generator,
            RPNHead(stages.feature_size, len(stages.ratios)),
            fg_iou_thresh=stages.rpn_overlaps[0],
            bg_iou_thresh=stages.rpn_overlaps[1],
            batch_size_per_image=stages.rpn_batch,
            positive_fraction=stages.rpn_positive,
            pre_nms_top_n={"training": 2000, "testing": 1000},
            post_nms_top_n={"training": 1000, "testing": 1000},
            nms_thresh=stages.training_overlap,
        )
        self.roi_heads = self._second_stage(record, stages)
        self.anchors_N4: torch.Tensor
        self.register_buffer("anchors_N4", self._anchors(record, generator), persistent=False)

    def _second_stage(self, record: Record, stages: Stages) -> RoIHeads:
        return RoIHeads(**second_stage(record, stages))

    @torch.no_grad()
    def _anchors(self, record: Record, generator: AnchorGenerator) -> torch.Tensor:
        pixels = torch.zeros(1, *record.shape)
        self.eval()
        maps = list(self._maps(pixels).values())
        anchors: torch.Tensor = generator(ImageList(pixels, [(record.height, record.width)]), maps)[0]
        return anchors

    def _maps(self, inputs_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        features = {str(level): feature for level, feature in enumerate(self.backbone(inputs_BCHW))}
        maps: dict[str, torch.Tensor] = self.pyramid(features)
        return maps

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        maps = self._maps(inputs_BCHW)
        if targets is not None:
            return self._loss(inputs_BCHW, maps, targets)
        return self._candidates(list(maps.values()))

    def _candidates(self, maps: Sequence[torch.Tensor]) -> Candidates:
        proposals_BN4 = self._propose(maps)
        logits, codes = self.roi_heads.box_predictor(
            self.roi_heads.box_head(self.roi_heads.box_roi_pool.cut(maps, rois(proposals_BN4)))
        )
        scores_BNK = logits.float().softmax(dim=1)[:, 1:].unflatten(0, (-1, self._count))
        codes_BNK4 = codes.float().unflatten(1, (-1, 4))[:, 1:].unflatten(0, (-1, self._count))
        # why: a candidate has one box, that of its most likely class.
        best = scores_BNK.argmax(dim=2)[..., None, None].expand(-1, -1, 1, 4)
        return decode(codes_BNK4.gather(2, best).squeeze(2), proposals_BN4, _WEIGHTS), scores_BNK

    def _propose(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return proposals_BN4, the best first."""
        scores, codes, anchors = [], [], []
        start = 0
        for logits_BAHW, codes_BAHW in zip(*self.rpn.head(list(maps)), strict=True):
            logits_BN = logits_BAHW.float().permute(0, 2, 3, 1).flatten(1)
            codes_BN4 = codes_BAHW.float().unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            count = logits_BN.shape[1]
            best_BN, places_BN = logits_BN.topk(min(_BEST_OF_MAP, count), dim=1)
            index_BN4 = places_BN[..., None].expand(-1, -1, 4)
            scores.append(best_BN)
            codes.append(codes_BN4.gather(1, index_BN4))
            anchors.append(self.anchors_N4[start : start + count][places_BN])
            start += count
        scores_BN = torch.cat(scores, dim=1)
        # why not sort: graphs have none.
        scores_BN, order_BN = scores_BN.topk(scores_BN.shape[1], dim=1)
        boxes_BN4 = decode(torch.cat(codes, dim=1), torch.cat(anchors, dim=1), (1.0,) * 4)
        boxes_BN4 = self._inside(boxes_BN4.gather(1, order_BN[..., None].expand(-1, -1, 4)))
        is_worse = torch.ones(boxes_BN4.shape[1], boxes_BN4.shape[1], device=boxes_BN4.device).triu(diagonal=1)
        overlap_BN = (_iou(boxes_BN4) * is_worse).amax(dim=1)
        # why not left out: there are always as many; those that go come last.
        scores_BN = scores_BN - 1000.0 * (overlap_BN > self._overlap)
        chosen_BN = scores_BN.topk(min(self._count, scores_BN.shape[1]), dim=1).indices
        return boxes_BN4.gather(1, chosen_BN[..., None].expand(-1, -1, 4))

    def _inside(self, boxes_BN4: torch.Tensor) -> torch.Tensor:
        x1, y1, x2, y2 = boxes_BN4.unbind(dim=2)
        width, height = map(float, self._size)
        return torch.stack(
            [x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)], dim=2
        )

    def _loss(
        self, inputs_BCHW: torch.Tensor, maps: dict[str, torch.Tensor], targets: Sequence[Target]
    ) -> torch.Tensor:
        sizes = [(inputs_BCHW.shape[2], inputs_BCHW.shape[3])] * len(targets)
        wanted = []
        for target in targets:
            has_area = (target.boxes[:, 2:] > target.boxes[:, :2]).all(dim=1)
            objects = target.of(~target.is_ignored & (target.labels >= 0) & has_area)
            # why plus one: the first class is the background.
            found = {"boxes": objects.boxes, "labels": objects.labels + 1, "ignored": ignored_regions(target)}
            wanted.append(found if objects.masks is None else {**found, "masks": objects.masks})
        was_training = self.training
        # why: the library computes losses in training alone, and here they are asked for in evaluation too.
        self.rpn.train(), self.roi_heads.train()
        proposals, first = self.rpn(ImageList(inputs_BCHW, sizes), maps, wanted)
        kept = [boxes[~lies_in(boxes, target["ignored"])] for boxes, target in zip(proposals, wanted, strict=True)]
        if not any(len(boxes) for boxes in kept):
            # why: as for the anchors.
            kept[0] = proposals[0][:1]
        _, second = self.roi_heads(maps, kept, sizes, wanted)
        self.rpn.train(was_training), self.roi_heads.train(was_training)
        losses = {**first, **second}
        return torch.stack([loss * self._box_weights.get(name, 1.0) for name, loss in losses.items()]).sum()

    def traced(self, inputs_BCHW: torch.Tensor) -> object:
        maps = list(self._maps(inputs_BCHW).values())
        cut = self.roi_heads.box_roi_pool.traced(maps)
        return self.rpn.head(maps), self.roi_heads.box_predictor(self.roi_heads.box_head(cut))

    def fixed_layers(self) -> list[nn.Module]:
        predictor = self.roi_heads.box_predictor
        return [self.rpn.head.cls_logits, self.rpn.head.bbox_pred, predictor.cls_score, predictor.bbox_pred]


class _FirstStage(RegionProposalNetwork):
    def assign_targets_to_anchors(
        self, anchors: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchors_N4, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & lies_in(anchors_N4, target["ignored"])] = -1.0
        if not (torch.cat(labels) >= 0).any():
            # why: the library's mean over no anchors is no number.
            labels[0][0] = 0.0
        return labels, boxes


def second_stage(record: Record, stages: Stages) -> dict[str, Any]:
    """Return what the second stage of the library is made with."""
    return {
        "box_roi_pool": Pooling(stages.pool_size, stages),
        "box_head": TwoMLPHead(stages.feature_size * stages.pool_size**2, stages.head_size),
        "box_predictor": FastRCNNPredictor(stages.head_size, len(record.classes) + 1),
        "fg_iou_thresh": stages.roi_overlap,
        "bg_iou_thresh": stages.roi_overlap,
        "batch_size_per_image": stages.roi_batch,
        "positive_fraction": stages.roi_positive,
        "bbox_reg_weights": _WEIGHTS,
        "score_thresh": 0.0,
        "nms_thresh": 0.5,
        "detections_per_img": stages.proposals,
    }


def rois(boxes_BN4: torch.Tensor) -> torch.Tensor:
    """Return boxes as R5: number of the picture, left, top, right, bottom."""
    numbers = torch.arange(boxes_BN4.shape[0], device=boxes_BN4.device)
    numbers_BN1 = numbers[:, None, None].expand(-1, boxes_BN4.shape[1], 1).to(boxes_BN4.dtype)
    return torch.cat([numbers_BN1, boxes_BN4], dim=2).flatten(0, 1)


class Pooling(nn.Module):
    """Cuts proposals out of the map of their size."""

    def __init__(self, size: int, stages: Stages) -> None:
        super().__init__()
        self._size = size
        self._strides = stages.strides
        self._coarser_from = [stages.coarser_from * stride for stride in stages.strides[1:]]

    def forward(self, maps: dict[str, torch.Tensor], boxes: list[torch.Tensor], sizes: Any) -> torch.Tensor:
        """Return features of shape RCHW of the boxes of all pictures, for the library: the same as `cut`, in less time.

        Each proposal is cut out of one map alone, which a graph of fixed shapes cannot do.
        """
        numbers = [torch.full_like(some[:, :1], number) for number, some in enumerate(boxes)]
        rois_R5 = torch.cat([torch.cat(numbers), torch.cat(boxes)], dim=1)
        level_R = self._level(rois_R5)
        where = [(level_R == level).nonzero()[:, 0] for level in range(len(self._strides))]
        parts = [self._align(list(maps.values()), level, rois_R5[rows]) for level, rows in enumerate(where)]
        return torch.cat(parts)[torch.cat(where).argsort()]

    def cut(self, maps: Sequence[torch.Tensor], rois_R5: torch.Tensor) -> torch.Tensor:
        """Return features of shape RCHW of rois, see `rois`: cut out of all maps, of which each takes one."""
        level_R = self._level(rois_R5)
        found: Any = 0
        for level in range(len(self._strides)):
            found = found + self._align(maps, level, rois_R5) * (level_R == level)[:, None, None, None]
        return found

    def _level(self, rois_R5: torch.Tensor) -> torch.Tensor:
        side_R = ((rois_R5[:, 3] - rois_R5[:, 1]) * (rois_R5[:, 4] - rois_R5[:, 2])).clamp(min=0.0).sqrt()
        return torch.stack([(side_R >= least).to(torch.int64) for least in self._coarser_from]).sum(dim=0)

    def _align(self, maps: Sequence[torch.Tensor], level: int, rois_R5: torch.Tensor) -> torch.Tensor:
        return roi_align(
            maps[level].float(),
            rois_R5,
            self._size,
            spatial_scale=1 / self._strides[level],
            sampling_ratio=2,
            aligned=True,
        )

    def traced(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return features of the shape of those that are cut, in a way that pruning can follow."""
        found: Any = sum(F.adaptive_avg_pool2d(features, self._size) for features in maps[: len(self._strides)])
        return found


def _iou(boxes_BN4: torch.Tensor) -> torch.Tensor:
    """Return the IoU of all pairs of boxes of a picture, BNN."""
    low = torch.maximum(boxes_BN4[:, :, None, :2], boxes_BN4[:, None, :, :2])
    high = torch.minimum(boxes_BN4[:, :, None, 2:], boxes_BN4[:, None, :, 2:])
    common = (high - low).clamp(min=0.0).prod(dim=3)
    area = (boxes_BN4[..., 2:] - boxes_BN4[..., :2]).prod(dim=2)
    return common / (area[:, :, None] + area[:, None] - common).clamp(min=1e-6)
