"""Samples: world scenes with their truth, as the arrays that training and evaluation read.

B scenes, C cameras, T frames, N = C T (cells an image) image tokens, L completion, A controls. A sample batch is a
dict of numpy arrays:

    images u8 [B, C, T, H, W, 3], ego_history_xyz f32 [B, 16, 3], ego_history_rot f32 [B, 16, 3, 3]
    ids i32 [B, L], weights f32 [B, L], decision bool [B, L]      the truth as a completion (completions.py)
    actions f32 [B, A, 2]                                         the future as normalised controls
    cells u8 [B, N, classes]                                      what lies in each image token's cell
    ego_future_xyz f32 [B, 64, 3], family, longitudinal, lateral i32 [B], seed i64 [B]
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ar1_jax import actions
from ar1_jax.core import errors
from ar1_jax.data import completions
from ar1_jax.policy import prompts

ENCODED = ("images", "ego_history_xyz", "ego_history_rot")  # what a prompt is made of
STEP = (*ENCODED, "ids", "weights", "decision", "actions", "cells")  # what a training step reads, with `seen`
TRUTH = ("ego_future_xyz", "family", "longitudinal", "lateral", "seed")
PATCH = 16


@functools.partial(jax.jit, static_argnums=0)
def codecs(future, history_xyz, history_rot, future_xyz, future_rot):
    """Motion -> actions f32 [B, A, 2] and ids i32 [B, 2A] of the future codec, from one chunk of scenes."""
    motion = (history_xyz, history_rot, future_xyz, future_rot)
    return actions.unicycle_encode(*motion, future.action_space), actions.future_ids(*motion, future)


@dataclasses.dataclass(frozen=True)
class WorldSamples:
    """Scenes of one split of the driving world, said in the words of one policy.

    policy: policy.policy.Policy (its config and vocabulary are used, its parameters are not); split "train",
    "validation" or "test"; decision_weight: of decision tokens in the loss; make, texts: of world.api (or of another
    world with the same contract): seeds i64 [B] -> batch, batch -> B texts.
    """

    policy: Any
    split: str
    decision_weight: float = 4.0
    make: Callable | None = None
    texts: Callable | None = None

    def take(self, start, count):
        """Samples `start` .. `start + count - 1` of the split."""
        from ar1_jax.world import api  # renders: only those who make samples wait for its import

        batch = (self.make or api.make_batch)(api.split_seeds(self.split, count, start=start))
        texts = (self.texts or api.texts)(batch)
        return said(self.policy, batch, texts, self.decision_weight)

    def chunk(self, size):
        """The function chunk number -> samples that the pipeline wants."""
        return lambda number: self.take(number * size, size)


def said(policy, batch, texts, decision_weight=4.0):
    """A world batch and its texts -> a sample batch (see above)."""
    config = policy.config
    motion = [batch[f"ego_{time}_{part}"] for time in ("history", "future") for part in ("xyz", "rot")]
    controls, bins = jax.device_get(codecs(config.future, *motion))
    truth = completions.build(policy.vocabulary, config.grammar("tokens"), texts, bins, decision_weight)
    rows = len(batch["images"])
    cells = np.asarray(batch["cells"])
    samples = {name: np.asarray(batch[name]) for name in (*ENCODED, *TRUTH)}
    samples |= truth._asdict() | {"actions": controls, "cells": cells.reshape(rows, -1, cells.shape[-1])}
    return samples


def template(policy, samples, camera_ids):
    """The prompt layout that all samples share; DataError where image tokens and cells do not correspond."""
    _, cameras, frames, height, width, _ = samples["images"].shape
    grid = (height // PATCH, width // PATCH)
    layout = policy.templates.plan(
        tuple(int(c) for c in camera_ids), frames, (grid,) * (cameras * frames), None
    )
    tokens = int((layout.image_index >= 0).sum())
    if tokens != samples["cells"].shape[1]:
        raise errors.DataError(
            f"samples: {samples['cells'].shape[1]} cells a scene, the prompt has {tokens} image tokens"
        )
    return layout


def encoder(config, layout):
    """encode(batch) -> models.alpamayo.Prompt for the training step: traceable, layout and config are constants."""
    return lambda batch: prompts.encode_batch(config, layout, *(batch[name] for name in ENCODED))


def camera_ids():
    """Ids of the world's cameras, in the order of its pictures."""
    from ar1_jax.world import api

    return api.CAMERA_IDS


def cell_classes():
    """Names of the classes of `cells`."""
    from ar1_jax.world import api

    return api.CELL_CLASSES


def family_names():
    """Names of the scenario families, in the order of `family`."""
    from ar1_jax.world import api

    return api.registry.names()
