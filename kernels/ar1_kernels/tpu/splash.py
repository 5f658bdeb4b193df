"""jax's own splash attention where it does the job: self-attention, causal or full, of whole blocks; differentiable.

Nothing chooses it by itself: kernels/benchmarks compares `flash` with it on a chip.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as library

from ar1_kernels.tpu.blocks import LANES

BLOCKS = (512, 256, 128)  # the largest that divides the sequence is taken


def refusal(dtype, width: int, kind: str, n: int, m: int, segments: bool) -> str | None:
    """Why splash cannot do attention of n queries on m keys of this dtype and head width, or None."""
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32):
        return f"it takes bfloat16 and float32, not {jnp.dtype(dtype).name}"
    if width % LANES:
        return f"head width {width} is not a multiple of {LANES}"
    if segments:
        return "its segment ids serve for lengths here"
    if n != m:
        return f"it does self-attention here, not {n} queries on {m} keys"
    if n % BLOCKS[-1]:
        return f"{n} tokens are no multiple of {BLOCKS[-1]}"
    if kind in ("TPU v2", "TPU v3"):
        return f"{kind} is older than v4"
    return None


def attention(q, k, v, *, causal, lengths, scale, interpret=False):
    """q [B, N, H, E], k and v [B, N, J, E], lengths int [B] or None -> [B, N, H, E] in q's dtype; differentiable.

    Splash knows no scale, so q is multiplied by it and rounded to its dtype. Queries at or beyond the length attend to
    the padding, so its keys must be finite; their outputs mean nothing. ValueError for what `refusal` names.
    """
    _, n, heads, width = q.shape
    if reason := refusal(q.dtype, width, "", n, k.shape[1], False):
        raise ValueError(f"splash: {reason}")
    size = next(size for size in BLOCKS if n % size == 0)
    mask = library.CausalMask((n, n)) if causal else library.FullMask((n, n))
    kernel = library.make_splash_mha_single_device(
        library.MultiHeadMask([mask] * heads),
        block_sizes=library.BlockSizes(
            block_q=size, block_kv=size, block_q_dkv=size, block_kv_dkv=size, use_fused_bwd_kernel=True
        ),
        interpret=interpret,
    )
    q, k, v = (x.swapaxes(1, 2) for x in ((q * scale).astype(q.dtype), k, v))
    if lengths is None:
        out = jax.vmap(kernel)(q, k, v)
    else:
        padding = (jnp.arange(n) >= lengths[:, None]).astype(jnp.int32)  # the live tokens are segment 0
        out = jax.vmap(kernel)(q, k, v, library.SegmentIds(padding, padding))
    return out.swapaxes(1, 2).astype(q.dtype)
