"""GPU attention kernels in the simulator of Mosaic GPU, against plain jax.numpy: what the tests call, and a script.

    PJRT_NPROC=64 python -m tests.kernels.gpu_cases forward decode

The simulator's threads wait inside XLA's, of which there are as many as cores unless PJRT_NPROC says more: with two
they wait for each other for ever. What must not be fetched is NaN (blocks that no row sees); what is fetched but
must not count is NaN in keys and huge in values.
"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ar1_kernels.gpu import flash, shared, warpgroup
from ar1_kernels.gpu.blocks import Blocks
from ar1_kernels.packed import Seen

from tests.kernels import plain

# A scale by which MASKED · scale rounds so that a row without keys, were it counted from its own peak, would show.
SCALE, HUGE = 0.25, 1e30


NO_TCGEN05 = f"the simulator of GPUs in jax {jax.__version__} does not know tcgen05; that of 0.11 does"


def simulates_tcgen05() -> bool:
    """Whether the simulator knows Blackwell's products and tensor memory: not that of jax 0.10."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

    return hasattr(gpu_callbacks, "tcgen05_mma")


def simulator():
    params = type(warpgroup.interpreter(True))
    return params(detect_races=True)


def races() -> bool:
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

    return bool(gpu_callbacks.get_races().races_found)


