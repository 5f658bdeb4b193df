"""Chips that are not here, as jax describes them, and what their compilers say: shared by the scripts ahead_*.py.

Those run in an interpreter of their own (AR1_AHEAD_PYTHON), and call `prepare` before they import jax.
"""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TPU = {  # topology, kind as jax names the device
    "v4": ("v4:2x2x1", "TPU v4"),
    "v5e": ("v5e:2x2", "TPU v5 lite"),
    "v5p": ("v5p:2x2x1", "TPU v5"),
    "v6e": ("v6e:2x2", "TPU v6 lite"),
    "tpu7x": ("tpu7x:2x2x1", "TPU7x"),
}
GPU = {  # kind, compute capability (two), multiprocessors, bytes of level-2 cache, bytes of memory, bytes a second
    "h100": ("NVIDIA H100 80GB HBM3", 9, 0, 132, 52_428_800, 84_942_979_072, 3_352_320_000_000),
    "h200": ("NVIDIA H200", 9, 0, 132, 52_428_800, 151_397_597_184, 4_800_000_000_000),
    "b200": ("NVIDIA B200", 10, 0, 148, 132_644_864, 191_514_411_008, 7_672_320_000_000),
    "b300": (
        "NVIDIA B300",
        10,
        3,
        148,
        132_644_864,
        191_514_411_008,
        7_672_320_000_000,
    ),  # but for the minor, B200's
}
PRODUCTS = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}  # unit -> instruction
DESCRIPTION = """gpu_device_info {{ threads_per_block_limit:1024 threads_per_warp:32 shared_memory_per_block:49152
  shared_memory_per_core:233472 threads_per_core_limit:2048 core_count:{cores} fpus_per_core:128
  block_dim_limit_x:2147483647 block_dim_limit_y:65535 block_dim_limit_z:65535 memory_bandwidth:{bandwidth}
  l2_cache_size:{cache} clock_rate_ghz:1.98 device_memory_size:{memory} shared_memory_per_block_optin:232448
  cuda_compute_capability {{ major:{major} minor:{minor} }}
  registers_per_core_limit:65536 registers_per_block_limit:65536
  thread_dim_limit_x:1024 thread_dim_limit_y:1024 thread_dim_limit_z:64 }}
platform_name:"CUDA" dnn_version_info {{ major:9 minor:10 patch:0 }} device_description_str:"{kind}" """


def prepare(dump=None):
    """The process before it imports jax: it must look for no chip, and finds the repository; dump: folder in which the
    GPU's assembler leaves what it says."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    }  # fmt: skip
    if dump is not None:
        os.environ |= {
            "MOSAIC_GPU_DUMP_PTX": "1",
            "MOSAIC_GPU_DUMP_PTXAS": "1",
            "MOSAIC_GPU_DUMP_TO": str(dump),
        }
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]


def device(chip):
    """The chip as jax describes it, its platform and kind."""
    from jax.experimental import topologies

    if chip in TPU:
        topology, kind = TPU[chip]
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0], "tpu", kind
    config = DESCRIPTION.format(
        **dict(zip(("kind", "major", "minor", "cores", "cache", "memory", "bandwidth"), GPU[chip]))
    )
    found = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=config)
    return found.devices[0], "gpu", GPU[chip][0]


def assembler(folder):
    """Kernel -> what ptxas said of it since the last call and how often it multiplies. One that this process has
    assembled for an earlier program is not assembled again, so not said again."""
    found = {}
    for path in sorted(Path(folder).glob("*.ptxas")):
        said, code = path.read_text(), path.with_suffix(".ptx").read_text()
        found[re.sub(r"_\d+$", "", path.stem)] = {
            "registers": int(re.search(r"Used (\d+) registers", said)[1]),
            "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
            "products": {unit: code.count(call) for unit, call in PRODUCTS.items() if call in code},
        }
    for path in Path(folder).iterdir():
        path.unlink()
    return found
