"""Compiles the attention kernels for a GPU that is not here, at the shapes of the 10B model; a script.

A JSON object a line: registers, spilled bytes and matrix instructions of each kernel, bytes of temporaries, elements of
the largest buffer.

    python tests/kernels/ahead_gpu.py h200 prefill decode_1

needs jax with jax-cuda13-plugin and jax-cuda13-pjrt, and nothing of the chip.
"""

import functools
import json
import math
import re
import sys
import tempfile

import ahead


def cases():
    """Name -> function and argument shapes."""
    import jax.numpy as jnp
    from ar1_kernels.gpu import flash, shared

    from tests.kernels.test_gpu_flash import shapes
    from tests.kernels.test_gpu_shared import arguments

    forward = functools.partial(flash.forward, scale=0.1, out_dtype=jnp.bfloat16)
    backward = functools.partial(flash.backward, scale=0.1)
    share = lambda causal: functools.partial(shared.forward, causal=causal, scale=0.1)
    # batch, kv heads, rows (queries times group), width, keys, segments
    flat = {
        "prefill": (1, 8, 3072 * 4, 128, 3072, False),
        "vision": (16, 16, 720, 72, 720, False),
        "packed": (1, 16, 11_520, 72, 11_520, True),
        "learner_prefix": (1, 8, 12 * 300 * 4, 128, 3000, False),
    }
    # batch, kv heads, sequences, rows, width, prefix, suffix, own
    few = {
        "decode_1": (1, 8, 16, 4, 128, 3000, 256, 1),
        "decode_8": (8, 8, 16, 4, 128, 3000, 256, 1),
        "expert": (1, 8, 16, 256, 128, 3000, 256, 64),
        "learner_180": (1, 8, 12, 720, 128, 3000, 0, 180),
        "learner_300": (1, 8, 12, 1200, 128, 3000, 0, 300),
    }
    found = {name: (forward, shapes(*shape)[:4]) for name, shape in flat.items()}
    found |= {f"{name}_backward": (backward, shapes(*shape)) for name, shape in flat.items()}
    return found | {name: (share(name != "expert"), arguments(*shape)) for name, shape in few.items()}


def main(chip, names, dump):
    import jax
    from ar1_kernels import backend

    device, platform, kind = ahead.device(chip)
    place = jax.sharding.SingleDeviceSharding(device)
    for name, (f, args) in cases().items():
        if names and name not in names:
            continue
        args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args)
        with backend.tracing_for(platform, kind):
            program = jax.jit(f).trace(*args).lower().compile()
        sizes = (math.prod(map(int, s.split(","))) for s in re.findall(r"\w\[([\d,]+)\]", program.as_text()))
        print(json.dumps({
            "case": name, "kernels": ahead.assembler(dump), "largest": max(sizes),
            "temporaries": program.memory_analysis().temp_size_in_bytes}), flush=True)  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        ahead.prepare(folder)
        main(sys.argv[1], sys.argv[2:], folder)
