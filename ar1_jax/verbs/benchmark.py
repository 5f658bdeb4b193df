"""Times a plan stage by stage beside estimates of its floors, and the same prompt in transformers where installed.

Every row (engine, K, round) is a process of its own and one file in runs/<name>/rows/, so that a run that was stopped
goes on with the rows it lacks; engines take turns, so that a busy machine is busy for both, and numbers of samples that
are compared come first. benchmark.md, benchmark.json and figures/stages.png are written after every row.
"""

import hashlib
import itertools
import json
import os
import pathlib
import platform
import subprocess
import sys

from ar1_jax.core import errors, runlog
from ar1_jax.evaluate import timing_tables, workload
from ar1_jax.figures import stages as stages_figure
from ar1_jax.policy import loading

NEEDS = "import torch, transformers, ar1_jax"


def run(config) -> int:
    """Measures and writes; returns the exit code."""
    load = workload_of(config)
    folder = runlog.open_run(config.root, config.name, config)
    if config.floors:
        return write_floors(config, load, folder)
    plan = rows(config, load)
    (folder / "rows").mkdir(exist_ok=True)
    with runlog.RunLog(folder, len(plan)) as log:
        log.say(
            f"benchmark: {len(plan)} rows of {load.policy or load.size}, {load.prompt} prompt ids, in {folder}"
        )
        found = []
        for number, (name, engine, row) in enumerate(plan, 1):
            path = folder / "rows" / f"{name}.json"
            if not path.exists() or json.loads(path.read_text())["workload"] != vars(row):
                measure(config, engine, row, path, folder, log)
            found.append(json.loads(path.read_text()))
            seconds = timing_tables.totals(found[-1])
            write(load, found, folder, log)
            log.log(number, {"K": row.samples, "seconds": min(seconds), "GB": found[-1]["peak_bytes"] / 1e9})
        log.say(timing_tables.markdown(found) + f"done: {folder / 'benchmark.md'}")
    return errors.DONE


def workload_of(config) -> workload.Workload:
    """The workload with K = 1 as the config describes it; ConfigError for what cannot be timed."""
    problems = [f"config.{name}={config[name]}: at least 1 is needed"
                for name in ("images", "text", "tokens", "steps", "repeats", "rounds") if config[name] < 1]  # fmt: skip
    problems += [f"config.{name}={config[name]}: an even number of patches is needed"
                 for name in ("rows", "columns") if config[name] < 2 or config[name] % 2]  # fmt: skip
    if config.room < config.tokens:
        problems.append(f"config.room={config.room}: at least config.tokens={config.tokens} is needed")
    if not config.samples or min(config.samples) < 1:
        problems.append(f"config.samples={tuple(config.samples)}: numbers of plans from 1 on are needed")
    errors.raise_all(problems, "benchmark", errors.ConfigError)
    errors.one_of(config.dtype, ("float32", "bfloat16"), "config.dtype")
    names = (
        "size",
        "policy",
        "images",
        "rows",
        "columns",
        "text",
        "tokens",
        "room",
        "steps",
        "dtype",
        "kernels",
        "threads",
        "repeats",
        "seed",
    )
    load = workload.Workload(**{name: config[name] for name in names})
    workload.model_of(load)
    return load


def rows(config, load: workload.Workload) -> list[tuple[str, str, workload.Workload]]:
    """(name, engine, workload) in the order in which they run: engines in turn, round after round; what
    is not compared with anything comes last, so that an interrupted run has the ratios."""
    other = python_of(config)
    out = []
    compared = set(config.compare) if other else set()
    for ks in (compared, set(config.samples) - compared):
        for number, k in itertools.product(range(config.rounds), sorted(ks)):
            row = workload.Workload(**{**vars(load), "samples": k})
            if k in config.samples:
                out.append((f"{number}_ours_{k}", "ours", row))
            if k in compared:
                out.append((f"{number}_transformers_{k}", "transformers", row))
    return out


