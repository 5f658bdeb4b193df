"""Weights in eight bits: the layers' kernels of vision tower, decoder and expert, one scale an output channel.

Only weights: activations, norms, embeddings, the output head and the small projections of the actions stay as they
are, and products accumulate in float32. Quantising and multiplying is qwix's; the result is an array container among
the parameters that `models.layers.product` knows. (qwix's PtqProvider is not used: on layers stacked by a scan its
`quantize_params` gives all layers one scale, and the scan refuses it.)
"""

import jax
import jax.numpy as jnp

from ar1_jax.core import errors, trees

QTYPES = {"int8": "int8", "fp8": "float8_e4m3fn"}
KERNELS = (
    r"vlm/model/language_model/layers/.*/kernel",
    r"vlm/model/visual/(blocks|merger|deepstack_merger_list)/.*/kernel",
    r"expert/layers/.*/kernel",
)
FP8_CAPABILITY = 8.9  # CUDA compute capability from which a GPU has eight-bit floats


def check(kind: str, mesh=None) -> None:
    """ConfigError where `kind` is unknown, cannot help on this machine, or the library for it is absent."""
    errors.one_of(kind, QTYPES, "quantization")
    if mesh is not None:
        raise errors.ConfigError(f"quantization={kind!r}: not together with mesh=; load on one device")
    if kind == "fp8":
        device = jax.devices()[0]
        if device.platform != "gpu" or float(device.compute_capability) < FP8_CAPABILITY:
            raise errors.ConfigError(
                f"quantization='fp8': {device.device_kind} has no eight-bit floats, a GPU of compute capability "
                f"{FP8_CAPABILITY} or newer does; int8 runs everywhere"
            )
    library()


def library():
    """The package qwix; ConfigError that says how to get it."""
    try:
        import qwix
    except ImportError as error:
        raise errors.ConfigError(
            "quantization needs the package qwix: pip install 'ar1-jax[quantize]', or pip install qwix"
        ) from error
    return qwix


def quantize(params, kind: str):
    """Parameters [..., in, out] whose paths match KERNELS become quantised containers; the rest is the same arrays.

    Scales are per layer (and tap) and output channel, in the parameter's dtype."""
    qwix, qtype = library(), jnp.dtype(QTYPES[kind])

    def one(path, x):
        if not matches(path):
            return x
        channels = tuple(axis for axis in range(x.ndim) if axis != x.ndim - 2)
        return qwix.quantize(x, qtype, channelwise_axes=channels)

    return trees.map_with_path(one, params)


def matches(path: str) -> bool:
    """Is the parameter of this path one that is quantised?"""
    return any(trees.matches(pattern, path) for pattern in KERNELS)


def is_quantized(x) -> bool:
    """Is it a quantised kernel? (for `is_leaf`)"""
    return hasattr(x, "qvalue")


def any_quantized(params) -> bool:
    """Does the tree hold a quantised kernel?"""
    return any(is_quantized(x) for x in jax.tree.leaves(params, is_leaf=is_quantized))
