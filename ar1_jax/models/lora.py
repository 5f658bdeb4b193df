"""Low-rank adapters: two thin matrices beside a Linear's kernel, trained while everything else stands still.

    y = x W + scale · (x A) B        W [in, out], A [in, r], B [r, out]; stacked layers lead all three with [layers]

LoRA (arXiv 2106.09685): A is random, B starts at zero, scale = alpha / r, so that a fresh adapter changes no bit. A
tree of adapters is a parameter tree whose only leaves are `lora_a` and `lora_b`, float32, where the kernel would be:
it alone is trained, saved and sharded. `attach` lays it into the parameters, where `layers.Linear` finds it; `merge`
adds it into the kernels. Targets are patterns over module paths ("expert/layers/mlp/up_proj").
"""

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ar1_jax.core import errors, sharding, trees

A, B, KERNEL = "lora_a", "lora_b", "kernel"
OTHER_USE = ("vlm/lm_head",)  # a kernel that log-probabilities are computed from without a Linear


@dataclasses.dataclass(frozen=True)
class Recipe:
    """rank: r, 0 for no adapters; alpha: the update counts alpha / rank times; targets: patterns of module paths."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    def __post_init__(self):
        """ConfigError with everything that is wrong."""
        problems = [f"rank={self.rank}: 0 (off) or more is needed"] if self.rank < 0 else []
        if self.rank > 0:
            problems += [] if self.alpha > 0 else [f"alpha={self.alpha:g}: it must be above 0"]
            problems += [] if self.targets else ["targets: none given"]
        errors.raise_all(problems, "lora", errors.ConfigError)

    @property
    def scale(self):
        return self.alpha / self.rank


def init(params, targets: Sequence[str], rank: int, key):
    """Fresh adapters of the Linears whose paths match one of `targets`; params: arrays or shapes.

    An adapter's draw depends on its own path and the key only. ConfigError names every target that matches no module or
    one that is no Linear, and every Linear too small for the rank."""
    flat = trees.flatten(params)
    modules = dict.fromkeys(_module(path) for path in flat)
    problems, chosen = [], []
    for pattern in targets:
        matched = [name for name in modules if trees.matches(pattern, name)]
        other = [name for name in matched if f"{name}/{KERNEL}" not in flat or name in OTHER_USE]
        problems += [] if matched else [f"target {pattern!r}: matches no module"]
        problems += [f"target {pattern!r}: {name} is no Linear" for name in other]
        chosen += [name for name in matched if name not in other]
    for name in dict.fromkeys(chosen):
        width = min(flat[f"{name}/{KERNEL}"].shape[-2:])
        problems += [f"{name}: rank {rank} is above {width}, its narrower side"] if rank > width else []
    errors.raise_all(problems, "lora", errors.ConfigError)
    made = {}
    for name in dict.fromkeys(chosen):
        *stack, wide, out = flat[f"{name}/{KERNEL}"].shape
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        made[f"{name}/{A}"] = jax.random.normal(own, (*stack, wide, rank)) * wide**-0.5
        made[f"{name}/{B}"] = jnp.zeros((*stack, rank, out))
    return trees.nest(made)


def attach(params, adapters, scale):
    """Parameters with the adapters laid beside their kernels, the scale in `lora_b`. Differentiable in both."""
    scaled = trees.map_with_path(lambda path, x: x * scale if path.endswith(B) else x, adapters)
    return trees.merge(params, scaled)


def merge(params, adapters, scale):
    """Parameters without adapters: kernel + scale · A B, summed in float32, in the kernel's dtype.

    ConfigError for an adapter whose kernel is absent or of another shape."""
    flat, own = trees.flatten(params), trees.flatten(adapters)
    pairs = {f"{name}/{KERNEL}": (own[f"{name}/{A}"], own[f"{name}/{B}"]) for name in map(_module, own)}
    problems = []
    for path, (a, b) in pairs.items():
        shape = (*a.shape[:-1], b.shape[-1])
        if path not in flat or flat[path].shape != shape:
            got = list(flat[path].shape) if path in flat else "nothing"
            problems.append(f"{path}: the adapter fits {list(shape)}, there is {got}")
    errors.raise_all(problems, "lora", errors.ConfigError)
    return trees.nest(flat | {path: _sum(flat[path], a, b, scale) for path, (a, b) in pairs.items()})


@jax.jit
def _sum(kernel, a, b, scale):
    update = scale * jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32)
    return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)


def at_kernels(tree, adapters):
    """What `tree`, which mirrors the parameters, says of each adapter's kernel, in the structure of the adapters."""
    flat = trees.flatten(tree)
    return trees.map_with_path(lambda path, _: flat[f"{_module(path)}/{KERNEL}"], adapters)


def specs(adapters, table: sharding.Table):
    """PartitionSpecs from the kernels' rows of the parameters' table: A is cut as they are along in, B along out."""

    def spec(path, leaf):
        row = trees.first_match(f"{_module(path)}/{KERNEL}", table, P())
        *stack, wide, out = (*row, *[None] * (leaf.ndim - len(row)))
        return P(*stack, wide, None) if path.endswith(A) else P(*stack, None, out)

    return trees.map_with_path(spec, adapters)


def _module(path):
    return path.rpartition(trees.SEPARATOR)[0]
