"""What a policy earns on held-out scenes, scene by scene, so that two evaluations can be paired.

n scenes, K samples. Greedy decoding, and K samples at the training temperature under keys that depend on the
scene alone. Two controls without a policy are judged by the same rewards: one that always says and does "keep
speed, keep lane" along the circle it is on, and the driver itself, whose reward is what can be had.
"""

import jax
import numpy as np

from ar1_jax.geometry import arcs, rotations
from ar1_jax.rl import judge, outcomes, rollout

SCENES_AT_ONCE = 32
TIMES = outcomes.DT * np.arange(1, 65)
CONTROL_TEXT = "Keep speed, keep lane: road clear."


def chunks(batch, size):
    """A world batch of n scenes -> (batch of `size` scenes, how many of them count); the last is filled
    up."""
    n = len(batch["seed"])
    for first in range(0, n, size):
        rows = np.arange(first, first + size) % n
        part = {name: value if name == "camera_ids" else value[rows] for name, value in batch.items()}
        yield part, min(size, n - first)


class Evaluation:
    """Held-out scenes, and how a policy answers them: (params) -> {name: float32 [n]}, texts of the greedy
    answers.

    scenes: a world batch; encode: batch -> Prompt; verdict: judge.Judge. Names are "greedy/..." and
    "sampled/..." (mean over the K samples of a scene) of "reward" and the Verdict's parts, and
    "greedy/xyz" [n, W, 3].
    """

    def __init__(self, model, rules, encode, verdict, scenes, *, samples, temperature, seed, place=None):
        self.scenes, self.verdict, self.samples = scenes, verdict, samples
        self.key, self.place = jax.random.key(seed), place or (lambda tree: tree)
        self.greedy = rollout.build(model, rules, encode, samples=1, greedy=True)
        self.sampled = rollout.build(model, rules, encode, samples=samples, temperature=temperature)

    def __call__(self, params, sampled=True):
        """params -> arrays [n], greedy texts; sampled=False leaves the samples out."""
        found, texts = {}, []
        size = min(SCENES_AT_ONCE, len(self.scenes["seed"]))
        for part, count in chunks(self.scenes, size):
            keys = rollout.scene_keys(self.key, part["seed"].astype(np.uint32))
            shown = self.place({name: part[name] for name in rollout.SEEN})
            for name, draw in (("greedy", self.greedy), ("sampled", self.sampled))[: 1 + sampled]:
                drawn = draw(params, shown, keys)
                verdict, said = self.verdict(drawn.ids, drawn.complete, part)
                texts += said[:count] if name == "greedy" else []
                values = verdict.parts | {"reward": verdict.reward, "length": drawn.mask.sum(-1)}
                for key, value in values.items():
                    mean = np.asarray(value, np.float32).mean(-1)
                    found.setdefault(f"{name}/{key}", []).append(mean[:count])
                if name == "greedy":
                    found.setdefault("greedy/xyz", []).append(np.asarray(verdict.outcome.xyz)[:count, 0])
        return {name: np.concatenate(parts) for name, parts in found.items()}, texts


def control(verdict, scenes):
    """Whoever always says and does "keep speed, keep lane": it knows the lane and looks at nothing else in the scene.

    -> {"greedy/...": float32 [n]}.
    """
    curvature = scenes["road"][:, 0]
    way = np.asarray(outcomes.present_speed(scenes["ego_history_xyz"]))[:, None] * TIMES
    x, y, heading = (np.asarray(value) for value in arcs.to_cartesian(way, 0.0, curvature[:, None]))
    xyz = np.stack([x, y, np.zeros_like(x)], axis=-1)
    return _judged(verdict, scenes, [CONTROL_TEXT] * len(xyz), xyz, np.asarray(rotations.from_yaw(heading)))


def driver(verdict, scenes, texts):
    """The world's own driver with the world's own words: the most that can be earned."""
    return _judged(verdict, scenes, texts, scenes["ego_future_xyz"], scenes["ego_future_rot"])


def _judged(verdict, scenes, texts, xyz, rot):
    outcome = judge.spoken(texts, xyz[:, None], rot[:, None], np.ones((len(xyz), 1), bool))
    found = verdict.of_outcome(outcome, scenes)
    values = found.parts | {"reward": found.reward}
    return {f"greedy/{name}": np.asarray(value)[:, 0] for name, value in values.items()}
