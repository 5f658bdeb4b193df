"""Ways to do each operation: ours by back-end, and what others keep. A way is a function of the case's arrays by name.

`attention` ways take q [B, N, H, E], k, v [B, M, J, E]; a shared prefix is also offered as attention on a copy of the
prefix for each sequence, made beforehand and not timed. What a way cannot do it raises; the table says so.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import ar1_kernels
import jax
import jax.numpy as jnp
from ar1_kernels import backend

from benchmarks.cases import Case

OURS = ("xla", "pallas_tpu", "pallas_gpu", "cudnn")
SIMULATED = (  # tiny cases that the simulator of GPU kernels does in half a minute each
    "prefill",
    "prefill, forward and backward",
    "decode, one scene",
    "log-probability",
    "log-probability, forward and backward",
)


class Provider(NamedTuple):
    """function(**arrays) -> output. prepare(arrays) -> the arrays it takes, not timed. total: it gives the sum over
    rows only. checked: its output is the operation's (a bare product's is not). interpret: the platform whose kernels
    run through the interpreter."""

    function: Callable
    prepare: Callable = lambda arrays: arrays
    total: bool = False
    checked: bool = True
    interpret: str | None = None

    def tracing(self):
        """The context that its programs are traced in."""
        if self.interpret is None:
            return contextlib.nullcontext()
        return backend.tracing_for(self.interpret, interpret=True)


def providers(case: Case, interpret: bool = False) -> dict[str, Provider]:
    """All ways to do a case by name, those that this machine cannot run included. interpret: also our kernels through
    the interpreter, for tiny sizes."""
    return {
        "attention": _attention,
        "shared_prefix_attention": _shared,
        "linear_log_prob": _log_prob,
    }[case.operation](case, interpret)


def ours(name: str, case: Case, *, blocks=None) -> Callable:
    """Our operation by back-end `name`; blocks: sizes of the kernel's tiles, None: from its table."""
    s = case.sizes
    given = {"backend": name} | ({} if blocks is None else {"blocks": blocks})
    if case.operation == "attention":
        ids = None if s.pieces == 1 else jnp.broadcast_to(_pieces(s), (s.batch, s.queries))
        run = lambda q, k, v: ar1_kernels.attention(q, k, v, causal=s.causal, segment_ids=ids, **given)
    elif case.operation == "shared_prefix_attention":
        lengths = {"prefix_length": jnp.full((s.batch,), s.prefix, jnp.int32)}
        if s.suffix:
            lengths["suffix_length"] = jnp.full((s.batch, s.samples), s.suffix, jnp.int32)
        run = lambda **arrays: ar1_kernels.shared_prefix_attention(
            **arrays, causal=s.causal, heads_first=True, **lengths, **given
        )
    else:
        run = lambda **arrays: ar1_kernels.linear_log_prob(**arrays, **given)
    return run


def _pieces(s):
    return jnp.arange(s.queries, dtype=jnp.int32) // (s.queries // s.pieces)


def _ours(case: Case, interpret: bool) -> dict[str, Provider]:
    names = [n for n in OURS if n != "cudnn" or case.operation == "attention"]
    found = {f"ours, {name}": Provider(ours(name, case)) for name in ("auto", *names)}
    if interpret:
        found["ours, pallas_tpu, interpreted"] = Provider(ours("pallas_tpu", case), interpret="tpu")
        if case.name in SIMULATED:
            found["ours, pallas_gpu, interpreted"] = Provider(_few_threads(case), interpret="gpu")
    return found


def _few_threads(case: Case) -> Callable:
    """Our GPU kernels in small blocks and few of them: the simulator runs and compiles each thread by itself."""

    def run(**arrays):
        from ar1_kernels.gpu import blocks, log_prob

        if case.operation == "linear_log_prob":
            sizes = log_prob.Blocks(rows=64, ids=128, stages=2, launched=1)
        else:
            sizes = blocks.Blocks(consumers=1, keys=64, stages=2, splits=1)
        return ours("pallas_gpu", case, blocks=sizes)(**arrays)

    return run


def _others(causal: bool, interpret: bool) -> dict[str, Callable]:
    """Attention that others keep, by name."""
    found = {"splash": functools.partial(splash, causal=causal)}
    if interpret:
        found["splash, interpreted"] = functools.partial(splash, causal=causal, interpret=True)
    for name in ("xla", "cudnn"):
        found[f"jax.nn, {name}"] = functools.partial(_jax_nn, causal=causal, implementation=name)
    for name in ("mosaic", "xla_chunked"):
        found[f"tokamax, {name}"] = functools.partial(_tokamax_attention, causal=causal, implementation=name)
    return found


def _masking(q, k, causal) -> dict:
    """jax.nn and tokamax align causality at the first key, ours at the last: a mask where that differs."""
    n, m = q.shape[1], k.shape[1]
    if not causal or n == m:
        return {"is_causal": causal}
    return {"mask": jnp.tri(n, m, m - n, dtype=bool)[None, None]}


def _jax_nn(q, k, v, *, causal, implementation):
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation, **_masking(q, k, causal))


