"""From sampled ids to rewards: parse the reasoning, decode the trajectory, compare with the truth.

B scenes, G completions, L tokens, W waypoints. Texts are parsed on the host; everything else is one program.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.policy import decoding
from ar1_jax.rl import outcomes, rewards
from ar1_jax.rl.rewards import trajectory
from ar1_jax.text import coc

HISTORY = ("ego_history_xyz", "ego_history_rot")
TRUTH = tuple(outcomes.FIELDS)  # what of a world batch is needed here


@flax.struct.dataclass
class Verdict:
    """reward float32 [B, G] in all; parts: name -> float32 [B, G], the unweighted rewards and what they are
    made of (ade, collision, off_road, discomfort), the latter meaningless where invalid; outcome: what was
    judged."""

    reward: jax.Array
    parts: dict
    outcome: outcomes.Outcome


@functools.partial(jax.jit, static_argnums=0)
def trajectories(config, ids, complete, history_xyz, history_rot):
    """ids [B, G, L], complete [B, G] -> xyz [B, G, W, 3], rot [B, G, W, 3, 3], valid [B, G]: whole by the
    grammar and ended before the limit of the reasoning."""
    xyz, rot, whole = decoding.token_trajectories(config, ids, history_xyz, history_rot)
    return xyz, rot, whole & complete


@functools.partial(jax.jit, static_argnames="weights")
def judge(outcome, batch, weights):
    """outcomes.Outcome, world batch (TRUTH), weights ((name, weight), ...) -> Verdict."""
    truth = outcomes.truth(batch)
    total, parts = rewards.combine(outcome, truth, dict(weights))
    right = {
        "longitudinal_right": outcome.longitudinal == truth.longitudinal[:, None],
        "lateral_right": outcome.lateral == truth.lateral[:, None],
    }
    right["decision_right"] = right["longitudinal_right"] & right["lateral_right"]
    parts = parts | trajectory.parts(outcome, truth) | {"valid": outcome.valid}
    parts |= {name: values & outcome.valid for name, values in right.items()}
    return Verdict(total, {name: jnp.asarray(values, jnp.float32) for name, values in parts.items()}, outcome)


def read(config, vocabulary, ids, complete, batch):
    """PolicyConfig, Vocabulary, ids [B, G, L], complete [B, G], world batch -> Outcome, B·G texts in row
    order."""
    xyz, rot, valid = trajectories(config, ids, complete, *(batch[name] for name in HISTORY))
    texts = decoding.reasonings(config, vocabulary, ids)
    return spoken(texts, xyz, rot, valid), texts


def spoken(texts, xyz, rot, valid):
    """B·G texts in row order with their trajectories [B, G, W, ...] and valid [B, G] -> Outcome."""
    parsed, shape = coc.parse_batch(texts), np.shape(valid)
    return outcomes.Outcome(
        valid=jnp.asarray(valid),
        longitudinal=jnp.asarray(parsed.longitudinal.reshape(shape)),
        lateral=jnp.asarray(parsed.lateral.reshape(shape)),
        cause=jnp.asarray(parsed.causes.reshape(*shape, 3)),
        xyz=jnp.asarray(xyz, jnp.float32),
        rot=jnp.asarray(rot, jnp.float32),
    )


class Judge:
    """A policy's words and codec together with the reward weights: (ids, complete, batch) -> Verdict,
    texts."""

    def __init__(self, config, vocabulary, weights):
        self.config, self.vocabulary = config, vocabulary
        self.weights = tuple(sorted(rewards.check_weights(dict(weights)).items()))

    def __call__(self, ids, complete, batch):
        truth = {name: batch[name] for name in TRUTH}
        outcome, texts = read(self.config, self.vocabulary, ids, complete, truth)
        return judge(outcome, truth, self.weights), texts

    def of_outcome(self, outcome, batch):
        """Verdict on an Outcome that no policy made: a control, the driver itself."""
        return judge(outcome, {name: batch[name] for name in TRUTH}, self.weights)
