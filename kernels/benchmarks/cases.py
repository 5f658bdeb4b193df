"""What is timed: the operations at the shapes of the released 10 B model in bf16, and the same cases tiny.

B scenes, N queries, M keys, K sequences a scene, S prefix, L suffix, H query heads, J kv heads, E head width, D
features, V vocabulary. Prefix and suffix are stored heads first, as the model stores them.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ar1_kernels import counts


class Attention(NamedTuple):
    """N queries on M keys of each of B rows; pieces: so many equal segments a row, which see themselves only."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_width: int
    causal: bool
    pieces: int = 1

    def arguments(self, key, dtype) -> dict:
        """q [B, N, H, E], k and v [B, M, J, E], standard normal."""
        b, n, m, e = self.batch, self.queries, self.keys, self.head_width
        shapes = {"q": (b, n, self.heads, e), "k": (b, m, self.kv_heads, e), "v": (b, m, self.kv_heads, e)}
        return _normal(key, shapes, dtype)

    def output(self) -> tuple[int, ...]:
        return self.batch, self.queries, self.heads, self.head_width

    def _whole(self):
        """As attention of every piece: the same pairs, the same arrays."""
        rows, pieces = self.batch * self.pieces, self.pieces
        return rows, self.queries // pieces, self.keys // pieces, self.heads, self.kv_heads, self.head_width

    def cost(self, width: int, backward: bool, other: bool = False) -> counts.Cost:
        """The least; other: of the way that holds all scores."""
        given = {"causal": self.causal, "width": width, "scores": other}
        sizes = self[:6] if other else self._whole()
        cost = counts.attention(*sizes, **given)
        return cost + counts.attention_backward(*sizes, **given) if backward else cost


class Shared(NamedTuple):
    """K sequences of N queries on a prefix of S keys, L suffix keys each, and the queries' own."""

    batch: int
    samples: int
    queries: int
    prefix: int
    suffix: int
    heads: int
    kv_heads: int
    head_width: int
    causal: bool

    def arguments(self, key, dtype) -> dict:
        """q [B, K, N, H, E], prefix [B, J, S, E], suffix [B, K, J, L, E] where L > 0, own keys [B, K, N, J, E]."""
        b, k, n, j, e = self.batch, self.samples, self.queries, self.kv_heads, self.head_width
        shapes = {"q": (b, k, n, self.heads, e)}
        stored = {
            "prefix": (b, j, self.prefix, e),
            "suffix": (b, k, j, self.suffix, e),
            "own": (b, k, n, j, e),
        }
        for name, shape in stored.items():
            if self.suffix or name != "suffix":
                shapes |= {f"{name}_k": shape, f"{name}_v": shape}
        return _normal(key, shapes, dtype)

    def output(self) -> tuple[int, ...]:
        return self.batch, self.samples, self.queries, self.heads, self.head_width

    def cost(self, width: int, backward: bool, other: bool = False) -> counts.Cost:
        """The least; other: of the way that repeats the prefix."""
        given = {"causal": self.causal, "width": width, "repeated": other}
        sizes = (*self[:5], self.queries, *self[5:8])
        cost = counts.shared_prefix(*sizes, **given)
        return cost + counts.shared_prefix_backward(*sizes, **given) if backward else cost


class LogProb(NamedTuple):
    """N rows of D features on a vocabulary of V."""

    rows: int
    features: int
    vocabulary: int

    def arguments(self, key, dtype) -> dict:
        """hidden [N, D], weight [D, V] such that logits are about standard normal; labels [N]."""
        key, label_key = jax.random.split(key)
        found = _normal(
            key, {"hidden": (self.rows, self.features), "weight": (self.features, self.vocabulary)}, dtype
        )
        found["weight"] = (found["weight"] * self.features**-0.5).astype(dtype)
        return found | {"labels": jax.random.randint(label_key, (self.rows,), 0, self.vocabulary)}

    def output(self) -> tuple[int, ...]:
        return (self.rows,)

    def cost(self, width: int, backward: bool, other: bool = False) -> counts.Cost:
        """The least; other: of the way that holds all logits."""
        cost = counts.log_prob(*self, width=width, whole=other)
        return cost + counts.log_prob_backward(*self, width=width, whole=other) if backward else cost


@dataclasses.dataclass(frozen=True)
class Case:
    """An operation at one size, forward or forward and backward."""

    name: str
    operation: str
    sizes: Attention | Shared | LogProb
    backward: bool = False

    def arguments(self, key, dtype) -> dict:
        """Arrays of the case by name; `cotangent`, of the output, where it goes backward."""
        found = self.sizes.arguments(key, dtype)
        if self.backward:
            log_prob = self.operation == "linear_log_prob"  # its cotangent is that of the sum over rows
            shape, kind = self.sizes.output(), jnp.float32 if log_prob else dtype
            found["cotangent"] = jnp.ones(shape, kind) if log_prob else _normal(key, {"o": shape}, dtype)["o"]
        return found


def _normal(key, shapes: dict, dtype) -> dict:
    keys = jax.random.split(key, len(shapes))
    return {n: jax.random.normal(k, shape, dtype) for k, (n, shape) in zip(keys, shapes.items(), strict=True)}


def cases(tiny: bool = False) -> list[Case]:
    """The cases of the table; tiny: of the same kinds, at sizes that an interpreter runs."""
    if tiny:
        sizes = {
            "prefill": Attention(1, 24, 24, 4, 2, 16, True),
            "vision": Attention(1, 48, 48, 2, 2, 24, False, pieces=3),
            "decode, one scene": Shared(1, 3, 1, 40, 8, 4, 2, 16, True),
            "decode, eight scenes": Shared(2, 3, 1, 40, 8, 4, 2, 16, True),
            "expert": Shared(1, 2, 8, 40, 8, 2, 2, 16, False),
            "learner": Shared(1, 2, 12, 40, 0, 4, 2, 16, True),
            "log-probability": LogProb(16, 32, 300),
        }
    else:
        sizes = {
            "prefill": Attention(1, 3000, 3000, 32, 8, 128, True),
            "vision": Attention(1, 11520, 11520, 16, 16, 72, False, pieces=16),
            "decode, one scene": Shared(1, 16, 1, 3000, 64, 32, 8, 128, True),
            "decode, eight scenes": Shared(8, 16, 1, 3000, 64, 32, 8, 128, True),
            "expert": Shared(1, 16, 64, 3000, 64, 16, 8, 128, False),
            "learner": Shared(1, 12, 180, 3000, 0, 32, 8, 128, True),
            "log-probability": LogProb(3200, 4096, 155_697),
        }
    operations = {Attention: "attention", Shared: "shared_prefix_attention", LogProb: "linear_log_prob"}
    trained = ("prefill", "vision", "learner", "log-probability")
    forward = [Case(name, operations[type(s)], s) for name, s in sizes.items()]
    backward = [
        Case(f"{c.name}, forward and backward", c.operation, c.sizes, True)
        for c in forward
        if c.name in trained
    ]
    return forward + backward
