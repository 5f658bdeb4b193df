"""Times the stages of one plan in a process that does nothing else: `python -m ar1_jax.evaluate.timing WORKLOAD`.

WORKLOAD is JSON with the fields of `workload.Workload`; the last line printed is JSON with seconds of every repeat,
peak memory and the machine's own rates. `--compile` only fills jax's compile cache, without any weights, so that the
process that measures neither compiles nor holds a compiler's memory.
"""

import functools
import json
import os
import pathlib
import re
import resource
import sys
import time

import jax
import jax.numpy as jnp

from ar1_jax.evaluate import workload
from ar1_jax.models import alpamayo, expert
from ar1_jax.policy import policy as policies
from ar1_jax.policy import sampling

COPY_BYTES, MATRIX = 2**28, 2048


@functools.partial(jax.jit, static_argnums=(0, 1))
def flow(model, steps: int, params, prefix, suffix, used, noise):
    """Normalised actions [1, K, A, 2] from noise, as `policy.flow`."""
    field = lambda x, tau: alpamayo.flow_velocity(model, params, prefix, suffix, used, x, tau)
    return expert.integrate(field, noise, steps)[0]


def run_stages(load: workload.Workload, model, params, prompt, clock):
    """One plan stage by stage; clock(name, function, *arguments, **options) runs each and returns its result.

    The programs are those of `policy.plan`: caches with the workload's room, of which a limit uses its tokens."""
    k, n = load.samples, load.tokens
    seen = clock("vision", policies.look, model, params, prompt.pixels, prompt.grids)
    prefix = clock("prefill", policies.prefill, model, params, prompt, seen)
    keys = jax.random.split(jax.random.key(0), 1)  # greedy: never drawn from
    done = clock("decode", sampling.sample, model, workload.endless(model), params, prefix, keys, samples=k,
                 length=load.room, greedy=True, limit=n)  # fmt: skip
    if model.expert is not None:
        used, noise = jnp.full((1, k), n, jnp.int32), jnp.zeros((1, k, model.actions, 2))
        clock("flow", flow, model, load.steps, params, prefix, done.suffix, used, noise)
    return done


def compile_stages(load: workload.Workload) -> None:
    """Compiles every stage from shapes alone; the compile cache keeps them."""
    model, marks = workload.model_of(load)
    params = workload.shapes_of(load, model)
    params = jax.eval_shape(alpamayo.by_layer, params) if jax.default_backend() == "cpu" else params
    prompt = workload.prompt_of(load, model, marks)

    def clock(name, stage, *arguments, **options):
        stage.lower(*arguments, **options).compile()
        return stage.eval_shape(*arguments, **options)

    run_stages(load, model, params, prompt, clock)


def measure(load: workload.Workload) -> dict:
    """Seconds of every stage and repeat (wall and processor), peak bytes before and after, rates of the machine."""
    model, marks = workload.model_of(load)
    prompt = workload.prompt_of(load, model, marks)
    params = workload.params_of(load, model)
    params = alpamayo.by_layer(params) if jax.default_backend() == "cpu" else params
    runs: list[dict] = []

    def clock(name, stage, *arguments, **options):
        wall, busy = time.perf_counter(), time.process_time()
        out = jax.block_until_ready(stage(*arguments, **options))
        runs[-1][name] = (time.perf_counter() - wall, time.process_time() - busy)
        return out

    weights = peak_bytes()
    for repeat in range(load.repeats + 1):  # the first warms up
        runs.append({})
        done = run_stages(load, model, params, prompt, clock)
        print(f"K={load.samples} {'warm-up' if not repeat else f'repeat {repeat}/{load.repeats}'}: "
              + ", ".join(f"{name} {wall:.2f} s" for name, (wall, _) in runs[-1].items()), flush=True)  # fmt: skip
    peak = peak_bytes()
    return {
        "engine": "ours", "workload": vars(load), "device": jax.devices()[0].device_kind,
        "seconds": [{name: wall for name, (wall, _) in run.items()} for run in runs[1:]],
        "processor_seconds": [{name: busy for name, (_, busy) in run.items()} for run in runs[1:]],
        "tokens": [int(x) for x in done.lengths.reshape(-1)], "ids": done.ids[0, :, : load.tokens].tolist(),
        "peak_bytes": peak, "peak_bytes_loaded": weights, "rates": rates(load.dtype),
    }  # fmt: skip


def peak_bytes() -> int:
    """Most memory this process held so far: of the device where it counts, else resident."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", resident_peak())


def resident_peak() -> int:
    """Most memory that was resident for this program, in bytes.

    ru_maxrss is inherited over fork and exec, so a large parent would show through; VmHWM starts anew with exec."""
    status = pathlib.Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.M) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    return inherited_peak()


def inherited_peak() -> int:
    """ru_maxrss in bytes: the most memory of this process, or of the one that it was forked from."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rates(dtype: str) -> dict[str, float]:
    """What this machine reaches now: bytes/s of a copy (read and write counted) and FLOP/s of a square product."""
    x = jnp.zeros(COPY_BYTES // jnp.dtype(dtype).itemsize, dtype)
    m = jnp.full((MATRIX, MATRIX), 0.01, dtype)
    copy = fastest(jax.jit(lambda x: x + 1), x)
    product = fastest(jax.jit(lambda m: jnp.dot(m, m, preferred_element_type=jnp.float32)), m)
    return {"bytes": 2 * COPY_BYTES / copy, "flops": 2 * MATRIX**3 / product}


def fastest(function, x, times: int = 7) -> float:
    """Smallest wall time of a jitted function, in seconds."""
    best = float("inf")
    for _ in range(times + 1):
        start = time.perf_counter()
        jax.block_until_ready(function(x))
        best = min(best, time.perf_counter() - start)
    return best


def limit_threads(count: int) -> None:
    """Binds this process to `count` processors (0: all), before a back-end starts its threads."""
    if count and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def command(argv: list[str]) -> None:
    """The process: compile or measure."""
    load = workload.Workload(**json.loads(argv[0]))
    limit_threads(load.threads)
    if "--compile" in argv:
        compile_stages(load)
    else:
        print(json.dumps(measure(load)))


if __name__ == "__main__":
    command(sys.argv[1:])
