"""The sections of `deformable_detr` and `dino` in the specs of training. Imports no torch."""

from __future__ import annotations

from pydantic import model_validator

from ...schemas.specs import like, parameter, section
from .spec_v5 import Architecture, TrainV5


class DeformableDetrConfig(Architecture):
    num_queries: int = parameter(
        300, description="Objects of a picture that can be found at most.", ge=1, le=10000, popular=True
    )
    hidden_dim: int = parameter(256, description="Width of the transformer.", ge=32, le=2048, multiple_of=32)
    nheads: int = parameter(8, description="Heads of an attention; hidden_dim is a multiple.", ge=1, le=64)
    enc_layers: int = parameter(6, description="Layers of the encoder.", ge=1, le=24)
    dec_layers: int = parameter(6, description="Layers of the decoder.", ge=1, le=24)
    dim_feedforward: int = parameter(1024, description="Width inside of a layer.", ge=8, le=16384)
    dropout_ratio: float = parameter(0.1, description="Dropout in the layers.", ge=0, lt=1, automl=True)

    @model_validator(mode="after")
    def _heads_fit(self) -> DeformableDetrConfig:
        if self.hidden_dim % self.nheads:
            raise ValueError("hidden_dim is a multiple of nheads")
        return self


class DinoConfig(DeformableDetrConfig):
    dim_feedforward: int = like(DeformableDetrConfig, "dim_feedforward", 2048)
    dropout_ratio: float = like(DeformableDetrConfig, "dropout_ratio", 0.0)
    dn_number: int = parameter(
        100,
        description="Pairs of objects with noise that the decoder learns to restore, in every picture; 0 for none.",
        ge=0,
        le=10000,
        automl=True,
        search=(None, 300),
    )
    dn_label_noise_ratio: float = parameter(
        0.5, description="Half of this share of their labels is replaced.", ge=0, le=1, automl=True
    )
    dn_box_noise_scale: float = parameter(
        1.0, description="Their edges move by up to so many halves of the box.", ge=0, le=10
    )


class DeformableDetrTrainSpec(TrainV5):
    NETWORK = "deformable_detr"

    model: DeformableDetrConfig = section(DeformableDetrConfig)


class DinoTrainSpec(TrainV5):
    NETWORK = "dino"

    model: DinoConfig = section(DinoConfig)
