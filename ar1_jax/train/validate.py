"""Validation while training: teacher-forced, on scenes kept in memory, with true, shuffled and no pictures.

n scenes. The decision loss (nats, all decision tokens) against the one without pictures says whether a policy sees,
long before its accuracy does: judge by that gap. Decision accuracy is exact: greedy decoding writes the true decision
if and only if every one of its tokens is the most likely one behind the true ones.
"""

import jax
import numpy as np

from ar1_jax.data import augment

MODES = {"true": lambda images: images, "shuffled": augment.shuffled, "none": augment.without_images}


class Validation:
    """look: step.examine's function; samples: a sample batch of n scenes; batch: scenes at a time (n is cut to a
    multiple); modes: which of MODES to show, the first decides `loss`."""

    def __init__(self, look, samples, batch, modes=tuple(MODES)):
        self.look, self.batch, self.modes = look, batch, modes
        count = len(samples["ids"]) // batch * batch
        self.samples = {name: value[:count] for name, value in samples.items()}
        self.samples["seen"] = np.ones(count, np.float32)

    def __call__(self, params, head, key, names):
        """{name: float} for all modes: loss (weighted tokens, with `flow` where there is an expert) of the first mode;

        decision/MODE nats a scene, right/MODE in percent, cells/CLASS recall in percent (names: of the classes).
        """
        out = {}
        for mode in self.modes:
            images = MODES[mode](self.samples["images"])
            seen = [
                self._look(params, head, images, first, key) for first in range(0, len(images), self.batch)
            ]
            total = {name: np.concatenate([np.atleast_1d(part[name]) for part in seen]) for name in seen[0]}
            out[f"decision/{mode}"] = float(total["decision"].mean())
            out[f"right/{mode}"] = 100.0 * float(total["right"].mean())
            if mode == self.modes[0]:
                out |= self._summary(seen, total, names)
        return out

    def _look(self, params, head, images, first, key):
        rows = slice(first, first + self.batch)
        batch = {name: value[rows] for name, value in (self.samples | {"images": images}).items()}
        return jax.device_get(self.look(params, head, batch, jax.random.fold_in(key, first)))

    def _summary(self, seen, total, names):
        found, there = (sum(part[name] for part in seen) for name in ("found", "there"))
        recall = 100.0 * found / np.maximum(there, 1)
        out = {
            "tokens": float(total["tokens"].sum() / total["weight"].sum()),
            "actions": float(total["actions"].mean()),
        }
        if "flow" in total:
            out["flow"] = float(total["flow"].mean())
        out["loss"] = out["tokens"] + out.get("flow", 0.0)
        return out | {
            f"cells/{name}": float(r) for name, r, n in zip(names, recall, there, strict=True) if n > 0
        }
