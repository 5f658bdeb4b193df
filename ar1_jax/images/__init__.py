"""Images for the vision tower: one path of resizing and patches for training and inference."""

from ar1_jax.images.bicubic import resize, resize_jax
from ar1_jax.images.patches import patchify, preprocess, target_size

__all__ = ["patchify", "preprocess", "resize", "resize_jax", "target_size"]
