"""Seconds of a function on the device, without what it costs to call it, over buffers that do not stay in a cache."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ar1_kernels import backend
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

    def call(changed, others, token):
        """One call: its first array changed, its results, and a number of them."""
        # 0 · token is not folded away: it would be NaN if the token were.
        corner = changed[(0,) * changed.ndim] + (0.0 * token).astype(changed.dtype)
        changed = jax.lax.dynamic_update_slice(
            changed, corner.reshape((1,) * changed.ndim), (0,) * changed.ndim
        )
        # What is done to the other arrays alone belongs to each call, not before the loop.
        others, token = jax.lax.optimization_barrier((others, token))
        out = function(**_as_they_lie({first: changed} | others))
        return changed, out, sum(x.reshape(-1)[0].astype(jnp.float32) for x in jax.tree.leaves(out))

    @jax.jit
    def program(rounds, firsts, rest):
        def body(_, carry):
            firsts, _, token = list(carry[0]), carry[1], carry[2]
            outs = []
            for i, others in enumerate(rest):
                firsts[i], out, token = call(firsts[i], others, token)
                outs.append(out)
            return firsts, outs, token

        one = lambda x, others: function(**({first: x} | others))
        empty = [
            jax.tree.map(jnp.zeros_like, jax.eval_shape(one, *pair))
            for pair in zip(firsts, rest, strict=True)
        ]
        # Whole results leave the program: XLA may not compute only what the next call waits for.
        return jax.lax.fori_loop(0, rounds, body, (firsts, empty, jnp.zeros((), jnp.float32)))[1:]

    return program, (firsts, rest)


def _as_they_lie(arrays: dict) -> dict:
    """Arrays whose dimensions XLA may not put in another order before the loop; on GPUs, where it does and where the
    plain order is that of every array."""
    if backend.target().platform != "gpu":
        return arrays
    return {name: with_layout_constraint(x, Layout(tuple(range(x.ndim)))) for name, x in arrays.items()}


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
