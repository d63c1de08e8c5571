"""Deformable DETR and DINO as their records describe them."""

from __future__ import annotations

from .deformable import Shape
from .deformable_detr import DeformableDetr
from .detr_spec import DeformableDetrConfig, DinoConfig
from .dino import Denoising, Dino
from .model import Record


def build(record: Record) -> DeformableDetr | Dino:
    classes, channels = len(record.classes), record.channels
    if record.network == "deformable_detr":
        config = DeformableDetrConfig.model_validate(record.options)
        return DeformableDetr(
            record.backbone, classes, channels=channels, queries=config.num_queries, shape=_shape(config)
        )
    dino = DinoConfig.model_validate(record.options)
    denoising = Denoising(
        queries=dino.dn_number, label_noise=dino.dn_label_noise_ratio, box_noise=dino.dn_box_noise_scale
    )
    return Dino(
        record.backbone,
        classes,
        channels=channels,
        queries=dino.num_queries,
        shape=_shape(dino),
        denoising=denoising,
    )


def _shape(config: DeformableDetrConfig) -> Shape:
    return Shape(
        width=config.hidden_dim,
        heads=config.nheads,
        feedforward=config.dim_feedforward,
        encoder_layers=config.enc_layers,
        decoder_layers=config.dec_layers,
        dropout=config.dropout_ratio,
    )