def behind(k, v, length, keys):
    """k and v [..., n, E] with what no row sees made visible: length broadcasts to [...]."""
    place, length = np.arange(k.shape[-2]), np.asarray(length)[..., None]
    dead, unfetched = place >= length, place >= -(-length // keys) * keys
    k = jnp.where(dead[..., None], jnp.nan, k)
    return k, jnp.where(unfetched[..., None], jnp.nan, jnp.where(dead[..., None], HUGE, v))


def cleaned(x):
    return jnp.where(jnp.isnan(x) | (jnp.abs(x) >= HUGE), 0.0, x).astype(jnp.float32)


def gap(got, want):
    """Largest difference, relative to the largest value."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.abs(got - want).max() / np.abs(want).max())


def make(seed, batch, heads, rows, width, keys, segments, block):
    rng = np.random.default_rng(seed)
    normal = lambda n: jnp.asarray(rng.normal(size=(batch, heads, n, width)), jnp.bfloat16)
    q, k, v, do = normal(rows), normal(keys), normal(keys), normal(rows)
    length = rng.integers(keys // 2, keys, (batch, 1))
    limit = np.minimum(rng.integers(1, keys + 1, (batch, rows)), length).astype(np.int32)
    limit[:, 0] = 0  # a row that sees nothing
    k, v = behind(k, v, limit.max(1)[:, None], block)
    ids = [np.sort(rng.integers(0, 4, (batch, n)), axis=1).astype(np.int32) for n in (rows, keys)]
    return q, k, v, do, Seen(jnp.asarray(limit), *(map(jnp.asarray, ids) if segments else ()))


def some_forward(*shape, segments, blocks):
    q, k, v, _, seen = make(0, *shape, segments, blocks.keys)
    out, lse = flash.forward(
        q, k, v, seen, scale=SCALE, out_dtype=q.dtype, blocks=blocks, interpret=simulator()
    )
    want, want_lse = plain.forward(*map(cleaned, (q, k, v)), seen, scale=SCALE, out_dtype=jnp.float32)
    alive = np.asarray(want_lse) > -1e29
    dead = {
        "values": float(np.abs(np.float32(out)[~alive]).max()),
        "lse": float(np.asarray(lse)[~alive].max()),
    }
    difference = np.abs(np.asarray(lse) - want_lse)[alive].max()
    want = np.where(alive[..., None], want, 0.0)
    return {"out": gap(out, want), "lse": float(difference), "dead": dead, "shape": out.shape}


def some_backward(*shape, segments, blocks):
    q, k, v, do, seen = make(1, *shape, segments, blocks.keys * blocks.rows)
    k, v = cleaned(k).astype(k.dtype), cleaned(v).astype(v.dtype)
    exact = [x.astype(jnp.float32) for x in (q, k, v)]
    _, lse = plain.forward(*exact, seen, scale=SCALE, out_dtype=jnp.float32)
    lse = jnp.where(lse > -1e29, lse + 0.5, lse)  # over more keys than these
    delta = jnp.asarray(np.random.default_rng(2).normal(size=lse.shape), jnp.float32)
    got = flash.backward(q, k, v, seen, lse, delta, do, scale=SCALE, blocks=blocks, interpret=simulator())
    live = jnp.where(lse > -1e29, lse, 1e30)  # of rows that see nothing every weight is 0
    want = plain.backward(*exact, seen, live, delta, do.astype(jnp.float32), scale=SCALE)
    return dict(zip(("dq", "dk", "dv"), map(gap, got, want))) | {"dtypes": [x.dtype.name for x in got]}


def some_shared(batch, heads, sequences, rows, width, prefix, suffix, own, *, causal, blocks):
    rng = np.random.default_rng(3)
    normal = lambda *shape: jnp.asarray(rng.normal(size=(*shape, width)), jnp.bfloat16)
    q = normal(batch, heads, sequences, rows)
    prefix_length = rng.integers(1, prefix, batch).astype(np.int32)
    args = [*behind(normal(batch, heads, prefix), normal(batch, heads, prefix), prefix_length[:, None], blocks.keys),
            prefix_length, None, None, None, None, None]  # fmt: skip
    each = (batch, sequences, heads)
    if suffix:
        suffix_length = rng.integers(0, suffix, each[:2]).astype(np.int32)
        suffix_length[0, 0] = 0
        args[3:6] = (
            *behind(normal(*each, suffix), normal(*each, suffix), suffix_length[..., None], blocks.keys),
            suffix_length,
        )
    if own:
        args[6:] = normal(*each, own), normal(*each, own)
    out, lse = shared.forward(q, *args, causal=causal, scale=SCALE, blocks=blocks, interpret=simulator())
    exact = [x if x is None or x.dtype == np.int32 else cleaned(x) for x in args]
    want, want_lse = plain.shared(cleaned(q), *exact, causal=causal, scale=SCALE)
    return {
        "out": gap(out, want),
        "lse": float(np.abs(np.asarray(lse) - want_lse).max()),
        "dtype": out.dtype.name,
    }


ONE, TWO = Blocks(consumers=1, keys=64, stages=2), Blocks(consumers=2, keys=64, stages=2)
B1, B2 = (dataclasses.replace(x, unit="tcgen05") for x in (ONE, TWO))
BLACKWELL = {
    "forward": lambda: some_forward(1, 1, 140, 24, 250, segments=False, blocks=B1),
    "forward batch": lambda: some_forward(2, 2, 300, 72, 150, segments=True, blocks=B2),
    "backward": lambda: some_backward(1, 1, 140, 24, 130, segments=True, blocks=B1),
    "backward lengths": lambda: some_backward(2, 2, 200, 72, 210, segments=False, blocks=B1),
    "decode": lambda: some_shared(1, 1, 3, 4, 24, 150, 70, 1, causal=True,
                                  blocks=dataclasses.replace(B1, splits=2)),
    "few queries": lambda: some_shared(1, 2, 5, 15, 16, 130, 20, 5, causal=True, blocks=B2),
    "expert": lambda: some_shared(1, 1, 2, 132, 16, 70, 20, 33, causal=False, blocks=B1),
    "learner": lambda: some_shared(1, 1, 2, 280, 16, 70, 0, 70, causal=True, blocks=B2),
}  # fmt: skip
CASES = {
    # batch, heads, rows, width, keys: tails of rows, keys and width, more blocks than slots
    "forward": lambda: some_forward(1, 1, 70, 24, 250, segments=False, blocks=ONE),
    "forward segments": lambda: some_forward(1, 1, 130, 24, 130, segments=True, blocks=ONE),
    "forward batch": lambda: some_forward(2, 2, 200, 72, 150, segments=True, blocks=TWO),
    "backward": lambda: some_backward(1, 1, 70, 24, 130, segments=True, blocks=ONE),
    "backward lengths": lambda: some_backward(2, 2, 200, 72, 210, segments=False, blocks=TWO),
    # batch, heads, sequences, rows, width, prefix, suffix, own
    "decode": lambda: some_shared(1, 1, 3, 4, 24, 150, 70, 1, causal=True,
                                  blocks=Blocks(consumers=1, keys=64, stages=2, splits=2)),
    "decode without suffix": lambda: some_shared(2, 2, 3, 4, 16, 70, 0, 0, causal=True, blocks=ONE),
    "few queries": lambda: some_shared(1, 2, 5, 15, 16, 130, 20, 5, causal=True, blocks=TWO),
    "expert": lambda: some_shared(1, 1, 2, 66, 16, 70, 20, 33, causal=False, blocks=ONE),
    "learner": lambda: some_shared(1, 1, 2, 140, 16, 70, 0, 70, causal=True, blocks=TWO),
}  # fmt: skip


CASES |= {f"blackwell {name}": case for name, case in BLACKWELL.items()}


def run(name):
    """A case's largest differences, and whether the simulator saw a race; skips the test that it cannot make."""
    if name.startswith("blackwell") and not simulates_tcgen05():
        pytest.skip(NO_TCGEN05)
    found = CASES[name]()
    return {"races": races(), **found}


if __name__ == "__main__":
    known = [name for name in CASES if simulates_tcgen05() or not name.startswith("blackwell")]
    for case in sys.argv[1:] or known:
        print(json.dumps({"case": case, **run(case)}), flush=True)
