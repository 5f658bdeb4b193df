"""A model of a few thousand parameters that sees images, and prompts of two lengths for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.models import alpamayo, config, grammar
from ar1_jax.rl import rollout, step
from ar1_jax.train import optimizer

IMAGE, END, TRIGGER, FUTURE_END, STOP, PAD = 2, 10, 3, 4, 5, 0
VOCABULARY = 24
# ids: 0-5 special, 6-9 prompt words, 10 end of reasoning, 11-15 reasoning words, 16-19 and 20-23 actions
RULES = grammar.Grammar(
    words=(10, 16), cot_end=END, trigger=TRIGGER, future_end=FUTURE_END, end_of_turn=STOP, pad=PAD,
    actions=((16, 20), (20, 24)), controls=2, reasoning=4,
)  # fmt: skip
MODEL = config.ModelConfig(
    text=config.TextConfig(32, 48, 2, 4, 2, 8, VOCABULARY, (2, 1, 1), rope_theta=1e4),
    vision=config.VisionConfig(1, 16, 32, 2, 16, 32, (0,)),
    expert=None,
    image_token_id=IMAGE,
)


@functools.cache
def params(seed=0):
    """Random parameters, the head scaled up so that distributions are far from uniform."""
    tree = alpamayo.init_params(MODEL, jax.random.key(seed))
    tree["vlm"]["lm_head"]["kernel"] *= 3.0
    return tree


def prompt(batch=4, seed=0):
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


PAPER = step.Recipe(beta=4.0, kl_coef=0.1)
CLIPPED = step.Recipe(name="clipped", advantage="dr_grpo", aggregation="token-mean", kl_coef=0.0)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(recipe, tree, drawn, reference):
    return jax.grad(lambda p: step.total_loss(MODEL, RULES, recipe, p, drawn, reference)[0])(tree)


def gradient(drawn, recipe=PAPER, reference=None):
    """Gradient of the loss with respect to all parameters, at params(); reference: log-probabilities [B, G, L]."""
    return _gradient(recipe, params(), drawn, drawn.log_prob - 0.3 if reference is None else reference)


def distance(a, b):
    """Largest difference of two trees."""
    return max(
        float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def rewarded(seed=0, batch=4):
    """A Rollout with random rewards."""
    drawn = draw(params(), prompt(batch), seed=seed)
    values = np.random.default_rng(1).normal(size=drawn.complete.shape)
    return drawn.replace(rewards=jnp.asarray(values, jnp.float32))


@functools.cache
def updater(recipe):
    """-> step.build's update, its optimizer."""
    transform = optimizer.adamw(params(), b1=0.9, b2=0.95, weight_decay=0.0, clip=1.0)
    return step.build(MODEL, RULES, recipe, transform), transform
