"""Compiles linear_log_prob for a chip that is not here, at the shape of the 10B model; a script, a JSON object a line.

    python tests/kernels/ahead_log_prob.py v5e bfloat16

needs jax with libtpu (v5e, v6e, v5p, tpu7x) or with jax-cuda13-plugin and jax-cuda13-pjrt (h100, h200), and nothing of
the chip. A line of a GPU says what its assembler says: registers, spills, wgmma instructions.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

TPU = {
    "v5e": ("v5e:2x2", "TPU v5 lite"),
    "v5p": ("v5p:2x2x1", "TPU v5"),
    "v6e": ("v6e:2x2", "TPU v6 lite"),
    "tpu7x": ("tpu7x:2x2x1", "TPU7x"),
}
GPU = {  # bytes of memory, bytes a second
    "h100": ("NVIDIA H100 80GB HBM3", 84_942_979_072, 3_352_320_000_000),
    "h200": ("NVIDIA H200", 151_397_597_184, 4_800_000_000_000),
}
DESCRIPTION = """gpu_device_info {{ threads_per_block_limit:1024 threads_per_warp:32 shared_memory_per_block:49152
  shared_memory_per_core:233472 threads_per_core_limit:2048 core_count:132 fpus_per_core:128
  block_dim_limit_x:2147483647 block_dim_limit_y:65535 block_dim_limit_z:65535 memory_bandwidth:{bandwidth}
  l2_cache_size:52428800 clock_rate_ghz:1.98 device_memory_size:{memory} shared_memory_per_block_optin:232448
  cuda_compute_capability {{ major:9 minor:0 }} registers_per_core_limit:65536 registers_per_block_limit:65536
  thread_dim_limit_x:1024 thread_dim_limit_y:1024 thread_dim_limit_z:64 }}
platform_name:"CUDA" dnn_version_info {{ major:9 minor:10 patch:0 }} device_description_str:"{kind}" """
ROWS, WIDTH, VOCABULARY = 3200, 4096, 155_697


def device(chip):
    """The chip as jax describes it, its platform and kind."""
    from jax.experimental import topologies

    if chip in TPU:
        topology, kind = TPU[chip]
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0], "tpu", kind
    kind, memory, bandwidth = GPU[chip]
    config = DESCRIPTION.format(kind=kind, memory=memory, bandwidth=bandwidth)
    found = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=config)
    return found.devices[0], "gpu", kind


def assembler(folder):
    """Kernel -> what ptxas said of it and how often it multiplies."""
    found = {}
    for path in sorted(Path(folder).glob("*.ptxas")):
        said = path.read_text()
        found[re.sub(r"_\d+$", "", path.stem)] = {
            "registers": int(re.search(r"Used (\d+) registers", said)[1]),
            "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
            "wgmma": path.with_suffix(".ptx").read_text().count("wgmma.mma_async"),
        }
    return found


def main(chip: str, dtype: str, dump: str):
    import ar1_kernels as ops
    import jax
    import jax.numpy as jnp
    from ar1_kernels import backend

    place, platform, kind = device(chip)
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
            "code": memory.generated_code_size_in_bytes, "kernels": assembler(dump),
        }  # fmt: skip
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {  # a machine without the chip must not look for it
            "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "MOSAIC_GPU_DUMP_PTX": "1", "MOSAIC_GPU_DUMP_PTXAS": "1",
            "MOSAIC_GPU_DUMP_TO": folder,
        }  # fmt: skip
        sys.path.insert(0, str(Path(__file__).parents[2] / "kernels"))
        main(sys.argv[1], sys.argv[2], folder)
