"""The Qwen3-VL decoder stack, shared by text model and flow expert (inference.md sections 3.1, 3.2, 8.1).

B scenes, K sequences a scene (1 while the prompt is read), N tokens, S prefix, L suffix, D width, H heads, J kv heads,
E head width. A layer reads the keys and values of the past and returns those of its own tokens; who keeps a cache
writes them there. The prefix is only ever read.

The layers are one scan over stacked parameters (training, accelerators) or, where the parameters are split by layer
(`alpamayo.by_layer`), a loop over them: a scan copies each layer's weights and cache before it reads them, which a
processor that decodes from memory pays with every token.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from ar1_kernels import attention, shared_prefix_attention

from ar1_jax.models import layers, rotary
from ar1_jax.models.config import TextConfig


@flax.struct.dataclass
class Cache:
    """Keys (normed and rotated) and values of every layer: [layers, B, S, J, E] or [layers, B, K, L, J, E].

    Of parameters split by layer each is a tuple of `layers` arrays without that axis. Who does not care counts axes
    from the end and maps over the tree. heads_first: [..., B, J, S, E] or [..., B, K, J, L, E], which every token reads
    as it is; so prefixes and the suffixes of a sampler are kept.
    """

    k: jax.Array | tuple[jax.Array, ...]
    v: jax.Array | tuple[jax.Array, ...]
    heads_first: bool = flax.struct.field(pytree_node=False, default=False)

    def layer(self, index: int) -> "Cache":
        """One layer's keys and values."""
        return self.replace(k=self.k[index], v=self.v[index])

    def by_head(self) -> "Cache":
        """Tokens before heads swapped to heads before tokens, if they are not yet."""
        if self.heads_first:
            return self
        swap = lambda c: c.swapaxes(-3, -2)
        return Cache(jax.tree.map(swap, self.k), jax.tree.map(swap, self.v), heads_first=True)

    def room(self, samples: int, length: int) -> "Cache":
        """Zeros for a suffix of L tokens of each of B x K rows behind this prefix: [..., B, K, J, L, E]."""

        def zeros(c):
            *lead, heads, _, width = c.shape
            return jnp.zeros((*lead, samples, heads, length, width), c.dtype)

        prefix = self.by_head()
        return Cache(jax.tree.map(zeros, prefix.k), jax.tree.map(zeros, prefix.v), heads_first=True)


@flax.struct.dataclass
class Past:
    """What tokens attend to besides themselves: a prefix per scene and, if there is one, a suffix per sequence.

    prefix: Cache of B scenes; prefix_length: int [B]. suffix: Cache of B x K sequences or None; suffix_length: int
    [B, K]. Either order of heads and tokens will do; heads first costs no transposition.
    """

    prefix: Cache
    prefix_length: jax.Array
    suffix: Cache | None = None
    suffix_length: jax.Array | None = None

    def layer(self, index: int) -> "Past":
        """What one layer reads."""
        suffix = None if self.suffix is None else self.suffix.layer(index)
        return self.replace(prefix=self.prefix.layer(index), suffix=suffix)


class Attention(nn.Module):
    """Self-attention of x [B, K, N, D] and on the past; returns the output and the tokens' own k, v [B, K, N, J, E]."""

    config: TextConfig
    causal: bool
    kernels: str

    @nn.compact
    def __call__(self, x, cos, sin, past: Past | None, lengths):
        c = self.config

        def project(name, heads):
            y = layers.Linear(heads * c.head_dim, name=name)(x)
            return y.reshape(*x.shape[:-1], heads, c.head_dim)

        q = layers.RMSNorm(c.rms_norm_eps, name="q_norm")(project("q_proj", c.num_attention_heads))
        k = layers.RMSNorm(c.rms_norm_eps, name="k_norm")(project("k_proj", c.num_key_value_heads))
        v = project("v_proj", c.num_key_value_heads)
        q, k = rotary.rotate(q, cos, sin), rotary.rotate(k, cos, sin)
        if past is None:
            own = (q[:, 0], k[:, 0], v[:, 0])
            out = attention(*own, causal=self.causal, lengths=lengths, backend=self.kernels)[:, None]
        else:
            prefix, suffix = past.prefix.by_head(), past.suffix and past.suffix.by_head()
            q, k, v = (y.astype(prefix.k.dtype) for y in (q, k, v))  # the expert's are float32
            out = shared_prefix_attention(
                q, prefix.k, prefix.v, *((suffix.k, suffix.v) if suffix else ()), prefix_length=past.prefix_length,
                suffix_length=past.suffix_length, causal=self.causal, own_k=k, own_v=v,
                heads_first=True, backend="auto" if self.kernels == "cudnn" else self.kernels,
            )  # fmt: skip
        out = layers.Linear(x.shape[-1], name="o_proj")(out.reshape(*x.shape[:-1], -1))
        return out, Cache(k, v)