def splash(q, k, v, *, causal, interpret=False):
    """jax's TPU kernel: a multi-query kernel a kv head, scale applied beforehand, tokens filled up to whole blocks
    (512, fewer where there are few), which a segment of their own hides."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    (batch, n, heads, width), (m, kv_heads) = q.shape, k.shape[1:3]
    unit = lambda size: 512 if size >= 2048 else 256 if size >= 512 else 128
    rows, keys = (-(-size // unit(size)) * unit(size) for size in (n, m))
    make = (
        (lambda: library.CausalMask((rows, keys), offset=m - n))
        if causal
        else lambda: library.FullMask((rows, keys))
    )
    r, c = unit(n), unit(m)
    sizes = library.BlockSizes(
        block_q=r, block_kv=c, block_q_dkv=r, block_kv_dkv=c, block_q_dq=r, block_kv_dq=c,
    )  # fmt: skip
    kernel = library.make_splash_mqa_single_device(
        library.MultiHeadMask([make() for _ in range(heads // kv_heads)]),
        block_sizes=sizes,
        interpret=interpret,
    )
    fill = lambda x, size: jnp.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0), (0, 0)))
    q = fill(q * jnp.asarray(width**-0.5, q.dtype), rows).reshape(batch, rows, kv_heads, -1, width)
    k, v = (fill(x, keys).swapaxes(1, 2) for x in (k, v))
    # Rows that fill up see the keys that do, and with them something.
    ids = library.SegmentIds(jnp.int32(jnp.arange(rows) >= n), jnp.int32(jnp.arange(keys) >= m))
    ids = ids if (rows, keys) != (n, m) else None
    out = jax.vmap(jax.vmap(lambda q, k, v: kernel(q, k, v, ids)))(q.transpose(0, 2, 3, 1, 4), k, v)
    return out.transpose(0, 3, 1, 2, 4)[:, :n].reshape(batch, n, heads, width)


def _tokamax(name, *args, **given):
    import tokamax
    from absl import flags

    if not flags.FLAGS.is_parsed():  # tokamax reads absl's flags, of which this command knows nothing
        flags.FLAGS.mark_as_parsed()
    return getattr(tokamax, name)(*args, **given)


def _tokamax_attention(q, k, v, *, causal, implementation):
    masking = _masking(q, k, causal)
    return _tokamax("dot_product_attention", q, k, v, implementation=implementation, **masking)


def _attention(case: Case, interpret: bool) -> dict[str, Provider]:
    """Equal pieces are a batch for those who know no segments."""
    s = case.sizes

    def by_piece(function):
        cut = lambda x: x.reshape(s.batch * s.pieces, -1, *x.shape[2:])
        return lambda q, k, v: function(cut(q), cut(k), cut(v)).reshape(q.shape)

    return _ours(case, interpret) | {
        n: Provider(by_piece(f)) for n, f in _others(s.causal, interpret).items()
    }


def _shared(case: Case, interpret: bool) -> dict[str, Provider]:
    """Lengths are full, so that prefix, suffix and own keys in a row are one causal (or full) attention."""
    s = case.sizes

    def copies(arrays):
        rest = {n: x for n, x in arrays.items() if n in ("q", "cotangent")}
        return rest | {n: _repeated(arrays, n) for n in ("k", "v")}

    def each(function):
        def run(q, k, v):
            flat = q.reshape(-1, *q.shape[2:])
            return function(flat, k, v).reshape(q.shape)

        return run

    causal = s.causal and s.queries > 1
    ways = {f"ours, {n}": functools.partial(ar1_kernels.attention, causal=causal, backend=n) for n in OURS}
    ways |= _others(causal, interpret)
    return _ours(case, interpret) | {f"repeated: {n}": Provider(each(f), copies) for n, f in ways.items()}


def _repeated(arrays: dict, name: str):
    """The keys (or values) of each sequence in a row, the prefix copied: [B·K, S + L + N, J, E]."""
    own = arrays[f"own_{name}"]
    prefix = arrays[f"prefix_{name}"].swapaxes(1, 2)[:, None]
    parts = [jnp.broadcast_to(prefix, (*own.shape[:2], *prefix.shape[2:]))]
    if f"suffix_{name}" in arrays:
        parts.append(arrays[f"suffix_{name}"].swapaxes(2, 3))
    joined = jnp.concatenate([*parts, own], axis=2)
    return joined.reshape(-1, *joined.shape[2:])


def _log_prob(case: Case, interpret: bool) -> dict[str, Provider]:
    def whole(hidden, weight, labels):
        logits = jnp.dot(hidden, weight, preferred_element_type=jnp.float32)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

    def product(hidden, weight, labels):
        return jnp.dot(hidden, weight)

    def tokamax(hidden, weight, labels):
        return -_tokamax("linear_softmax_cross_entropy_loss", hidden, labels, weight, reduction="sum")

    bare = "four products" if case.backward else "one product"
    others = {
        "whole logits": Provider(whole),
        bare: Provider(_four_products if case.backward else product, checked=False),
        "tokamax": Provider(tokamax, total=True),
    }
    return _ours(case, interpret) | others


def _four_products(hidden, weight, labels, cotangent):
    """The arithmetic of forward and backward with logits computed twice, and nothing else."""
    first = jnp.dot(hidden, weight)
    # The second waits for the first, which it would be merged with otherwise.
    hidden, first = jax.lax.optimization_barrier((hidden, first))
    again = jnp.dot(hidden, weight)
    return first, jnp.dot(again, weight.T), jnp.dot(hidden.T, again)
