"""Learning-rate factor and the plan of a run's length.

Factors multiply the base rate. `cosine` is our recipe; with `floor` = min_lr / lr it is exactly the release's
`cosine_warmup_with_min_lr` (`post_training.md` 2.5): warm-up (step + 1) / warmup, then
p = (step - warmup + 1) / (total - warmup), factor = (1 + cos(pi p)) / 2 (1 - floor) + floor.
A plan is data (it lies in the checkpoint), so that a resumed run follows the same curve.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length of a run: `total` steps; from `anchor` on (0 at first) the decay goes from `progress` to 1 at `total`."""

    total: int
    warmup: int
    floor: float
    anchor: int = 0
    progress: float = 0.0

    def decay(self, step):
        """Progress of the cosine, in [0, 1], at `step`."""
        start = max(self.anchor, self.warmup)
        share = (step - start + 1) / max(self.total - start, 1)
        return min(max(self.progress + (1.0 - self.progress) * share, 0.0), 1.0)

    def factor(self, step):
        """Factor of the learning rate at `step` (0-based)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * self.decay(step)))

    def revise(self, step, total):
        """The plan with another length from `step` on; progress made so far is kept, so the rate does not jump."""
        if step <= self.warmup:
            return dataclasses.replace(self, total=total, anchor=0, progress=0.0)
        return dataclasses.replace(self, total=total, anchor=step, progress=self.decay(step - 1))
