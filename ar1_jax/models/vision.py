"""Qwen3-VL vision tower: patches -> image tokens and DeepStack features (inference.md section 2).

I images of one grid (rows gh, columns gw), P = gh·gw patches in merge-block order, D width, H heads, E head width,
M = P/4 merged tokens, O the decoder's width. Images of other grids are other calls; attention never crosses images.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ar1_kernels import attention

from ar1_jax.models import layers, rotary
from ar1_jax.models.config import VisionConfig


def merge_order(rows: int, columns: int, merge: int = 2) -> np.ndarray:
    """Row-major patch index of every token in merge-block order, int [rows·columns]."""
    index = np.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
    return index.transpose(0, 2, 1, 3).reshape(-1)


def position_table(table, rows: int, columns: int, merge: int = 2):
    """The learned square table [n², D], bilinear at rows × columns, in merge-block order: [P, D] in its dtype."""
    side = int(round(table.shape[0] ** 0.5))
    down, right = (_even_steps(side - 1, n) for n in (rows, columns))
    low_down, low_right = down.astype(np.int32), right.astype(np.int32)
    high_down, high_right = (np.minimum(low + 1, side - 1) for low in (low_down, low_right))
    part_down, part_right = (down - low_down)[:, None], (right - low_right)[None]
    one = np.float32(1)
    total = 0.0
    for r, c, weight in (
        (low_down, low_right, (one - part_down) * (one - part_right)),
        (low_down, high_right, (one - part_down) * part_right),
        (high_down, low_right, part_down * (one - part_right)),
        (high_down, high_right, part_down * part_right),
    ):
        index = (r[:, None] * side + c[None]).reshape(-1)
        total = total + table[index] * jnp.asarray(weight.reshape(-1, 1), table.dtype)
    return total[merge_order(rows, columns, merge)]


def _even_steps(last: int, count: int) -> np.ndarray:
    """`count` even steps from 0 to `last` in float32, the upper half counted from the end as torch.linspace does."""
    step = np.float32(last) / np.float32(max(count - 1, 1))
    index = np.arange(count, dtype=np.float32)
    return np.where(index < count // 2, step * index, np.float32(last) - step * (count - 1 - index)).astype(
        np.float32
    )


class Attention(nn.Module):
    """Bidirectional attention inside each image; q, k and v from one fused projection."""

    heads: int
    kernels: str

    @nn.compact
    def __call__(self, x, cos, sin):
        width = x.shape[-1]
        qkv = layers.Linear(3 * width, use_bias=True, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:-1], 3, self.heads, width // self.heads), -3, 0)
        turn = lambda y: rotary.rotate(y.astype(jnp.float32), cos, sin).astype(y.dtype)
        out = attention(turn(q), turn(k), v, causal=False, backend=self.kernels)
        return layers.Linear(width, use_bias=True, name="proj")(out.reshape(x.shape))


class Mlp(nn.Module):
    """Two linear layers with tanh GELU."""

    hidden: int

    @nn.compact
    def __call__(self, x):
        y = layers.Linear(self.hidden, use_bias=True, name="linear_fc1")(x)
        return layers.Linear(x.shape[-1], use_bias=True, name="linear_fc2")(nn.gelu(y, approximate=True))


class Block(nn.Module):
    """Pre-norm block; after it the taps buffer [taps, I, P, D] receives x where its index is a tap."""

    config: VisionConfig
    kernels: str

    @nn.compact
    def __call__(self, carry, index, cos, sin):
        x, taps = carry
        look = Attention(self.config.num_heads, self.kernels, name="attn")
        x = x + look(layers.LayerNorm(name="norm1")(x), cos, sin)
        x = x + Mlp(self.config.intermediate_size, name="mlp")(layers.LayerNorm(name="norm2")(x))
        here = jnp.asarray(self.config.deepstack_visual_indexes) == index
        write = lambda taps: jnp.where(here[:, None, None, None], x[None], taps)
        return (x, jax.lax.cond(here.any(), write, lambda taps: taps, taps)), None


class Merger(nn.Module):
    """2 × 2 patches -> one token: norm before or after the grouping, two linear layers with exact GELU."""

    out: int
    group: int
    norm_after: bool

    @nn.compact
    def __call__(self, x):
        """x [..., P, D] -> [..., P/4, O]."""
        merged = x.shape[-1] * self.group
        shape = (*x.shape[:-2], x.shape[-2] // self.group, merged)
        norm = layers.LayerNorm(name="norm")
        x = norm(x.reshape(shape)) if self.norm_after else norm(x).reshape(shape)
        x = nn.gelu(layers.Linear(merged, use_bias=True, name="linear_fc1")(x), approximate=False)
        return layers.Linear(self.out, use_bias=True, name="linear_fc2")(x)


class PatchEmbed(nn.Module):
    """The 3-D convolution with kernel = stride, as one product on flattened patches."""

    width: int

    @nn.compact
    def __call__(self, x):
        return layers.Linear(self.width, use_bias=True, name="proj")(x)


class VisionTower(nn.Module):
    """pixels [I, P, patch values] of one grid -> tokens [I, M, O], DeepStack features [taps, I, M, O]."""

    config: VisionConfig
    remat: bool = False
    kernels: str = "auto"

    @nn.compact
    def __call__(self, pixels, grid: tuple[int, int]):
        c = self.config
        group = c.spatial_merge_size**2
        table = self.param(
            "pos_embed", nn.initializers.normal(0.02), (c.num_position_embeddings, c.hidden_size)
        )
        x = PatchEmbed(c.hidden_size, name="patch_embed")(pixels.astype(table.dtype))
        x = x + position_table(table, *grid, c.spatial_merge_size).astype(x.dtype)
        order = merge_order(*grid, c.spatial_merge_size)
        cos, sin = rotary.vision_rotary(order // grid[1], order % grid[1], c.hidden_size // c.num_heads)
        taps = jnp.zeros((len(c.deepstack_visual_indexes), *x.shape), x.dtype)
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        blocks = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast), length=c.depth,
        )  # fmt: skip
        (x, taps), _ = blocks(c, self.kernels, name="blocks")((x, taps), jnp.arange(c.depth), cos, sin)
        tokens = Merger(c.out_hidden_size, group, norm_after=False, name="merger")(x)
        mergers = nn.vmap(Merger, variable_axes={"params": 0}, split_rngs={"params": True})
        deep = mergers(c.out_hidden_size, group, norm_after=True, name="deepstack_merger_list")(taps)
        return tokens, deep
