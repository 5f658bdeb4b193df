"""Reinforcement learning: evaluates a policy on held-out scenes, trains it by its own rewards, evaluates it
again.

Writes runs/<name>/: config.json, metrics.jsonl, checkpoints/ (resume), evaluation/ (before.npz, after.npz),
report.html and the finished policy where config.export names a folder. Called again it continues where it
stopped.
"""

import functools
import os
import platform
import sys
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ar1_jax.checkpoints import runs
from ar1_jax.core import config as config_lib
from ar1_jax.core import errors, runlog, sharding, signals, trees
from ar1_jax.data import samples
from ar1_jax.figures import plan
from ar1_jax.policy import adapters, loading
from ar1_jax.rl import evaluation, judge, loop, report, rewards, rollout, step, tables
from ar1_jax.text import prompt
from ar1_jax.train import optimizer, tuning
from ar1_jax.world import api

SHOWN = ("reward", "reasoning", "consistency", "trajectory", "decision_right", "ade", "kl", "entropy", "gap",
         "zero_variance", "completions_per_second")  # fmt: skip
CARDS = 6


def run(config) -> int:
    """Evaluates, trains, evaluates; returns the exit code."""
    check(config)
    policy = loading.load(
        config.policy, dtype=None if config.lora.rank else "float32", kernels=config.kernels
    )
    folder = runlog.open_run(config.root, config.name, config)
    trainer = Trainer(config, policy, folder)
    state, start = trainer.start()
    with runlog.RunLog(folder, config.steps, start) as log, signals.catch() as stop:
        log.say(f"rl: {trainer.tuned}, {config.steps} steps of {config.scenes} scenes x "
                f"{config.group} completions on {trainer.mesh.size} device(s), in {folder}")  # fmt: skip
        before = trainer.evaluate("before", trainer.tuned.params, log)
        parts = trainer.parts(log, stop)
        state, done = loop.fit(state, start, parts, trainer.settings, jax.random.key(config.seed))
        if done < config.steps:
            log.say(f"stopped by {stop.signal_name} at step {done}; call again to continue")
            return stop.exit_code(saved=True)
        after = trainer.evaluate("after", state.params, log)
        trainer.report(before, after, log)
        policy.params = trainer.tuned.merged(state.params)
        return export(config, policy, log)


def check(config):
    """ConfigError with everything in the configuration that cannot be run."""
    least = {"steps": 1, "scenes": 1, "group": 2, "updates": 1, "evaluation.scenes": 1, "evaluation.samples": 1,
             "validation.scenes": 1}  # fmt: skip
    flat = config_lib.flatten(config)
    problems = [
        f"{key}={flat[key]}: at least {low} is needed" for key, low in least.items() if flat[key] < low
    ]
    try:
        rewards.check_weights(dict(config.rewards))
    except ValueError as error:
        problems.append(str(error))
    errors.raise_all(problems, "configuration", errors.ConfigError)


def export(config, policy, log):
    """Writes the finished policy where config.export names a folder."""
    if not config.export:
        return errors.DONE
    try:
        policy.save(config.export)
    except errors.Ar1Error as error:
        log.say(f"not exported: {error}")
        return error.exit_code
    log.say(f"policy in {config.export}")
    return errors.DONE


