"""The flow-matching action expert: a vector field over A controls that reads the decoder's cache layer by layer.

B scenes, K samples, A controls, D expert width. Flow time tau: 0 is noise, 1 is data. Everything here is float32 in
and out (inference.md section 8).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.models import layers
from ar1_jax.models.config import ExpertConfig, ModelConfig
from ar1_jax.models.decoder import Decoder, Past


def frequencies(config: ExpertConfig) -> np.ndarray:
    """float32 [features / 2], log-spaced from 1 to max_frequency unless the checkpoint brings its own."""
    if config.frequencies is not None:
        return np.asarray(config.frequencies, np.float32)
    return np.logspace(0.0, math.log10(config.max_frequency), config.fourier_features // 2).astype(np.float32)


def fourier(z, frequency):
    """z [...] -> [..., 2 · frequencies]: sqrt(2) · (sin, cos) of z · 2π at each frequency."""
    angle = z[..., None] * frequency * 2 * math.pi
    return math.sqrt(2) * jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Encoder(nn.Module):
    """Linear, then (SiLU, RMSNorm, Linear) per layer; `trunk_i` is the checkpoint's trunk.i."""

    config: ExpertConfig

    @nn.compact
    def __call__(self, x):
        c = self.config
        x = layers.Linear(c.in_hidden_size, use_bias=True, name="trunk_0")(x)
        for layer in range(c.in_layers):
            width = c.hidden_size if layer == c.in_layers - 1 else c.in_hidden_size
            x = layers.RMSNorm(1e-5, name=f"trunk_{3 * layer + 2}")(nn.silu(x))
            x = layers.Linear(width, use_bias=True, name=f"trunk_{3 * layer + 3}")(x)
        return x


class ActionIn(nn.Module):
    """x [B, K, A, 2] normalised controls, tau [B, K] -> tokens [B, K, A, D]."""

    config: ExpertConfig

    @nn.compact
    def __call__(self, x, tau):
        c = self.config
        wave = lambda z: fourier(z, frequencies(c))
        tau = jnp.broadcast_to(tau[..., None], x.shape[:-1])
        features = jnp.concatenate([wave(x[..., 0]), wave(x[..., 1]), wave(tau)], axis=-1)
        return layers.LayerNorm(1e-5, name="norm")(Encoder(c, name="encoder")(features))


def velocity(config: ModelConfig, params, x, tau, past: Past, start):
    """The vector field at x [B, K, A, 2], tau [B, K], given the past -> float32 [B, K, A, 2].

    start: int [B, K], position of the first action token (the trigger's position plus one, on all axes).
    past.suffix_length cuts each sequence's cache after its trigger. The A tokens see each other both ways.
    """
    text = config.expert_text()
    tokens = ActionIn(config.expert).apply({"params": params["action_in_proj"]}, x.astype(jnp.float32), tau)
    positions = jnp.broadcast_to(start[..., None] + jnp.arange(x.shape[2]), (3, *x.shape[:3]))
    decoder = Decoder(text, causal=False, remat=config.remat, kernels=config.kernels)
    hidden, _ = decoder.apply({"params": params["expert"]}, tokens, positions, past)
    out = layers.Linear(2, use_bias=True).apply({"params": params["action_out_proj"]}, hidden)
    return out.astype(jnp.float32)


def integrate(field, noise, steps: int, integrator: str = "euler"):
    """The flow from noise [B, K, A, 2] at tau 0 to tau 1 in `steps`: (x, x after 0..steps [steps + 1, B, K, A, 2]).

    field(x, tau [B, K]) -> velocity. "euler" asks for the field at the start of a step, "midpoint" twice a step.
    """
    if integrator not in ("euler", "midpoint"):
        raise ValueError(f"integrator={integrator!r} is not one of euler, midpoint")
    times = np.linspace(0.0, 1.0, steps + 1).astype(np.float32)

    def step(x, span):
        at = lambda tau: jnp.full(x.shape[:2], tau)
        width = span[1] - span[0]
        v = field(x, at(span[0]))
        if integrator == "midpoint":
            v = field(x + 0.5 * width * v, at(span[0] + 0.5 * width))
        x = x + width * v
        return x, x

    last, every = jax.lax.scan(step, noise, jnp.stack([times[:-1], times[1:]], axis=1))
    return last, jnp.concatenate([noise[None], every])
