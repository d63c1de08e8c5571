"""Image classification: any timm backbone on folders of images."""
