"""Supervised fine-tuning: teaches a policy to see, to say why and to drive, from scenes of the driving world.

Writes runs/<name>/: config.json, metrics.jsonl, checkpoints/ (resume), best/ (lowest validation loss), open_loop.md
and .json (held-out scenes), and the finished policy where config.export names a folder. Called again it continues.
"""

import math
import pathlib
import platform
import sys

import jax
from jax.sharding import NamedSharding

from ar1_jax.checkpoints import runs
from ar1_jax.core import errors, runlog, sharding, sharding_tables, signals
from ar1_jax.data import pipeline, reuse, samples
from ar1_jax.evaluate import report
from ar1_jax.policy import adapters, loading
from ar1_jax.train import loop, optimizer, schedule, step, tuning, validate

WINDOW = 8  # decision words lie among the first tokens of a completion
SHOWN = ("samples_per_second", "rate", "loss", "tokens", "decision", "cells", "flow", "validation/loss",
         *(f"validation/{what}/{mode}" for what in ("decision", "right") for mode in validate.MODES))  # fmt: skip


def run(config) -> int:
    """Trains, evaluates, exports; returns the exit code."""
    policy = initial_policy(config)
    folder = runlog.open_run(config.root, config.name, config)
    world = samples.WorldSamples(policy, "train", config.loss.decision_weight)
    held = samples.WorldSamples(policy, "validation").take(0, config.validation.scenes)
    layout = samples.template(policy, held, samples.camera_ids())
    trainer = Trainer(config, policy, layout, held, folder)
    state, progress = trainer.start()
    total = f"{progress.plan.total} steps" if config.steps else f"{config.minutes:g} minutes"
    with runlog.RunLog(folder, progress.plan.total, progress.step) as log, signals.catch() as stop:
        log.say(f"sft: {trainer.tuned}, {len(layout.ids)} prompt tokens, {total}, in {folder}")
        batches = trainer.batches(world)
        parts = loop.Parts(
            trainer.step,
            trainer.validate,
            trainer.save,
            trainer.logger(log, progress),
            stop.anywhere,
            batches,
        )
        state, progress = loop.fit(state, progress, parts, trainer.settings, jax.random.key(config.seed))
        if progress.step < progress.plan.total:
            log.say(f"stopped by {stop.signal_name} at step {progress.step}; call again to continue")
            return stop.exit_code(saved=True)
        policy.params = trainer.tuned.merged(trainer.best(progress))
        return finish(config, policy, layout, progress, folder, log)


def initial_policy(config):
    """A fresh policy of a size, or the one of a folder: in float32 to be trained, as `load` likes it as a base."""
    if pathlib.Path(config.model).is_dir():
        return loading.load(
            config.model, dtype=None if config.lora.rank else "float32", kernels=config.kernels
        )
    if config.lora.rank:
        raise errors.ConfigError(
            f"config.lora.rank={config.lora.rank}: adapters need a trained policy, and config.model={config.model!r} "
            "begins from nothing; name a checkpoint folder"
        )
    return loading.create(config.model, jax.random.key(config.seed), config.kernels)


def spread_over(config):
    """The mesh of config.mesh, of all devices or the first; ConfigError where the batch cannot be spread over it."""
    sizes = dict(config.mesh)
    count = None if -1 in sizes.values() else math.prod(sizes.values())
    mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:count])
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch % ways:
        raise errors.ConfigError(
            f"config.batch={config.batch} is not divided by data * fsdp = {ways} of the mesh"
        )
    return mesh


