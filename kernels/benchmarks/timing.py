"""Seconds of a function on the device, without what it costs to call it, over buffers that do not stay in a cache."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint


class Seconds(NamedTuple):
    """Of one call: median, fastest and slowest repeat; calls: how many a repeat."""

    median: float
    fastest: float
    slowest: float
    calls: int


def measure(function, sets: list[dict], *, repeats: int = 10, least: float = 0.1) -> Seconds:
    """Median time of function(**arguments) over `sets` of arguments in turn, each repeat at least `least` seconds.

    Before the repeats come one run that compiles and those that find how often to go round.
    """
    program, arrays = chain(function, sets)

    def seconds(rounds):
        start = time.perf_counter()
        jax.block_until_ready(program(rounds, *arrays))
        return time.perf_counter() - start

    seconds(1)
    rounds, taken = 1, seconds(1)
    while taken < least:
        rounds = max(rounds + 1, min(int(1.2 * rounds * least / max(taken, 1e-9)), 10 * rounds))
        taken = seconds(rounds)
    calls = rounds * len(sets)
    found = np.array([seconds(rounds) for _ in range(repeats)]) / calls
    return Seconds(float(np.median(found)), float(found.min()), float(found.max()), calls)


def chain(function, sets: list[dict]):
    """A program that calls function(**arguments) on every set `rounds` times over, and its arrays.

    One call after another: a number of each call's results goes into the first array of the next, in place, so that no
    call is left out, merged with another or run at its side.
    """
    first = next(iter(sets[0]))
    firsts = [arguments[first] for arguments in sets]
    rest = [{name: x for name, x in arguments.items() if name != first} for arguments in sets]
    lie = {name: _order(x) for name, x in sets[0].items()}
    pinned = lambda arrays: {name: with_layout_constraint(x, lie[name]) for name, x in arrays.items()}

    def call(changed, others, token):
        """One call: its first array changed, and a number of its results."""
        # 0 · token is not folded away: it would be NaN if the token were.
        corner = changed[(0,) * changed.ndim] + (0.0 * token).astype(changed.dtype)
        changed = jax.lax.dynamic_update_slice(
            changed, corner.reshape((1,) * changed.ndim), (0,) * changed.ndim
        )
        # First barrier: what is done to the other arrays alone belongs to each call, not before the loop; nor may they
        # lie there in another order. Second: a call is made whole, not just the number that the next one waits for.
        others, token = jax.lax.optimization_barrier((others, token))
        out = jax.lax.optimization_barrier(function(**pinned({first: changed} | others)))
        return changed, sum(x.reshape(-1)[0].astype(jnp.float32) for x in jax.tree.leaves(out))

    @jax.jit
    def program(rounds, firsts, rest):
        def body(_, carry):
            firsts, token = list(carry[0]), carry[1]
            for i, others in enumerate(rest):
                firsts[i], token = call(firsts[i], others, token)
            return firsts, token

        return jax.lax.fori_loop(0, rounds, body, (firsts, jnp.zeros((), jnp.float32)))[1]

    return program, (firsts, rest)


def _order(x) -> Layout:
    """The order in which the dimensions of x lie in memory; the plain one of a shape without memory."""
    found = getattr(getattr(x, "format", None), "layout", None)
    return Layout(getattr(found, "major_to_minor", None) or tuple(range(x.ndim)))


def rotating(make, cache: float) -> list[dict]:
    """Sets of arguments make(key) that together are larger than `cache` bytes, at most 64; two at least, unless one
    is larger than that itself."""
    first = make(jax.random.key(0))
    size = sum(x.nbytes for x in jax.tree.leaves(first))
    count = 1 if size > cache else min(64, max(2, int(cache / size) + 1))
    return [first, *(make(jax.random.key(i)) for i in range(1, count))]


def ceilings(size: int, side: int, dtype, **given) -> dict:
    """What this chip reaches: bytes/s of a copy of `size` bytes (read and written), FLOP/s of a product of `side`³."""
    elements = size // jnp.dtype(dtype).itemsize
    copied = measure(lambda x: 2 * x, [{"x": jnp.ones((elements,), dtype)}], **given)
    square = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = measure(lambda x, y: jnp.dot(x, y), [{"x": square, "y": square}], **given)
    return {"bandwidth": 2 * elements * jnp.dtype(dtype).itemsize / copied.median,
            "flops": 2 * side**3 / product.median}  # fmt: skip