def weights_folder(load: workload.Workload, folder: pathlib.Path) -> pathlib.Path:
    """Where the weights of a workload lie for transformers: another place for another size, policy (its path and its
    files' sizes and times), dtype or seed."""
    source = loading.ASSETS / load.policy if load.policy == "nano" else pathlib.Path(load.policy)
    files = sorted(source.glob("*.*")) if load.policy else []
    about = [load.size, load.policy and str(source.resolve()), load.dtype, load.seed,
             [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]  # fmt: skip
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return folder / f"weights_{source.name or load.size}_{digest}"


def python_of(config) -> str:
    """The interpreter with torch and transformers, "" where none is compared with; ConfigError where it lacks them."""
    if not config.compare:
        return ""
    python = config.torch_python or sys.executable
    try:
        done = subprocess.run([python, "-c", NEEDS], capture_output=True, text=True)
    except OSError as e:
        raise errors.ConfigError(f"config.torch_python={python}: {e.strerror}") from e
    if done.returncode == 0:
        return python
    if not config.torch_python:
        print(
            "torch and transformers are not installed here: no comparison (config.torch_python names another python)"
        )
        return ""
    raise errors.ConfigError(f"config.torch_python={python}: {done.stderr.strip().splitlines()[-1]}")


def measure(
    config, engine: str, load: workload.Workload, path: pathlib.Path, folder: pathlib.Path, log
) -> None:
    """Runs one row in a process of its own and keeps its JSON."""
    words = json.dumps(vars(load))
    if engine == "ours":
        call([sys.executable, "-m", "ar1_jax.evaluate.timing", words, "--compile"], folder, log)
        text = call([sys.executable, "-m", "ar1_jax.evaluate.timing", words], folder, log)
    else:
        weights = weights_folder(load, folder)
        if not (weights / "config.json").exists():
            log.say(f"writing the same weights for transformers to {weights}")
            workload.export(load, weights)
        text = call(
            [python_of(config), "-m", "ar1_jax.evaluate.timing_torch", words, str(weights)], folder, log
        )
    json.loads(text)
    runlog.write_text(path, text)


def call(command: list[str], folder: pathlib.Path, log) -> str:
    """The last line that a process prints; the others go to the log. Ar1Error with its last words where it fails."""
    import jax

    cache = jax.config.jax_compilation_cache_dir or str((folder / "cache").resolve())
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "TRANSFORMERS_VERBOSITY": "error",
    }  # fmt: skip
    last, errors_file = "", folder / "stderr.txt"
    with open(errors_file, "w+") as said:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        ) as process:
            for line in process.stdout:
                if last:
                    log.say("  " + last)
                last = line.rstrip("\n")
        if process.returncode:
            said.seek(0)
            jax_says = ("For simplicity, JAX", "-----")  # behind an error, of the frames that it leaves out
            words = [x for x in said.read().strip().splitlines() if not x.startswith(jax_says)] or [
                "no message"
            ]
            raise errors.Ar1Error(
                f"{' '.join(command[1:3])} ended with {process.returncode}: {words[-1]} ({errors_file})"
            )
    return last


def write(load: workload.Workload, found: list[dict], folder: pathlib.Path, log) -> None:
    """Tables, numbers and figure of the rows so far."""
    about = {"machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.platform()}",
             "command": "python -m ar1_jax.main " + " ".join(sys.argv[1:]), "workload": vars(load)}  # fmt: skip
    table = timing_tables.markdown(found)
    head = "".join(f"{name}: {value}\n\n" for name, value in about.items())
    runlog.write_text(folder / "benchmark.md", f"# Benchmark\n\n{head}{table}")
    numbers = []
    for (engine, k), row in timing_tables.joined(found).items():
        numbers.append({"engine": engine, "K": k, "stages": timing_tables.stages(row), "rates": row["rates"],
                        "peak_bytes": row["peak_bytes"]})  # fmt: skip
    numbers = about | {"rows": numbers, "ratios": timing_tables.ratios(found),
                       "shares": timing_tables.shares(found)}  # fmt: skip
    runlog.write_text(folder / "benchmark.json", json.dumps(numbers, indent=1) + "\n")
    stages_figure.draw(numbers["rows"], log.figure("stages.png"))


def write_floors(config, load: workload.Workload, folder: pathlib.Path) -> int:
    """The table of estimated floors of known chips, from shapes alone."""
    table = timing_tables.floors(load)
    runlog.write_text(folder / "floors.md", table)
    about = f"{load.size} in {load.dtype}, {load.prompt} prompt ids, {load.tokens} ids a sample"
    print(f"Estimates from shapes: {about}\n\n{table}")
    return errors.DONE
