"""Our kernels at block sizes beside their table's: what fills the tables of `ar1_kernels.tpu` and `ar1_kernels.gpu`."""

import importlib
import itertools

from ar1_kernels import backend

from benchmarks.cases import Case
from benchmarks.providers import Provider, ours

ATTENTION = {
    "pallas_tpu": ("ar1_kernels.tpu.blocks", {"rows": (128, 256, 512), "keys": (256, 512, 1024, 2048)}),
    "pallas_gpu": ("ar1_kernels.gpu.blocks", {"consumers": (1, 2), "keys": (64, 128), "stages": (2, 3, 4)}),
}
SHARED = {
    "pallas_tpu": (
        "ar1_kernels.tpu.blocks",
        {"rows": (128, 256), "keys": (512, 1024, 2048), "suffix": (128, 256)},
    ),
    "pallas_gpu": (
        "ar1_kernels.gpu.blocks",
        {"consumers": (1, 2), "keys": (64, 128), "stages": (2, 4), "splits": (None, 1, 4, 8, 16)},
    ),
}
LOG_PROB = {
    "pallas_tpu": ("ar1_kernels.tpu.log_prob", {"rows": (512, 1024), "ids": (512, 1024), "part": (256, 512)}),
    "pallas_gpu": ("ar1_kernels.gpu.log_prob", {"ids": (128, 256), "depth": (64, 128), "stages": (2, 3, 4)}),
}
SIZES = {"attention": ATTENTION, "shared_prefix_attention": SHARED, "linear_log_prob": LOG_PROB}


def providers(case: Case, interpret: bool) -> dict[str, Provider]:
    """The table's own choice, then every combination of sizes; those that a kernel refuses are listed as refused."""
    here = backend.target().platform
    found = {"ours, auto": Provider(ours("auto", case))}
    for name, (module, sizes) in SIZES[case.operation].items():
        if not interpret and backend.PLATFORM[name] != here:
            continue
        for values in itertools.product(*sizes.values()):
            given = dict(zip(sizes, values, strict=True))
            words = " ".join(f"{field}={value}" for field, value in given.items())
            run = _late(case, name, module, given)
            found[f"ours, {name}, {words}"] = Provider(
                run, interpret=backend.PLATFORM[name] if interpret else None
            )
    return found


def _late(case: Case, name: str, module: str, given: dict):
    """The sizes are made when the way runs, so that those that a target does not allow are a refused way."""

    def run(**arrays):
        blocks = importlib.import_module(module).Blocks(**given)
        return ours(name, case, blocks=blocks)(**arrays)

    return run
