"""Semantic segmentation: `unet` on any timm backbone and `segformer`, on images with masks."""
