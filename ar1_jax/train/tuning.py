"""What a run trains: all parameters, or low-rank adapters on a base that stands still.

Both kinds have the same attributes, so that no step and no verb asks which it is:

    params   what is differentiated, optimised and saved
    base     arrays that a step only reads, or None
    join     (params, base) -> the model's parameters; traceable
    record   what a checkpoint says about the base, or None

The base is an argument of the step, never part of its state: one copy serves learner, sampler and KL reference.
"""

import jax

from ar1_jax.checkpoints import runs
from ar1_jax.core import errors, sharding, sharding_tables, trees
from ar1_jax.models import lora
from ar1_jax.policy import adapters


def begin(config, params, key, source, mesh=None):
    """Full or LowRank, as config (rank, alpha, targets) says.

    source: name or folder of the policy that has `params`; mesh: devices that a base is laid out over, or None."""
    recipe = lora.Recipe(config.rank, config.alpha, tuple(config.targets))
    return LowRank(recipe, params, key, source, mesh) if recipe.rank else Full(params)


def everything(params, base):
    """The join of a run that trains all parameters."""
    return params


class Full:
    """Every parameter is in the state."""

    base, record, join = None, None, staticmethod(everything)

    def __init__(self, params):
        self.params = params

    def model(self, params):
        """The parameters to sample and evaluate with."""
        return params

    def merged(self, params):
        """The parameters of the finished policy."""
        return params

    def __str__(self):
        return f"{trees.count(self.params):,} parameters"

    def rates(self, rates):
        """Multipliers of the learning rate, from those of the model's parameters."""
        return rates

    def specs(self, mesh):
        """PartitionSpecs of `params`."""
        return sharding.specs(self.params, sharding_tables.PARAMETERS, mesh)


class LowRank:
    """Adapters are in the state, the policy they began from is the base."""

    def __init__(self, recipe, base, key, source, mesh):
        self.scale = recipe.scale
        self.params = lora.init(base, recipe.targets, recipe.rank, key)
        self.record = adapters.record(recipe, source, base)
        spread_out = mesh is not None and mesh.size > 1
        table = sharding_tables.PARAMETERS
        self.base = sharding.shard_tree(base, base, table, mesh) if spread_out else base

    def join(self, params, base):
        """The base with the adapters beside its kernels."""
        return lora.attach(base, params, self.scale)

    def model(self, params):
        """Base and adapters side by side, so that sampler and learner compute the same."""
        return self.join(params, self.base)

    def merged(self, params):
        """The parameters of the finished policy: the adapters added into the base."""
        return lora.merge(self.base, params, self.scale)

    def __str__(self):
        count = trees.count(self.params)
        return f"{count:,} parameters of adapters on {trees.count(self.base):,} that stand still"

    def rates(self, rates):
        """Each adapter learns at the rate of its kernel; ConfigError where that is 0 and it would never move."""
        found = lora.at_kernels(rates, self.params)
        still = [path for path, rate in trees.flatten(found).items() if rate == 0 and path.endswith(lora.A)]
        problems = [
            f"{path}: optimizer.rates is 0 for its kernel, so it would not be trained" for path in still
        ]
        errors.raise_all(problems, "lora.targets", errors.ConfigError)
        return found

    def specs(self, mesh):
        """PartitionSpecs of `params`."""
        return lora.specs(self.params, sharding_tables.PARAMETERS)


def spread(tuned, state, mesh):
    """The state of a run (params, optimiser, all else) laid out over the mesh."""
    placed = sharding.mirror(state, tuned.params, tuned.specs(mesh))
    return jax.device_put(state, sharding.shardings(placed, mesh))


def restore(where, items, own):
    """The newest whole step of the run's checkpoints/ like `items`; own: this run's record.

    CheckpointError where it began from another base or with another scale: adapters fit one of each only."""
    found = runs.restore(where, {}, fall_back=True)
    was, own = found.loop.get(adapters.RECORD) or {}, own or {}
    problems = [
        f"lora.{key} was {was.get(key)!r}, is {own.get(key)!r} now"
        for key in dict.fromkeys([*was, *own])
        if was.get(key) != own.get(key)
    ]
    errors.raise_all(problems, f"{where} (choose another name)", errors.CheckpointError)
    return runs.restore(where, items, step=found.step)
