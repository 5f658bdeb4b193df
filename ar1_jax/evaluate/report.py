"""An open-loop evaluation from policy to files: answers under every control, tables, a page and its numbers."""

import pathlib

import jax

from ar1_jax.core import runlog
from ar1_jax.data import samples as sampling
from ar1_jax.evaluate import open_loop, tables


def open_loop_of(policy, layout, samples, *, batch, key, seed=0, count=0, temperature=0.6):
    """Tables of a policy on a sample batch: {"all": rows, family: rows}, see `tables.open_loop_tables`.

    count: K > 0 also draws K plans a scene at `temperature` for the minADE. seed: of the bootstrap.
    """
    by_mode = {
        mode: open_loop.answers(policy, layout, samples, mode, batch=batch, key=jax.random.fold_in(key, 7))
        for mode in open_loop.MODES
    }
    several = None
    if count:
        rows = max(batch // count, 1)
        several = open_loop.answers(
            policy,
            layout,
            samples,
            batch=rows,
            key=jax.random.fold_in(key, 8),
            count=count,
            temperature=temperature,
        )
    truth = open_loop.true_texts(policy, samples)
    return tables.open_loop_tables(by_mode, samples, truth, sampling.family_names(), seed, several)


def write(found, about, stem, say):
    """Writes STEM.md and STEM.json and says the main table and the targets; -> the JSON text."""
    page, text = tables.report(found, about)
    stem = pathlib.Path(stem)
    runlog.write_text(stem.with_suffix(".md"), page)
    runlog.write_text(stem.with_suffix(".json"), text)
    say(tables.console(found["all"], f"open loop, {about.get('test scenes', '')} scenes, 95 % intervals"))
    for claim, value, holds in tables.targets(found["all"]):
        say(f"  {'yes' if holds else 'NO ':3} {claim}: {value:.2f}")
    return text
