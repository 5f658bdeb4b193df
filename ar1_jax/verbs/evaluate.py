"""Open-loop evaluation: decisions and trajectories on held-out scenes, with true, shuffled and no pictures.

Writes runs/<name>/open_loop.md and .json: rows of two extrapolations, of the most frequent decision and of the
policy, with bootstrap intervals, for all scenes and by family. Exit code 1 where config.check is set and a target of
`evaluate/tables.py` is missed. With config.table "dial" it writes dial.md, .json and a figure instead: what flow steps,
integrator and reasoning cost and give; with "int8" or "fp8" what weights in eight bits change.
"""

import datetime
import os
import platform
import sys

import jax
import jaxlib

from ar1_jax.core import errors, runlog
from ar1_jax.core.types import Scene
from ar1_jax.data import samples
from ar1_jax.evaluate import dial, quantized, report, tables
from ar1_jax.figures import dial as dial_figure
from ar1_jax.policy import loading


def run(config) -> int:
    """Evaluates and writes; returns the exit code."""
    errors.one_of(config.split, ("train", "validation", "test"), "config.split")
    errors.one_of(config.table, TABLES, "config.table")
    policy = loading.load(config.policy, kernels=config.kernels)
    folder = runlog.open_run(config.root, config.name, config)
    with runlog.RunLog(folder, 1) as log:
        log.say(f"evaluate: {policy.source} on {config.scenes} scenes of {config.split}, in {folder}")
        scenes = samples.WorldSamples(policy, config.split).take(config.start, config.scenes)
        layout = samples.template(policy, scenes, samples.camera_ids())
        about = {"policy": str(config.policy), "split": config.split, "test scenes": config.scenes, "seed": config.seed,
                 "command": "python -m ar1_jax.main " + " ".join(sys.argv[1:])}  # fmt: skip
        return TABLES[config.table](config, policy, layout, scenes, about, log)


def open_loop(config, policy, layout, scenes, about, log) -> int:
    """The table of decisions and distances; the exit code."""
    found = report.open_loop_of(
        policy, layout, scenes, batch=config.batch, key=jax.random.key(config.seed), seed=config.seed,
        count=config.samples, temperature=config.temperature,
    )  # fmt: skip
    report.write(found, about, log.folder / "open_loop", log.say)
    log.say(f"done: {log.folder / 'open_loop.md'}")
    missed = [claim for claim, _, holds in tables.targets(found["all"]) if not holds]
    return errors.FAILED if config.check and missed else errors.DONE


def turn_dial(config, policy, layout, scenes, about, log) -> int:
    """The table of flow steps, integrators and direct plans, and its figure; the exit code."""
    d = config.dial
    for name in d.integrators:
        errors.one_of(name, ("euler", "midpoint"), "config.dial.integrators")
    wanted = dial.settings(d.steps, d.integrators, d.direct_steps)
    found = dial.table(
        policy, layout, scenes, wanted, first_scene(scenes), batch=config.batch, count=max(config.samples, 1),
        repeats=d.repeats, key=jax.random.key(config.seed), seed=config.seed,
    )  # fmt: skip
    about |= machine() | {"samples a timed plan": max(config.samples, 1), "repeats": d.repeats}
    write(log, "dial", "The dial", dial.markdown(found), dial.to_json(found, about), about)
    dial_figure.render(dial.points(found), log.figure("dial.png"))
    log.say(f"figure: {log.figure('dial.png')}")
    return errors.DONE


def compare_quantized(config, policy, layout, scenes, about, log) -> int:
    """The table of the policy beside itself with weights in eight bits; the exit code."""
    rounded = loading.load(config.policy, quantization=config.table, kernels=config.kernels)
    found = quantized.table(
        policy, rounded, layout, scenes, first_scene(scenes), batch=config.batch, count=max(config.samples, 1),
        repeats=config.dial.repeats, key=jax.random.key(config.seed), seed=config.seed,
    )  # fmt: skip
    about |= machine()
    page = quantized.markdown(found, config.table)
    write(log, config.table, f"Weights in {config.table}", page, quantized.to_json(found, about), about)
    return errors.DONE


def first_scene(scenes) -> Scene:
    """Scene 0 of a sample batch, as `plan` takes it."""
    return Scene(
        scenes["images"][0], samples.camera_ids(), scenes["ego_history_xyz"][0], scenes["ego_history_rot"][0]
    )


def machine() -> dict[str, str]:
    """Where times were taken, and with which versions."""
    device = jax.devices()[0]
    return {"machine": f"{device.device_kind}, {platform.machine()}, {os.cpu_count()} cores",
            "versions": f"jax {jax.__version__}, jaxlib {jaxlib.__version__}",
            "date": datetime.date.today().isoformat()}  # fmt: skip


def write(log, name: str, title: str, page: str, text: str, about: dict) -> None:
    """Writes NAME.md and NAME.json and says the table."""
    facts = "\n".join(f"- {key}: {value}" for key, value in about.items())
    runlog.write_text(log.folder / f"{name}.md", f"# {title}\n\n{facts}\n\n{page}")
    runlog.write_text(log.folder / f"{name}.json", text)
    log.say(page)
    log.say(f"done: {log.folder / name}.md")


TABLES = {
    "open_loop": open_loop,
    "dial": turn_dial,
    "int8": compare_quantized,
    "fp8": compare_quantized,
}
