"""G completions of each scene behind its shared prefix, kept as ids with the log-probability of every sampled
token.

B scenes, G completions, S prompt, L tokens. What is sampled is what is learned from: the ids themselves,
never their text, and the log-probabilities of the distribution they were drawn from (allowed ids and
temperature included).
"""

import flax.struct
import jax
import jax.numpy as jnp

from ar1_jax.models import alpamayo, grammar
from ar1_jax.policy import sampling

SEEN = ("images", "ego_history_xyz", "ego_history_rot")  # what of a world batch the policy may look at


@flax.struct.dataclass
class Rollout:
    """prompt: models.alpamayo.Prompt of B scenes; ids int32 [B, G, L]; log_prob float32 [B, G, L] under the
    sampler, 0 where mask is False; mask bool [B, G, L], True on tokens that were drawn (not forced, not
    padding); complete bool [B, G]; rewards float32 [B, G], zero until they are known."""

    prompt: alpamayo.Prompt
    ids: jax.Array
    log_prob: jax.Array
    mask: jax.Array
    complete: jax.Array
    rewards: jax.Array


def scene_keys(key, seeds):
    """One key a scene, by its seed: a scene's draws do not depend on its neighbours. key, int [B] -> keys
    [B]."""
    return jax.vmap(lambda seed: jax.random.fold_in(key, seed))(jnp.asarray(seeds, jnp.uint32))


def free(rules, ids):
    """Where more than one id was allowed: bool [..., L]. A forced id was not chosen and teaches nothing."""
    allowed = grammar.allowed(rules, ids)
    return allowed[..., 1] - allowed[..., 0] != 1


def sample(model, rules, params, prompt, keys, *, samples, temperature=1.0, greedy=False):
    """Prompt of B scenes, keys [B] -> Rollout of `samples` completions each, rewards zero. Traceable."""
    prefix = alpamayo.prefill(model, params, prompt)
    drawn = sampling.sample(
        model, rules, params, prefix, keys, samples=samples, length=rules.length, temperature=temperature,
        greedy=greedy,
    )  # fmt: skip
    mask = drawn.mask & free(rules, drawn.ids)
    log_prob = jnp.where(mask, drawn.log_prob, 0.0)
    zero = jnp.zeros(drawn.complete.shape)
    return Rollout(prompt, drawn.ids, log_prob, mask, drawn.complete, zero)


def build(model, rules, encode, *, samples, temperature=1.0, greedy=False):
    """-> jitted (params, batch, keys) -> Rollout; encode(batch dict of arrays) -> Prompt."""

    def rollout(params, batch, keys):
        return sample(
            model, rules, params, encode(batch), keys, samples=samples, temperature=temperature, greedy=greedy
        )

    return jax.jit(rollout)
