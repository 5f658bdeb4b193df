"""What the attention kernels' operands must be, how they are laid out for TMA, and which blocks see each other.

B scenes, J kv heads, X rows of a kv head, S keys, E head width; packed.Seen says which keys a row sees.
"""

import jax.numpy as jnp
from jax import lax

from ar1_kernels.gpu import products
from ar1_kernels.gpu import warpgroup as wg
from ar1_kernels.packed import Seen


def refusal(dtype, width: int, kind: str) -> str | None:
    """Why these kernels cannot run for operands of `dtype` and head width on a device of `kind` ("": unknown)."""
    if jnp.dtype(dtype) != jnp.bfloat16:
        return f"they take bfloat16, not {jnp.dtype(dtype).name}: the matrix unit would round float32 to tf32"
    if width > 128:
        return (
            f"head width {width} is more than 128: a tile's sum would not fit the registers or tensor memory"
        )
    return products.refusal(kind)


def check(q, scale):
    """ValueError for operands that `refusal` names, and for a scale <= 0: the peak is of raw scores."""
    reason = refusal(q.dtype, q.shape[-1], "")
    if reason:
        raise ValueError(f"pallas_gpu: {reason}")
    if scale <= 0:
        raise ValueError(f"pallas_gpu: scale={scale} is not positive")


def seen_blocks(seen: Seen, keys: int, rows_block: int, keys_block: int):
    """Which blocks of keys a block of rows sees, and sees wholly: bool [B, row blocks, key blocks] each.

    seen: with rows and key ids that fill their blocks.
    """
    n = -(-keys // keys_block)
    limit = seen.limit.reshape(len(seen.limit), -1, rows_block)
    first = jnp.arange(n) * keys_block
    sees = first < limit.max(-1)[..., None]
    whole = first + keys_block <= limit.min(-1)[..., None]
    if seen.row_ids is not None:
        rows = seen.row_ids.reshape(limit.shape)
        ids = seen.key_ids.reshape(len(limit), 1, -1, keys_block)[:, :, :n]
        low, high = rows.min(-1)[..., None], rows.max(-1)[..., None]
        sees &= (low <= ids.max(-1)) & (ids.min(-1) <= high)
        whole &= (low == high) & (ids.min(-1) == low) & (ids.max(-1) == high)
    return sees, whole


def walk(sees, whole, masked_first: bool):
    """Start, change and end of a walk over the last axis of bool [..., n] -> int32 [..., 3].

    The walk covers every block seen; before `change` (masked_first: from it on) every block is seen wholly.
    """
    n = sees.shape[-1]
    at = jnp.arange(n)
    start = jnp.min(jnp.where(sees, at, n), axis=-1)
    stop = jnp.max(jnp.where(sees, at + 1, 0), axis=-1)
    start = jnp.minimum(start, stop)
    inside = (at >= start[..., None]) & (at < stop[..., None])
    if masked_first:
        change = jnp.max(jnp.where(inside & ~whole, at + 1, start[..., None]), axis=-1)
    else:
        change = jnp.min(jnp.where(inside & ~whole, at, stop[..., None]), axis=-1)
    return jnp.stack([start, change, stop], axis=-1).astype(jnp.int32)


def prepare(x, interpret, block, rows=None):
    """[..., n, E] as TMA takes it: E in whole steps of 16 of the matrix units, n in tiles of 8, or `rows` of them where
    given.

    The interpreter does not fill with zeros behind an array's end as TMA does: whole blocks for it.
    """
    rows = rows or wg.round_up(x.shape[-2], block if interpret else 8)
    return wg.pad(wg.pad(x, -1, wg.round_up(x.shape[-1], 16)), -2, rows)


def padded(seen: Seen, rows, keys):
    """`seen` grown to whole blocks by copies of the last row and key: the blocks see what they saw."""
    grow = lambda x, size: None if x is None else wg.pad(x.astype(jnp.int32), 1, size, "edge")
    return Seen(grow(seen.limit, rows), grow(seen.row_ids, rows), grow(seen.key_ids, keys))


def mask(limit, ids, first_key, shape):
    """Of a score tile [rows, keys]: key below limit [rows] and, with ids ([rows], [keys]), of the row's segment."""
    live = lax.broadcasted_iota(jnp.int32, shape, 1) + first_key < products.down(limit, shape)
    if ids is not None:
        live &= products.down(ids[0], shape) == products.across(ids[1], shape)
    return live
