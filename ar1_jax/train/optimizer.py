"""AdamW whose masks are tables of path patterns.

A table is a sequence of (regular expression, value); the first that matches a parameter's whole path
("policy/vlm/model/visual/merger/linear_fc1/kernel") gives its value. A pattern that matches nothing and a parameter
that nothing matches are errors, all named at once. The learning rate is no part of it: the step multiplies by it,
since the plan of a run may change.
"""

import jax
import jax.numpy as jnp
import optax

from ar1_jax.core import errors, trees

# Stacked norms are [layers, D]: two dimensions do not make a matrix, names do. Embeddings are not decayed.
REST = r".*"
DECAY = ((r".*(kernel|lora_a|lora_b)", 1.0), (REST, 0.0))


def by_pattern(tree, table, name):
    """The tree with each leaf replaced by the value of the first pattern that matches its path.

    Raises ConfigError naming every idle pattern and every uncovered parameter. `name` is the table's, for that.
    """
    used, found, problems = set(), {}, []
    for path in trees.flatten(tree):
        row = next((i for i, (pattern, _) in enumerate(table) if trees.matches(pattern, path)), None)
        if row is None:
            problems.append(f"{path}: no pattern matches")
            continue
        used.add(row)
        found[path] = table[row][1]
    idle = [pattern for i, (pattern, _) in enumerate(table) if i not in used and pattern != REST]
    problems += [f"pattern {pattern!r}: matches no parameter" for pattern in idle]
    errors.raise_all(problems, f"table {name!r}", errors.ConfigError)
    return trees.unflatten(tree, found)


def read_table(text):
    """ "policy/vlm/.*=0.1,.*=1" -> ((pattern, 0.1), (pattern, 1.0)); ConfigError names the rows that are no rows."""
    rows, problems = [], []
    for part in text.split(","):
        pattern, _, value = part.strip().rpartition("=")
        try:
            rows.append((pattern, float(value)))
        except ValueError:
            problems.append(f"{part!r}: expected pattern=number")
    errors.raise_all(problems, f"table {text!r}", errors.ConfigError)
    return tuple(rows)


def frozen(rates):
    """Paths of the parameters whose rate is 0, for the log."""
    return [path for path, rate in trees.flatten(rates).items() if rate == 0]


def adamw(params, *, b1, b2, weight_decay, clip, rates=None, decay=DECAY):
    """Gradient transformation up to, and without, the learning rate; parameters only for their paths.

    Clip by global norm -> Adam -> weight decay on matrices -> multiplier per parameter (rates: a tree like the
    parameters, None for 1; 0 freezes a parameter, its Adam state included). Gradients of frozen parameters are zeroed
    first, so that they do not enter the norm.
    """
    rate = jax.tree.map(lambda _: 1.0, params) if rates is None else rates
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
