"""AdamW whose masks are tables of path patterns.

A table is a sequence of (regular expression, value); the first pattern that `re.search` finds in a parameter's
path ("vlm/layers/q_proj/kernel") gives its value. A pattern that matches nothing and a parameter that nothing
matches are errors, all named at once. The learning rate is an argument of `update`, not state: a plan may change.
"""

import re

import jax
import jax.numpy as jnp
import optax

from ar1_jax.core import errors

# Stacked norms are [layers, D]: two dimensions do not make a matrix, names do. Embeddings are not decayed.
DECAY = ((r"kernel$", 1.0), (r".*", 0.0))
RATES = ((r".*", 1.0),)


def paths(tree):
    """Path of each leaf, joined by "/", in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return ["/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path) for path, _ in leaves]


def by_pattern(tree, table, name):
    """The tree with each leaf replaced by the value of the first pattern that matches its path.

    Raises ConfigError naming every idle pattern and every uncovered parameter. `name` is the table's, for that.
    """
    used, values, uncovered = set(), [], []
    for path in paths(tree):
        row = next((i for i, (pattern, _) in enumerate(table) if re.search(pattern, path)), None)
        if row is None:
            uncovered.append(path)
            continue
        used.add(row)
        values.append(table[row][1])
    idle = [pattern for i, (pattern, _) in enumerate(table) if i not in used and pattern != ".*"]
    if idle or uncovered:
        lines = [f"  pattern {pattern!r} matches no parameter" for pattern in idle]
        lines += [f"  no pattern matches {path}" for path in uncovered]
        raise errors.ConfigError(f"table {name!r} does not fit the parameters:\n" + "\n".join(lines))
    return jax.tree.unflatten(jax.tree.structure(tree), values)


def frozen(rates):
    """Paths of the parameters whose rate is 0, for the log."""
    return [path for path, rate in zip(paths(rates), jax.tree.leaves(rates), strict=True) if rate == 0]


def adamw(params, *, b1, b2, weight_decay, clip, rates=RATES, decay=DECAY):
    """Gradient transformation up to, and without, the learning rate; parameters only for their paths.

    Clip by global norm -> Adam -> weight decay on matrices -> multiplier per parameter (0 freezes it, its Adam
    state included). Gradients of frozen parameters are zeroed first, so that they do not enter the norm.
    """
    rate = by_pattern(params, rates, "rates")
    weights = jax.tree.map(lambda d: d * weight_decay, by_pattern(params, decay, "decay"))

    def freeze(updates, _):
        return jax.tree.map(lambda u, r: u * jnp.float32(r > 0), updates, rate)

    def decayed(updates, params):
        return jax.tree.map(lambda u, p, w: u + w * p, updates, params, weights)

    def scaled(updates, _):
        return jax.tree.map(lambda u, r: u * r, updates, rate)

    return optax.chain(
        optax.stateless(freeze),
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b1=b1, b2=b2, eps=1e-8),
        optax.stateless(decayed),
        optax.stateless(scaled),
    )
