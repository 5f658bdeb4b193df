"""A model of a few thousand parameters that sees images, and prompts of two lengths for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.models import alpamayo, config, grammar
from ar1_jax.rl import rollout, step

IMAGE, END, TRIGGER, FUTURE_END, STOP, PAD = 2, 10, 3, 4, 5, 0
VOCABULARY = 24
# ids: 0-5 special, 6-9 prompt words, 10 end of reasoning, 11-15 reasoning words, 16-19 and 20-23 actions
RULES = grammar.Grammar(
    words=(10, 16), cot_end=END, trigger=TRIGGER, future_end=FUTURE_END, end_of_turn=STOP, pad=PAD,
    actions=((16, 20), (20, 24)), controls=2, reasoning=4,
)  # fmt: skip
MODEL = config.ModelConfig(
    text=config.TextConfig(32, 48, 2, 4, 2, 8, VOCABULARY, (2, 1, 1), rope_theta=1e4),
    vision=config.VisionConfig(2, 16, 32, 2, 16, 32, (0,)),
    expert=None,
    image_token_id=IMAGE,
)


@functools.cache
def params(seed=0):
    """Random parameters, the head scaled up so that distributions are far from uniform."""
    tree = alpamayo.init_params(MODEL, jax.random.key(seed))
    tree["vlm"]["lm_head"]["kernel"] *= 3.0
    return tree


def prompt(batch=3, seed=0):
    """`batch` prompts: two words, an image of 4 x 4 patches (4 tokens), one or two words; every second is
    padded."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate(
        [rng.integers(6, 10, (batch, 2)), np.full((batch, 4), IMAGE), rng.integers(6, 10, (batch, 2))], 1
    )
    length = np.array([8 - n % 2 for n in range(batch)], np.int32)
    ids[np.arange(8) >= length[:, None]] = PAD
    image = np.stack([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]) + 2
    words = np.broadcast_to(np.array([4, 5]), (3, 2))
    position = np.concatenate([np.broadcast_to(np.array([0, 1]), (3, 2)), image, words], 1)
    index = np.where(ids == IMAGE, np.arange(batch)[:, None] * 4 + np.arange(8) - 2, -1)
    return alpamayo.Prompt(
        input_ids=jnp.asarray(ids, jnp.int32),
        length=jnp.asarray(length),
        position_ids=jnp.broadcast_to(jnp.asarray(position, jnp.int32)[:, None], (3, batch, 8)),
        next_position=jnp.asarray(length - 2),
        image_index=jnp.asarray(index, jnp.int32),
        pixels=(jnp.asarray(rng.normal(size=(batch, 16, 1536)), jnp.float32),),
        grids=((4, 4),),
    )


@functools.partial(jax.jit, static_argnames=("samples", "rules"))
def draw(tree, prompts, seed=0, samples=4, temperature=1.0, rules=RULES):
    """A Rollout of the tiny model."""
    keys = rollout.scene_keys(jax.random.key(seed), jnp.arange(prompts.length.shape[0]))
    return rollout.sample(MODEL, rules, tree, prompts, keys, samples=samples, temperature=temperature)


@jax.jit
def score(tree, prompts, ids, temperature=1.0):
    """Learner's log-probabilities [B, G, L]."""
    return step.score(MODEL, RULES, temperature, tree, prompts, ids)[0]
