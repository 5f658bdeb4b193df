"""Is what a way computes right? Against the float32 XLA path on the same numbers, row by row."""

import functools
import math

import jax
import jax.numpy as jnp

from benchmarks.cases import Case
from benchmarks.providers import ours

BOUNDS = {  # largest error of a row, relative to its own length or the rows' root mean square, whichever is larger
    "bfloat16": 3e-2,  # weights and their gradients are rounded to 8 bits before they enter a product
    "float32": 1e-4,
}
NATS = 1e-3  # largest error of a log-probability: its logits are summed in float32 whatever their factors are


def outputs(case: Case, function, total: bool = False):
    """function of the case's arrays -> {"out": output, and "d_" and its name: gradient} of what it differentiates."""
    if not case.backward:
        return lambda **arrays: {"total" if total else "out": function(**arrays)}

    def both(**arrays):
        cotangent = arrays.pop("cotangent")
        whole = {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}
        rest = {n: x for n, x in arrays.items() if n not in whole}
        out, back = jax.vjp(lambda whole: function(**whole, **rest), whole)
        # A sum's cotangent is one; the case's is ones for every row.
        grads = back(jnp.ones_like(out) if total else cotangent.astype(out.dtype))[0]
        return {"total" if total else "out": out} | {f"d_{n}": g for n, g in grads.items()}

    return both


def reference(case: Case, arrays: dict) -> dict:
    """What every way should give: XLA's float32 on the same numbers. A prefix repeated beforehand has gradients of its
    own, one a copy; such a way is compared by its output and the gradient of q."""
    wide = {
        n: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x for n, x in arrays.items()
    }
    with jax.default_matmul_precision("highest"):
        found = jax.jit(outputs(case, ours("xla", case)))(**wide)
    if case.operation == "linear_log_prob":
        found["total"] = found["out"].sum()
    return found


def errors(case: Case, got: dict, want: dict, dtype: str) -> list[tuple[str, float, float]]:
    """(name, error, bound) of every output, the worst first: the largest error of any row (last axis), infinite where
    one is not finite. Log-probabilities are numbers of their own, compared as they are; a sum of them by the mean."""
    names = got.keys() & want.keys()
    if not names & {"out", "total"}:
        raise ValueError(f"{case.name}: nothing to compare in {sorted(got)}")
    found = []
    for name in names:
        if got[name].shape != want[name].shape:
            raise ValueError(f"{case.name}: {name} is {got[name].shape}, expected {want[name].shape}")
        nats = name == "total" or (name == "out" and case.operation == "linear_log_prob")
        error = float(_apart(got[name], want[name], nats)) / (case.sizes.rows if name == "total" else 1)
        found.append((name, error if math.isfinite(error) else math.inf, NATS if nats else BOUNDS[dtype]))
    return sorted(found, key=lambda line: line[1] / line[2], reverse=True)


@functools.partial(jax.jit, static_argnames="nats")
def _apart(a, b, nats):
    """Largest distance of a row of a to that of b, in units of the row's length; of single numbers as they are."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    if nats:
        return jnp.max(jnp.abs(a - b))
    length = jnp.linalg.norm(b, axis=-1)
    return jnp.max(jnp.linalg.norm(a - b, axis=-1) / jnp.maximum(length, jnp.sqrt(jnp.mean(length**2))))
