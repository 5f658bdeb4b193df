"""Linear, RMSNorm and LayerNorm with the checkpoint's parameter names and numerics.

Products accumulate in float32, and a weight in 16 bits meets inputs in 16 bits, as torch's autocast has it (the
expert's residual is float32: inference.md section 8.5); norms run in float32 and return in the input's dtype. Where the
parameters hold `lora_a` and `lora_b` beside a kernel (models/lora.py), the Linear adds their product.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def product(x, kernel):
    """x [..., in] · kernel [in, out] -> float32; kernel: an array, or a quantised one (policy/quantization.py)."""
    if not hasattr(kernel, "qvalue"):
        narrow = kernel.dtype if kernel.dtype.itemsize < x.dtype.itemsize else x.dtype
        return jnp.dot(x.astype(narrow), kernel, preferred_element_type=jnp.float32)
    import qwix  # only those who quantise need it

    return qwix.dot(x, kernel, preferred_element_type=jnp.float32)


class Linear(nn.Module):
    """x [..., in] -> [..., features]; kernel [in, features] (the checkpoint's weight, transposed)."""

    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        y = product(x, kernel)
        if self.has_variable("params", "lora_a"):
            a, b = (self.get_variable("params", name) for name in ("lora_a", "lora_b"))
            low = jnp.dot(x, a.astype(x.dtype), preferred_element_type=jnp.float32)
            y = y + jnp.dot(low, b, preferred_element_type=jnp.float32)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """x · rsqrt(mean(x²) + eps) in float32, back to x's dtype, times the weight."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return normal.astype(x.dtype) * weight


class LayerNorm(nn.Module):
    """Affine layer norm over the last axis, in float32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.epsilon)
        return (normal * weight + bias).astype(x.dtype)