class Trainer:
    """The parts of a run, built from its config. State and progress are handed around, not kept."""

    def __init__(self, config, policy, layout, held, folder):
        c, self.config, self.folder = config, config, folder
        rules, encode = policy.config.grammar("tokens"), samples.encoder(policy.config, layout)
        head = step.init_head(
            jax.random.key(c.seed + 1), policy.config.model.text.hidden_size, held["cells"].shape[-1]
        )
        self.recipe = step.Recipe(
            c.loss.flow_draws, c.loss.flow, c.loss.cells_positive, c.loss.tokens, c.loss.strict
        )
        self.mesh, self.head = spread_over(c), head
        self.tuned = tuning.begin(c.lora, policy.params, jax.random.key(c.seed + 4), c.model, self.mesh)
        policy.params = self.tuned.base or policy.params  # one copy of what stands still
        optimum = c.optimizer
        rates = optimizer.by_pattern(
            step.trained(policy.params, head), optimizer.read_table(optimum.rates), "optimizer.rates"
        )
        rates = step.trained(self.tuned.rates(rates["policy"]), rates["head"])
        self.optimizer = optimizer.adamw(
            step.trained(self.tuned.params, head), b1=optimum.b1, b2=optimum.b2, weight_decay=optimum.weight_decay,
            clip=optimum.clip, rates=rates,
        )  # fmt: skip
        self.program = step.build(
            policy.config.model, rules, self.recipe, encode, self.optimizer, rates, self.tuned.join
        )
        look = step.examine(policy.config.model, rules, self.recipe, encode, WINDOW)
        self.look = validate.Validation(look, held, c.validation.batch)
        self.settings = loop.Settings(
            rate=optimum.rate, cells=(c.loss.cells_first, c.loss.cells_last), minutes=None if c.steps else c.minutes,
            validate_every=c.validation.every, log_every=c.log_every,
        )  # fmt: skip

    def fresh(self):
        """The state of step 0, laid out over the mesh by the house's tables."""
        state = step.init_state(self.tuned.params, self.head, self.optimizer)
        return state if self.mesh.size == 1 else tuning.spread(self.tuned, state, self.mesh)

    def step(self, state, batch, *rest):
        """One step; the scenes of the batch are spread over the mesh."""
        if self.mesh.size > 1:
            batch = jax.device_put(batch, NamedSharding(self.mesh, sharding_tables.ACTIVATIONS["scenes"]))
        with sharding.on(self.mesh):
            return self.program(state, batch, *rest, self.tuned.base)

    def start(self):
        """A fresh state and progress, or those of the newest whole checkpoint."""
        c, state = self.config, self.fresh()
        total = c.steps or 1_000_000  # a run in minutes is planned once its speed is known
        progress = loop.Progress(schedule.Plan(total, min(c.optimizer.warmup, total - 1), c.optimizer.floor))
        if runs.latest(self.folder / "checkpoints") is None:
            return state, progress
        where = self.folder / "checkpoints"
        found = tuning.restore(where, self.items(state), self.tuned.record)
        rest, plain = found.optimizer, dict(found.loop)
        plain.pop(adapters.RECORD, None)
        return step.State(found.params, rest["head"], rest["adam"], rest["stuck"]), loop.Progress.from_dict(
            plain
        )

    def items(self, state):
        """The state as the two trees of a checkpoint: what is trained of the policy, and all else."""
        return {
            "params": state.params,
            "optimizer": {"adam": state.optimizer, "head": state.head, "stuck": state.stuck},
        }

    def save(self, state, progress, best):
        """Writes checkpoints/<step>, and best/<step> where this is the best so far."""
        record = {} if self.tuned.record is None else {adapters.RECORD: self.tuned.record}
        about = {"loop": progress.to_dict() | record, "config": self.config}
        if best:
            runs.save(self.folder / "best", progress.step, {"params": state.params, **about}, keep=1)
        runs.save(self.folder / "checkpoints", progress.step, self.items(state) | about, keep=2)

    def best(self, progress):
        """What was trained, at the lowest validation loss."""
        like = {"params": self.tuned.params}
        return runs.restore(self.folder / "best", like, step=progress.best_step).params

    def validate(self, state, at):
        """Validation with the same flow draws at every step."""
        key = jax.random.key(self.config.seed + 2)
        return self.look(self.tuned.model(state.params), state.head, key, samples.cell_classes())

    def batches(self, world):
        """The training iterator."""
        c = self.config
        layout = reuse.Layout(c.batch, c.data.chunk, c.data.block, c.data.reuse, c.seed)
        strength = pipeline.Augment(c.augment.brightness, c.augment.contrast, c.augment.drop)
        return pipeline.training_iterator(
            world.chunk(c.data.chunk), layout, strength, threads=c.data.threads, ahead=c.data.ahead
        )

    def logger(self, log, progress):
        """log(step, values) that also tells the run log how long the run has become."""

        def write(at, values):
            log.total_steps = progress.plan.total
            log.log(at, values, show=False)
            short = {
                name.split("/", 1)[1] if "/" in name else name: value
                for name, value in values.items()
                if name in SHOWN
            }
            log.say(log.line(at, short))

        return write


def finish(config, policy, layout, progress, folder, log):
    """Open-loop evaluation on held-out scenes, its report, and the exported policy."""
    log.say(f"best validation loss {progress.best_loss:.3f} at step {progress.best_step}; evaluating")
    test = samples.WorldSamples(policy, "test").take(0, config.test.scenes)
    about = {
        "run": config.name, "command": command(), "seed": config.seed, "steps": progress.step,
        "samples": progress.step * config.batch, "minutes": round(progress.seconds / 60.0, 1),
        "test scenes": config.test.scenes,
        "machine": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {platform.machine()}",
    }  # fmt: skip
    tables = report.open_loop_of(
        policy, layout, test, batch=config.test.batch, key=jax.random.key(config.seed + 3)
    )
    text = report.write(tables, about, folder / "open_loop", log.say)
    if config.export:
        try:
            policy.save(config.export, {"metrics.json": text})
        except errors.Ar1Error as error:
            log.say(f"not exported: {error}")
            return error.exit_code
        log.say(f"policy in {config.export}")
    log.say(f"done: {folder}")
    return errors.DONE


def command():
    """How this run was started."""
    return "python -m ar1_jax.main " + " ".join(sys.argv[1:])
