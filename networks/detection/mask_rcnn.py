"""`mask_rcnn`: Faster R-CNN with a third head, which says what of each box is the object.

Boxes and masks learn together as in torchvision, but for where a mask lies: there it is half a pixel off.

Shapes: as in `faster_rcnn`, and P proposals to learn masks from, M side of a mask in cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import roi_align

from .detector import Candidates
from .faster_rcnn import FasterRCNN, Pooling, Stages, rois, second_stage
from .mask_rcnn_spec import MaskRcnnConfig
from .model import Record

#: Small objects need finer maps for their outline than for their box.
_STRIDES = (4, 8, 16, 32)

#: As in the paper on feature pyramids: an object of 112 pixels and more is cut out of the map of stride 8.
_COARSER_FROM = 14

#: Cells along each side of what the second stage names.
_POOL_SIZE = 7


def build(record: Record) -> MaskRCNN:
    config = MaskRcnnConfig.model_validate(record.options)
    stages = Stages(
        strides=_STRIDES,
        coarser_from=_COARSER_FROM,
        feature_size=config.feature_size,
        head_size=config.fast_rcnn_mlp_head_dim,
        pool_size=_POOL_SIZE,
        scales=[config.anchor_scale * stride for stride in (*_STRIDES, 2 * _STRIDES[-1])],
        ratios=config.aspect_ratios,
        proposals=config.test_rpn_post_nms_topn,
        overlap=config.test_rpn_nms_thresh,
        training_overlap=config.train_rpn_nms_threshold,
        rpn_batch=config.rpn_batch_size_per_im,
        rpn_positive=config.rpn_fg_fraction,
        rpn_overlaps=(config.rpn_positive_overlap, config.rpn_negative_overlap),
        roi_batch=config.batch_size_per_im,
        roi_positive=config.fg_fraction,
        roi_overlap=config.fg_thresh,
        rpn_box_weight=config.rpn_box_loss_weight,
        roi_box_weight=config.fast_rcnn_box_loss_weight,
    )
    return MaskRCNN(record, stages, config)


class MaskRCNN(FasterRCNN):
    def __init__(self, record: Record, stages: Stages, config: MaskRcnnConfig) -> None:
        self.mask_side = config.mrcnn_resolution
        self._config = config
        super().__init__(record, stages)

    def _second_stage(self, record: Record, stages: Stages) -> RoIHeads:
        config = self._config
        return _Heads(
            **second_stage(record, stages),
            mask_roi_pool=Pooling(config.mrcnn_resolution // 2, stages),
            mask_head=MaskRCNNHeads(config.feature_size, [config.mask_head_dim] * config.mask_head_layers, dilation=1),
            mask_predictor=MaskRCNNPredictor(config.mask_head_dim, config.mask_head_dim, len(record.classes) + 1),
            mask_weight=config.mrcnn_weight_loss_mask,
        )

    def _candidates(self, maps: Sequence[torch.Tensor]) -> Candidates:
        boxes_BN4, scores_BNK = super()._candidates(maps)
        heads = self.roi_heads
        cut = heads.mask_roi_pool.cut(maps, rois(boxes_BN4))
        logits_RKMM = heads.mask_predictor(heads.mask_head(cut)).float()
        # why plus one: the first class is the background.
        best_R111 = (scores_BNK.argmax(dim=2) + 1).flatten()[:, None, None, None]
        side = self.mask_side
        mask_R1MM = logits_RKMM.gather(1, best_R111.expand(-1, 1, side, side)).sigmoid()
        return boxes_BN4, scores_BNK, mask_R1MM.reshape(*boxes_BN4.shape[:2], side * side)

    def traced(self, inputs_BCHW: torch.Tensor) -> object:
        maps = list(self._maps(inputs_BCHW).values())
        heads = self.roi_heads
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool.traced(maps)))
        boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool.traced(maps)))
        return self.rpn.head(maps), boxes, masks

    def fixed_layers(self) -> list[nn.Module]:
        return [*super().fixed_layers(), self.roi_heads.mask_predictor.mask_fcn_logits]


class _Heads(RoIHeads):
    """The second stage of the library while it learns; `MaskRCNN` says how it predicts."""

    def __init__(self, *, mask_weight: float, **parts: Any) -> None:
        super().__init__(**parts)
        self._mask_weight = mask_weight

    def forward(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[torch.Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, torch.Tensor]] | None = None,
    ) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        assert targets is not None
        proposals, matches, labels, codes = self.select_training_samples(proposals, targets)
        cut = self.box_roi_pool(features, proposals, image_shapes)
        class_loss, box_loss = fastrcnn_loss(*self.box_predictor(self.box_head(cut)), labels, codes)
        chosen = [label > 0 for label in labels]
        boxes = [some[which] for some, which in zip(proposals, chosen, strict=True)]
        cut = self.mask_roi_pool(features, boxes, image_shapes)
        logits_PKMM = self.mask_predictor(self.mask_head(cut)).float()
        wanted_PMM = torch.cat(
            [
                _cells(target["masks"], match[which], some, logits_PKMM.shape[-1])
                for target, match, which, some in zip(targets, matches, chosen, boxes, strict=True)
            ]
        )
        label_P = torch.cat(labels)[torch.cat(chosen)]
        if not len(label_P):
            # why not nothing: on several GPUs all wait for the gradients of all layers.
            return [], {"loss_classifier": class_loss, "loss_box_reg": box_loss, "loss_mask": logits_PKMM.sum()}
        logits_PMM = logits_PKMM[torch.arange(len(label_P), device=label_P.device), label_P]
        mask_loss = F.binary_cross_entropy_with_logits(logits_PMM, wanted_PMM) * self._mask_weight
        return [], {"loss_classifier": class_loss, "loss_box_reg": box_loss, "loss_mask": mask_loss}


def _cells(masks_NHW: torch.Tensor, match_P: torch.Tensor, boxes_P4: torch.Tensor, side: int) -> torch.Tensor:
    """Return how much of each cell of `boxes_P4` the masks `match_P` cover, PMM."""
    if not len(boxes_P4):
        return boxes_P4.new_zeros(0, side, side)
    rois_P5 = torch.cat([match_P[:, None].to(boxes_P4), boxes_P4], dim=1)
    return roi_align(masks_NHW[:, None].to(boxes_P4), rois_P5, side, aligned=True)[:, 0]
