"""Open-loop evaluation: decisions and trajectories on held-out scenes, with true, shuffled and no pictures.

Writes runs/<name>/open_loop.md and .json: rows of two extrapolations, of the most frequent decision and of the
policy, with bootstrap intervals, for all scenes and by family. Exit code 1 where config.check is set and a target of
`evaluate/tables.py` is missed.
"""

import sys

import jax

from ar1_jax.core import errors, runlog
from ar1_jax.data import samples
from ar1_jax.evaluate import report, tables
from ar1_jax.policy import loading


def run(config) -> int:
    """Evaluates and writes; returns the exit code."""
    errors.one_of(config.split, ("train", "validation", "test"), "config.split")
    policy = loading.load(config.policy)
    folder = runlog.open_run(config.root, config.name, config)
    with runlog.RunLog(folder, 1) as log:
        log.say(f"evaluate: {policy.source} on {config.scenes} scenes of {config.split}, in {folder}")
        scenes = samples.WorldSamples(policy, config.split).take(config.start, config.scenes)
        layout = samples.template(policy, scenes, samples.camera_ids())
        found = report.open_loop_of(
            policy, layout, scenes, batch=config.batch, key=jax.random.key(config.seed), seed=config.seed,
            count=config.samples, temperature=config.temperature,
        )  # fmt: skip
        about = {"policy": str(config.policy), "split": config.split, "test scenes": config.scenes, "seed": config.seed,
                 "command": "python -m ar1_jax.main " + " ".join(sys.argv[1:])}  # fmt: skip
        report.write(found, about, folder / "open_loop", log.say)
        log.say(f"done: {folder / 'open_loop.md'}")
    missed = [claim for claim, _, holds in tables.targets(found["all"]) if not holds]
    return errors.FAILED if config.check and missed else errors.DONE
