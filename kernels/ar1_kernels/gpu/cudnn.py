"""cuDNN's attention, through jax.nn.dot_product_attention: what it does and what it does not."""

import jax
import jax.numpy as jnp


def refusal(dtype, width: int, kind: str, segments: bool) -> str | None:
    """Why cuDNN cannot do attention for operands of `dtype` and head width on a device of `kind` ("": unknown)."""
    if segments:
        return "it takes lengths, no segment ids"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 and float16, not {jnp.dtype(dtype).name}"
    if any(old in kind for old in ("V100", "T4", "P100")):
        return f"it needs compute capability 8, which {kind} does not have"
    if width > 128 or width % 8:
        return f"head width {width} is not a multiple of 8 up to 128"
    return None


def attention(q, k, v, *, causal, lengths, scale):
    """q [B,N,H,E], k and v [B,M,J,E], lengths int [B] or None -> [B,N,H,E] in q's dtype; differentiable.

    causal: query n sees keys up to n + M - N. cuDNN's own causal mask begins at the first key, so that with N != M it
    is given as a bias [1,1,N,M] in q's dtype. ValueError for what `refusal` names.
    """
    if reason := refusal(q.dtype, q.shape[-1], "", False):
        raise ValueError(f"cudnn: {reason}")
    n, m = q.shape[1], k.shape[1]
    bias = None
    if causal and n != m:
        live = jnp.arange(m) <= jnp.arange(n)[:, None] + (m - n)
        bias = jnp.where(live, 0.0, jnp.finfo(q.dtype).min).astype(q.dtype)[None, None]
    lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, bias, scale=scale, is_causal=causal and n == m, key_value_seq_lengths=lengths,
        query_seq_lengths=None if lengths is None else jnp.full(q.shape[:1], n, jnp.int32), implementation="cudnn",
    )  # fmt: skip