class Mlp(nn.Module):
    """SwiGLU."""

    config: TextConfig

    @nn.compact
    def __call__(self, x):
        gate = layers.Linear(self.config.intermediate_size, name="gate_proj")(x)
        up = layers.Linear(self.config.intermediate_size, name="up_proj")(x)
        return layers.Linear(x.shape[-1], name="down_proj")(nn.silu(gate) * up)


class Block(nn.Module):
    """One layer; after it, while its index is below the number of taps, the DeepStack rows are added."""

    config: TextConfig
    causal: bool
    kernels: str

    @nn.compact
    def __call__(self, x, index, past, cos, sin, lengths, deep):
        """x [B, K, N, D]; past: this layer's, or None; deep [taps, B, K, N, D] -> x, own k and v."""
        eps = self.config.rms_norm_eps
        self.sow("intermediates", "hidden_states", x)
        out, own = Attention(self.config, self.causal, self.kernels, name="self_attn")(
            layers.RMSNorm(eps, name="input_layernorm")(x), cos, sin, past, lengths
        )
        x = x + out
        x = x + Mlp(self.config, name="mlp")(layers.RMSNorm(eps, name="post_attention_layernorm")(x))
        if deep is not None:
            add = lambda x: x + jax.lax.dynamic_index_in_dim(deep, index, keepdims=False).astype(x.dtype)
            x = jax.lax.cond(index < deep.shape[0], add, lambda x: x, x)
        return x, own


class Decoder(nn.Module):
    """x [B, K, N, D] at positions [3, B, K, N] -> normed hidden [B, K, N, D], the tokens' own Cache [layers, ...].

    past None: each row reads itself only, up to lengths [B] (K = 1). deep: DeepStack features laid out on the
    tokens, [taps, B, K, N, D], zero where there is no image. Parameters and Cache: stacked under `layers`, or
    split into `layers_0`, `layers_1`, ... and tuples.
    """

    config: TextConfig
    causal: bool = True
    remat: bool = False
    kernels: str = "auto"

    @nn.compact
    def __call__(self, x, positions, past: Past | None = None, lengths=None, deep=None):
        c = self.config
        cos, sin = rotary.mrope(positions, c.rope_theta, c.mrope_section)
        run = self._loop if self.has_variable("params", "layers_0") else self._scan
        x, own = run(x, past, cos, sin, lengths, deep)
        self.sow("intermediates", "last_hidden_state", x)
        return layers.RMSNorm(c.rms_norm_eps, name="norm")(x), own

    def _loop(self, x, past, cos, sin, lengths, deep):
        """Layer after layer over parameters split by layer."""
        own = []
        for i in range(self.config.num_hidden_layers):
            added = deep if deep is not None and i < deep.shape[0] else None
            block = Block(self.config, self.causal, self.kernels, name=f"layers_{i}")
            x, new = block(x, i, None if past is None else past.layer(i), cos, sin, lengths, added)
            own.append(new)
        return x, Cache(tuple(c.k for c in own), tuple(c.v for c in own))

    def _scan(self, x, past, cos, sin, lengths, deep):
        """One scan over stacked parameters; compiles in the time of one layer."""
        c = self.config
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        past_axes = nn.broadcast
        if past is not None:
            past_axes = Past(0, nn.broadcast, None if past.suffix is None else 0, nn.broadcast)
        stack = nn.scan(
            block, variable_axes={"params": 0, "intermediates": 0}, split_rngs={"params": True},
            in_axes=(0, past_axes, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.num_hidden_layers,
        )  # fmt: skip
        index = jnp.arange(c.num_hidden_layers)
        return stack(c, self.causal, self.kernels, name="layers")(x, index, past, cos, sin, lengths, deep)
