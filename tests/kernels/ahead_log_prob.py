"""Compiles linear_log_prob for a chip that is not here, at the shape of the 10B model; a script, a JSON object a line.

    python tests/kernels/ahead_log_prob.py v5e bfloat16

needs jax with libtpu (v5e, v6e, v5p, tpu7x) or with jax-cuda13-plugin and jax-cuda13-pjrt (h100, h200, b200), and
nothing of the chip. A line of a GPU says what its assembler says of the kernels that no earlier line has: registers,
spills, matrix instructions.
"""

import json
import sys
import tempfile
import time

import ahead

ROWS, WIDTH, VOCABULARY = 3200, 4096, 155_697


def main(chip: str, dtype: str, dump: str):
    import ar1_kernels as ops
    import jax
    import jax.numpy as jnp
    from ar1_kernels import backend

    place, platform, kind = ahead.device(chip)
    shape = lambda *s, dtype=dtype: jax.ShapeDtypeStruct(
        s, dtype, sharding=jax.sharding.SingleDeviceSharding(place)
    )
    name = {"tpu": "pallas_tpu", "gpu": "pallas_gpu"}[platform]

    def forward(hidden, weight, labels, temperature, allowed):
        rest = {"temperature": temperature, "allowed": allowed, "entropy": True, "backend": name}
        return ops.linear_log_prob(hidden, weight, labels, **rest)

    def both(hidden, weight, labels, temperature, allowed, g, e):
        out, back = jax.vjp(lambda h, w: forward(h, w, labels, temperature, allowed), hidden, weight)
        return out, back((g, e))

    row = shape(ROWS, dtype=jnp.float32)
    args = shape(ROWS, WIDTH), shape(WIDTH, VOCABULARY), shape(ROWS, dtype=jnp.int32), row
    args += (shape(ROWS, 2, dtype=jnp.int32),)
    for case, function, given in (("forward", forward, args), ("both", both, (*args, row, row))):
        began = time.perf_counter()
        with backend.tracing_for(platform, kind):
            compiled = jax.jit(function).trace(*given).lower().compile()
        memory = compiled.memory_analysis()
        report = {
            "case": case, "seconds": round(time.perf_counter() - began, 1), "temporaries": memory.temp_size_in_bytes,
            "arguments": memory.argument_size_in_bytes, "results": memory.output_size_in_bytes,
            "code": memory.generated_code_size_in_bytes, "kernels": ahead.assembler(dump),
        }  # fmt: skip
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        ahead.prepare(folder)
        main(sys.argv[1], sys.argv[2], folder)
