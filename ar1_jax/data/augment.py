"""Changes of the pictures that leave the truth as it is: brightness and contrast a scene, and scenes without pictures.

B scenes, images uint8 [B, C, T, H, W, 3]. Shuffled and grey pictures, the two controls of every evaluation, are made
here too, so that training and evaluation mean the same by "no image".
"""

import numpy as np

GREY = 128


def brightness_and_contrast(images, rng, brightness, contrast):
    """Each scene's values v -> 128 + c (v - 128) + b, rounded and clipped, in a new array.

    b uniform in +-brightness (of 255), c uniform in 1 +- contrast, drawn from the numpy generator `rng`; one draw a
    scene, so that its cameras agree.
    """
    shift = rng.uniform(-brightness, brightness, len(images)) * 255.0
    gain = rng.uniform(1.0 - contrast, 1.0 + contrast, len(images))
    levels = GREY + gain[:, None] * (np.arange(256) - GREY) + shift[:, None]
    tables = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    changed = np.empty_like(images)
    for scene, table in enumerate(
        tables
    ):  # host side: a lookup a scene is ten times faster than one over all
        np.take(table, images[scene], out=changed[scene], mode="clip")
    return changed


def without_images(images):
    """Grey pictures of the same shape: the policy that may not look."""
    return np.full_like(images, GREY)


def shuffled(images):
    """Every scene gets the pictures of the one before it: the policy that looks at the wrong world."""
    return np.roll(images, 1, axis=0)
