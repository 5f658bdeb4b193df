"""A policy of a few thousand parameters and a batch for it, made of the real networks: for tests only."""

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.models import alpamayo, config, grammar

B, IMAGES, TOKENS, PROMPT, CLASSES = (
    2,
    2,
    2,
    7,
    3,
)  # TOKENS of an image: a grid of 2 x 4 patches, merged 2 x 2
IMAGE = 1
WORDS = dict(stop=10, go=11, left=12, comma=13, colon=14, cause=15)
RULES = grammar.Grammar(
    words=(9, 16), cot_end=9, trigger=3, future_end=4, end_of_turn=5, pad=0,
    actions=((20, 24), (24, 28)), controls=3, reasoning=6,
)  # fmt: skip
MODEL = config.ModelConfig(
    text=config.TextConfig(16, 24, 2, 4, 2, 8, 28, (2, 1, 1)),
    vision=config.VisionConfig(2, 16, 24, 2, 16, 16, (0,)),
    expert=config.ExpertConfig(12, 20, 4, 16, 2),
    image_token_id=IMAGE,
    actions=3,
)


def encode(batch):
    """pixels f32 [B, IMAGES, 8, 1536] of the batch -> Prompt: word, 2 images of 2 tokens, 1 or 2 words."""
    pixels = batch["pixels"]
    rows = len(pixels)
    ids = jnp.tile(jnp.array([2, IMAGE, IMAGE, IMAGE, IMAGE, 6, 7]), (rows, 1))
    first = jnp.arange(rows)[:, None] * IMAGES * TOKENS
    index = jnp.where(ids == IMAGE, first + jnp.cumsum(ids == IMAGE, axis=1) - 1, -1)
    position = jnp.broadcast_to(jnp.arange(PROMPT), (3, rows, PROMPT))
    length = jnp.where(jnp.arange(rows) % 2 == 0, PROMPT, PROMPT - 1)
    flat = pixels.reshape(-1, *pixels.shape[2:])
    return alpamayo.Prompt(ids, length, position, length, index, (flat,), ((2, 4),))


def batch(seed=0, rows=B):
    """Two completions of unequal length, pictures with texture, actions, cells."""
    rng = np.random.default_rng(seed)
    w = WORDS
    texts = [[w["stop"], w["comma"], w["left"], w["colon"], w["cause"]], [w["go"], w["colon"]]]
    ids = np.zeros((rows, RULES.length), np.int32)
    decision = np.zeros(ids.shape, bool)
    for row in range(rows):
        words = texts[(row + seed) % 2]
        actions = np.stack([rng.integers(20, 24, 3), rng.integers(24, 28, 3)], 1).ravel()
        line = [*words, RULES.cot_end, RULES.trigger, *actions, RULES.future_end]
        ids[row, : len(line)] = line
        decision[row, : words.index(w["colon"])] = [
            word != w["comma"] for word in words[: words.index(w["colon"])]
        ]
    real = np.array(grammar.mask(RULES, ids))
    return {
        "pixels": rng.normal(size=(rows, IMAGES, 8, 1536)).astype("float32"),
        "ids": ids,
        "weights": np.where(decision, 4.0, 1.0).astype("float32") * real,
        "decision": decision,
        "actions": rng.normal(size=(rows, 3, 2)).astype("float32"),
        "cells": rng.integers(0, 2, (rows, IMAGES * TOKENS, CLASSES)).astype("uint8"),
        "seen": np.ones(rows, "float32"),
    }


def params():
    """Fresh parameters."""
    return jax.jit(alpamayo.init_params, static_argnums=0)(MODEL, jax.random.key(0))