class Trainer:
    """The parts of a run, built from its config. The state is handed around, not kept."""

    def __init__(self, config, policy, folder):
        c, self.config, self.policy, self.folder = config, config, policy, folder
        self.mesh = sharding.make_mesh()
        if c.scenes % self.mesh.shape["data"]:
            raise errors.ConfigError(
                f"scenes={c.scenes} cannot be split over {self.mesh.shape['data']} devices"
            )
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        policy.params = jax.device_put(policy.params, self.everywhere)
        model, rules = policy.config.model, policy.config.grammar("tokens")
        self.recipe = step.Recipe(**c.objective, temperature=c.temperature)
        self.judge = judge.Judge(policy.config, policy.vocabulary, c.rewards)
        self.tuned = tuning.begin(c.lora, policy.params, jax.random.key(c.seed + 2), c.policy)
        optimum = c.optimizer
        rates = optimizer.by_pattern(policy.params, optimizer.read_table(optimum.rates), "optimizer.rates")
        rates = self.tuned.rates(rates)
        self.optimizer = optimizer.adamw(
            self.tuned.params, b1=optimum.b1, b2=optimum.b2, weight_decay=optimum.weight_decay, clip=optimum.clip,
            rates=rates,
        )  # fmt: skip
        self.settings = loop.Settings(
            steps=c.steps, scenes=c.scenes, rate=optimum.rate, warmup=optimum.warmup, floor=optimum.floor,
            updates=c.updates, save_every=c.save_every, validate_every=c.validate_every, log_every=c.log_every,
        )  # fmt: skip
        self.test = api.make_batch(api.split_seeds("test", c.evaluation.scenes))
        held = api.make_batch(api.split_seeds("validation", c.validation.scenes))
        encode = samples.encoder(policy.config, self.layout())
        measure = lambda scenes: evaluation.Evaluation(
            model, rules, encode, self.judge, scenes, samples=c.evaluation.samples, temperature=c.temperature,
            seed=c.seed + 1,
        )  # fmt: skip
        self.evaluation, self.validation = measure(self.test), measure(held)
        self.sample = rollout.build(model, rules, encode, samples=c.group, temperature=c.temperature)
        self.score = step.build_score(model, rules, c.temperature)
        moving = jax.tree.map(lambda rate: rate > 0, rates)
        self.program = step.build(model, rules, self.recipe, self.optimizer, moving, self.tuned.join)

    def layout(self):
        """The prompt layout of the world's pictures."""
        cells = self.test["cells"]
        said = {"images": self.test["images"], "cells": cells.reshape(len(cells), -1, cells.shape[-1])}
        return samples.template(self.policy, said, api.CAMERA_IDS)

    def start(self):
        """(State, finished steps): fresh, or of the newest whole checkpoint that began from this policy."""
        state = jax.device_put(step.init_state(self.tuned.params, self.optimizer), self.everywhere)
        where = self.folder / "checkpoints"
        if runs.latest(where) is None:
            return state, 0
        items = {"params": state.params, "optimizer": state.optimizer}
        found = tuning.restore(where, items, self.tuned.record)
        if found.loop["start_policy"] != self.fingerprint:
            raise errors.CheckpointError(
                f"{where}: began from another policy than {self.config.policy}; choose another name"
            )
        return step.State(found.params, found.optimizer), found.step

    @functools.cached_property
    def fingerprint(self):
        """A checksum of the start policy, which is the reference of the KL term too."""
        return trees.checksum(self.policy.params)

    def save(self, state, at):
        """Writes checkpoints/<step>."""
        record = {} if self.tuned.record is None else {adapters.RECORD: self.tuned.record}
        about = {"loop": {"step": at, "start_policy": self.fingerprint} | record, "config": self.config}
        items = {"params": state.params, "optimizer": state.optimizer} | about
        runs.save(self.folder / "checkpoints", at, items, keep=2)

    def scenes(self, at):
        """World batch of step `at`: scenes that no other step has."""
        return api.make_batch(api.split_seeds("train", self.config.scenes, start=at * self.config.scenes))

    def shard(self, batch):
        """What the policy sees of a batch, cut along the mesh's data axis."""
        rows = NamedSharding(self.mesh, PartitionSpec("data"))
        return {name: jax.device_put(batch[name], rows) for name in rollout.SEEN}

    def parts(self, log, stop):
        """The functions that the loop calls."""
        reference = self.policy.params
        return loop.Parts(
            scenes=self.scenes,
            sample=self.draw,
            judge=self.judge,
            reference=lambda prompt, ids: self.on_mesh(self.score, reference, prompt, ids),
            update=self.update,
            validate=self.validate,
            save=self.save,
            log=self.logger(log),
            stop=stop.anywhere,
        )

    def on_mesh(self, program, *arguments):
        """A program whose kernels run on the mesh."""
        with sharding.on(self.mesh):
            return program(*arguments)

    def draw(self, params, batch, keys):
        """Completions of the policy that trains for a batch of scenes."""
        return self.on_mesh(self.sample, self.tuned.model(params), self.shard(batch), keys)

    def update(self, *arguments):
        """One update of the learner on the run's base."""
        return self.on_mesh(self.program, *arguments, self.tuned.base)

    def validate(self, params):
        """Mean greedy reward and its parts on the validation split."""
        found, _ = self.validation(self.tuned.model(params), sampled=False)
        means = {name.removeprefix("greedy/"): float(value.mean()) for name, value in found.items()}
        return {name: means[name] for name in ("reward", *rewards.REWARDS, "decision_right", "ade", "valid")}

    def logger(self, log):
        """log(step, values): all to metrics.jsonl, the telling ones to the console."""

        def write(at, found):
            log.log(at, found, show=False)
            shown = {name: found[name] for name in SHOWN}
            shown |= {name: found[name] for name in ("validation/reward",) if name in found}
            if at % self.config.log_every == 0 or at == self.config.steps:
                log.say(log.line(at, shown))

        return write

    def evaluate(self, name, params, log):
        """Evaluation on the test scenes, kept in evaluation/<name>.npz; a restart with the same start policy and
        settings does not repeat the first."""
        file = self.folder / "evaluation" / f"{name}.npz"
        c = self.config
        about = f"{self.fingerprint} {dict(c.rewards)} {dict(c.evaluation)} {c.temperature} {c.seed}"
        if name == "before" and file.exists():
            with np.load(file) as kept:
                if "about" in kept.files and str(kept["about"]) == about:
                    return {key: kept[key] for key in kept.files}
        began = time.monotonic()
        found, texts = self.evaluation(self.tuned.model(params))
        took = time.monotonic() - began
        found = found | {"texts": np.array(texts), "about": np.array(about)}
        file.parent.mkdir(exist_ok=True)
        half = file.with_suffix(f".{os.getpid()}.tmp.npz")
        np.savez(half, **found)
        os.replace(half, file)
        earned = [found[f"{kind}/reward"].mean() for kind in ("greedy", "sampled")]
        right = 100 * found["greedy/decision_right"].mean()
        log.say(f"{name}: reward greedy {earned[0]:.3f}, sampled {earned[1]:.3f}, decisions right {right:.1f} % "
                f"of {len(texts)} scenes, {took:.0f} s")  # fmt: skip
        return found

    def report(self, before, after, log):
        """Tables on the console and the page."""
        truth_texts = api.texts(self.test)
        controls = {
            "always keep lane and speed": evaluation.control(self.judge, self.test),
            "the driver": evaluation.driver(self.judge, self.test, truth_texts),
        }
        found = self.tables(before, after, controls)
        for title, columns, rows, _ in found:
            log.say("\n" + tables.console(columns, rows, title))
        cards = [self.card(index, before, after, truth_texts) for index in report.pick(before, after, CARDS)]
        path = report.write(
            self.folder / "report.html", f"RL of {self.config.policy}: {self.config.name}", self.about(),
            found, runlog.read_metrics(self.folder), cards, (self.folder / "config.json").read_text(),
        )  # fmt: skip
        log.say(f"\nreport: {path}")

    def tables(self, before, after, controls):
        """(title, columns, rows, note) each."""
        family, names = self.test["family"], api.registry.names()
        note = (
            "Mean and 95 % bootstrap interval over scenes; the change is paired scene by scene. Who always keeps "
            "lane and speed is given the lane's exact curvature and looks at nothing else."
        )
        c = self.config
        sampled = f"Mean of {c.evaluation.samples} samples a scene at temperature {c.temperature:g}."
        return [
            (f"Held-out scenes ({len(family)}), greedy", *tables.before_after(before, after, controls), note),
            ("The same, sampled", *tables.before_after(before, after, controls, "sampled"), sampled),
            ("Reward by family, greedy", *tables.by_family(before, after, controls, family, names), note),
            ("Both decisions right by family, greedy, %",
             *tables.by_family(before, after, controls, family, names, "decision_right"), note),
        ]  # fmt: skip

    def card(self, index, before, after, truth_texts):
        """One scene of the report."""
        facts = {
            "family": api.registry.names()[self.test["family"][index]],
            "seed": int(self.test["seed"][index]),
        }
        for name in ("reward", "ade"):
            facts[name] = f"{before[f'greedy/{name}'][index]:.2f} → {after[f'greedy/{name}'][index]:.2f}"
        texts = before["texts"][index], after["texts"][index], truth_texts[index]
        return report.scene_card(f"Scene {index}", facts, *texts, self.picture(index, before, after, texts))

    def picture(self, index, before, after, texts):
        """Bird's-eye view and cameras of one scene with both trajectories and the driver's: PNG bytes."""
        scene = {
            name: self.test[name][index]
            for name in ("images", "ego_history_xyz", "ego_future_xyz", "agents", "road")
        }
        notes = [
            f"{when}: reward {found['greedy/reward'][index]:.2f}"
            for when, found in (("before", before), ("after", after))
        ]
        agents = scene["agents"]
        return plan.render(
            scene["images"], [prompt.camera_name(camera) for camera in api.CAMERA_IDS], scene["ego_history_xyz"],
            np.stack([found["greedy/xyz"][index] for found in (before, after)]), [str(text) for text in texts[:2]],
            notes=notes, truth=scene["ego_future_xyz"], agents=np.where(agents[..., 5:6] > 0, agents, np.nan)[..., :5],
        )  # fmt: skip

    def about(self):
        """What a reader needs to repeat the run."""
        c = self.config
        return {
            "command": "python -m ar1_jax.main " + " ".join(sys.argv[1:]),
            "policy": f"{self.config.policy} ({self.fingerprint})",
            "objective": f"{c.objective.name}, {c.steps} steps of {c.scenes} scenes x {c.group} completions",
            "machine": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
            "versions": f"jax {jax.__version__}, Python {platform.python_version()}",
        }
