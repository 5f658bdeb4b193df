"""The command: `cd kernels && python -m benchmarks`; `--help` lists its options. Writes a table and its JSON."""

import argparse
import datetime
import json
import os
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import jaxlib
from ar1_kernels import counts

from benchmarks import check, report, sweep, timing
from benchmarks.cases import Case, cases
from benchmarks.providers import Provider, providers

HERE = pathlib.Path(__file__).parent


def row(case: Case, name: str, provider: Provider, want: dict, options) -> dict:
    """One line: checked, then timed. status: timed; failed, its numbers are off; refused, it does not run here."""
    dtype = jnp.dtype(options.dtype)
    cost = case.sizes.cost(dtype.itemsize, case.backward)
    line = {
        "case": case.name,
        "sizes": str(case.sizes),
        "way": name,
        "flops": cost.flops,
        "bytes": cost.bytes,
    }
    make = lambda key: provider.prepare(case.arguments(key, dtype))
    function = (
        check.outputs(case, provider.function, provider.total) if provider.checked else provider.function
    )
    try:
        with provider.tracing():
            sets = timing.rotating(make, options.cache)
            program = jax.jit(function).lower(**sets[0]).compile()
            got = jax.block_until_ready(program(**sets[0]))
            line["temporaries"] = getattr(program.memory_analysis(), "temp_size_in_bytes", 0)
            if provider.checked:
                output, line["error"], bound = check.errors(case, got, want, options.dtype)[0]
                if not line["error"] <= bound:
                    return line | {"status": "failed", "reason": f"error of {output} above {bound:g}"}
            del got, program
            found = timing.measure(function, sets, repeats=options.repeats, least=options.seconds)
    except Exception as e:  # whatever another's code raises where it does not run is the answer here
        return line | {
            "status": "refused",
            "reason": f"{type(e).__name__}: {e}".strip().splitlines()[0][:160],
        }
    line["seconds"] = found._asdict()
    if found.median < 0.9 * floor(cost):
        return line | {"status": "failed", "reason": "faster than the chip can be: not all of it ran"}
    return line | {"status": "timed"}


def floor(cost: counts.Cost) -> float:
    """Least seconds by the peaks of the device; 0 where they are unknown."""
    chip = report.chip_of(jax.devices()[0].device_kind)
    return cost.seconds(*counts.CHIPS[chip][:2]) if chip else 0.0


def ways(case: Case, options) -> dict[str, Provider]:
    """The providers that the options ask for."""
    found = sweep.providers(case, options.tiny) if options.sweep else providers(case, options.tiny)
    return {name: p for name, p in found.items() if re.search(options.way, name)}


def run(options) -> dict:
    """Everything that the options ask for, printed as it comes."""
    device = jax.devices()[0]
    size, side = (2**20, 128) if options.tiny else (2**30, 8192)
    given = {"repeats": options.repeats, "least": options.seconds}
    if options.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    out = {
        "device": device.device_kind, "chip": report.chip_of(device.device_kind), "dtype": options.dtype,
        "date": datetime.date.today().isoformat(), "tiny": options.tiny,
        "bound": check.BOUNDS[options.dtype], "nats": check.NATS,
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": sys.version.split()[0],
                     "platform": device.client.platform_version.splitlines()[0]},
        "command": " ".join(["python -m benchmarks", *options.words]),
        "ceilings": timing.ceilings(size, side, jnp.dtype(options.dtype), **given), "rows": [],
    }  # fmt: skip
    for case in cases(options.tiny):
        if options.case not in case.name:
            continue
        want = jax.device_get(
            check.reference(case, case.arguments(jax.random.key(0), jnp.dtype(options.dtype)))
        )
        for name, provider in ways(case, options).items():
            out["rows"].append(row(case, name, provider, want, options))
            say(out["rows"][-1])
    return out


def say(line: dict) -> None:
    """A line of progress."""
    what = f"{line['seconds']['median'] * 1e6:.4g} µs" if line["status"] == "timed" else line["reason"]
    print(f"{line['case']:40} {line['way']:36} {line['status']:8} {what}", flush=True)


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Times the operations on this chip."
    )
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--way", default="", help="only ways whose name this regular expression finds")
    parser.add_argument("--dtype", default="bfloat16", choices=list(check.BOUNDS))
    parser.add_argument("--repeats", type=int, default=10, help="timed repeats; the table has their median")
    parser.add_argument("--seconds", type=float, default=0.1, help="least length of a repeat")
    parser.add_argument(
        "--cache", type=float, default=2.5e8, help="bytes that the arguments of a repeat exceed"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="our kernels at other block sizes, to fill their tables"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes, our kernels interpreted: does all of it run?"
    )
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results", help="folder of the two files")
    options = parser.parse_args(words)
    options.words = words
    return options


def main(words: list[str]) -> int:
    """Runs, writes <chip>-<dtype>.json and .md, returns 1 where a way's numbers are off."""
    options = parse(words)
    out = run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{(out['chip'] or out['device']).replace(' ', '-')}-{out['dtype']}"
    name += ("-tiny" if options.tiny else "") + ("-sweep" if options.sweep else "")
    (options.out / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(report.markdown(out))
    print(f"wrote {options.out / name}.md and .json")
    return int(any(line["status"] == "failed" for line in out["rows"]))


if __name__ == "__main__":
    # The simulator of GPU kernels waits inside XLA's threads, of which there are as many as cores otherwise.
    os.environ.setdefault("NPROC", "16")
    sys.exit(main(sys.argv[1:]))
