"""Compiles the operations for a TPU that is not here, at the shapes of the 10B model; a script, one JSON object a line.

    python tests/kernels/ahead_tpu.py v5e [part of a case's name ...]

needs jax, libtpu and nothing of a TPU. The kernels get the VMEM that their own arithmetic says they need, not a byte
more, so that a compilation also proves the arithmetic.
"""

import json
import math
import re
import sys
import time

import ahead


def attention_cases(jnp, shape, ops):
    """name -> (function, shapes); shape(*dimensions, dtype=bfloat16)."""
    import jax

    def attention(batch, n, heads, kv_heads, width, *, causal, segments=False, dtype=jnp.bfloat16):
        run = lambda q, k, v, ids=None: ops.attention(
            q, k, v, causal=causal, segment_ids=ids, backend="pallas_tpu"
        )
        q, k = shape(batch, n, heads, width, dtype=dtype), shape(batch, n, kv_heads, width, dtype=dtype)
        return run, (q, k, k, *([shape(batch, n, dtype=jnp.int32)] if segments else []))

    def shared(scenes, samples, n, suffix, causal, prefix=3000, heads=32, kv_heads=8, width=128):
        def run(q, prefix_k, prefix_v, own_k, own_v, length, *suffixes):
            suffixes = suffixes and dict(zip(("suffix_k", "suffix_v", "suffix_length"), suffixes))
            return ops.shared_prefix_attention(
                q, prefix_k, prefix_v, prefix_length=length, causal=causal, own_k=own_k, own_v=own_v,
                heads_first=True, backend="pallas_tpu", **dict(suffixes),
            )  # fmt: skip

        q, own = shape(scenes, samples, n, heads, width), shape(scenes, samples, n, kv_heads, width)
        k, more = shape(scenes, kv_heads, prefix, width), shape(scenes, samples, kv_heads, suffix, width)
        lengths = shape(scenes, dtype=jnp.int32), shape(scenes, samples, dtype=jnp.int32)
        return run, (q, k, k, own, own, lengths[0], *([more, more, lengths[1]] if suffix else []))

    def back(case):
        run, shapes = case
        floats = sum(x.dtype != jnp.int32 for x in shapes)

        def pull(do, *args):
            return jax.vjp(lambda *x: run(*x, *args[floats:]), *args[:floats])[1](do)

        return pull, (shapes[0], *shapes)

    prefill = attention(1, 3072, 32, 8, 128, causal=True)
    images = attention(16, 720, 16, 16, 72, causal=False)
    packed = attention(1, 11_520, 16, 16, 72, causal=False, segments=True)
    learner = shared(1, 12, 300, 0, True)
    return {
        "prefill": prefill, "prefill backward": back(prefill),
        "prefill float32": attention(1, 3072, 32, 8, 128, causal=True, dtype=jnp.float32),
        "images": images, "images backward": back(images),
        "packed images": packed, "packed images backward": back(packed),
        "decode 1": shared(1, 16, 1, 256, True), "decode 8": shared(8, 16, 1, 256, True),
        "expert": shared(1, 16, 64, 256, False), "learner 180": shared(1, 12, 180, 0, True),
        "learner 300": learner, "learner 300 backward": back(learner),
    }  # fmt: skip


def main(chip: str, names: list[str]):
    import ar1_kernels as ops
    import jax
    import jax.numpy as jnp
    from ar1_kernels import backend
    from ar1_kernels.tpu import flash
    from jax.experimental.pallas import tpu as pltpu

    device, platform, kind = ahead.device(chip)
    place = jax.sharding.SingleDeviceSharding(device)
    shape = lambda *s, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(s, dtype, sharding=place)
    needs = []

    def exactly(need):
        needs.append(need)
        return pltpu.CompilerParams(dimension_semantics=flash.ORDER, vmem_limit_bytes=need)

    flash.params = exactly
    for name, (function, shapes) in attention_cases(jnp, shape, ops).items():
        if names and not any(part in name for part in names):
            continue
        needs.clear()
        began = time.perf_counter()
        with backend.tracing_for(platform, kind):
            compiled = jax.jit(function).trace(*shapes).lower().compile()
        memory, text = compiled.memory_analysis(), compiled.as_text()
        report = {
            "case": name, "seconds": round(time.perf_counter() - began, 1), "kernels": text.count("tpu_custom_call"),
            "vmem": list(needs), "temporaries": memory.temp_size_in_bytes, "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes, "code": memory.generated_code_size_in_bytes,
            "largest": max(math.prod(map(int, x.split(","))) for x in re.findall(r"[a-z]+\d+\[([\d,]+)\]", text)),
        }  # fmt: skip
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    ahead.prepare()
    main(sys.argv[1], sys.argv[2:])
