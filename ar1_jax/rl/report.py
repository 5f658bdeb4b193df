"""The page of a run: what changed on held-out scenes, the curves, a few scenes before and after, the
settings."""

import html

import numpy as np

from ar1_jax.figures import report

PANELS = {
    "reward": ("reward", "validation/reward"),
    "its parts": ("reasoning", "consistency", "trajectory"),
    "decisions right": ("decision_right", "validation/decision_right"),
    "KL to the start policy": ("kl",),
    "entropy a token": ("entropy",),
    "tokens a completion": ("length",),
    "spread in a group": ("reward_std", "zero_variance"),
    "sampler-learner gap": ("gap", "gap_max"),
    "clip fraction": ("clip_fraction",),
    "gradient norm": ("gradient",),
    "completions a second": ("completions_per_second",),
}


def curve_section(records):
    """metrics.jsonl records -> the curves of PANELS that were logged."""
    series = []
    for panel, names in PANELS.items():
        for name in names:
            points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
            if points:
                x, y = zip(*points)
                series.append({"name": name, "x": list(x), "y": list(y), "panel": panel})
    return {"kind": "curves", "title": "Training", "series": series, "x_label": "step"}


def table_section(title, columns, rows, note=""):
    """A table of text."""
    return {"kind": "table", "title": title, "columns": columns, "rows": rows, "note": note}


def pick(before, after, count):
    """Indices of the scenes whose greedy reward changed most, gains and losses in turn: no cherries."""
    change = after["greedy/reward"] - before["greedy/reward"]
    order = np.argsort(change)
    return [int(order[-1 - n // 2] if n % 2 == 0 else order[n // 2]) for n in range(min(count, len(order)))]


def scene_card(title, facts, before_text, after_text, truth_text, picture):
    """One scene: the picture, what was said before and after, what was right."""
    captions = [f"before: {before_text}", f"after: {after_text}", f"truth: {truth_text}"]
    card = {"title": title, "captions": captions, "facts": facts}
    return card if picture is None else card | {"image_png_bytes": picture}


def write(path, title, about, evaluation_tables, records, cards, config_text):
    """Writes the page. about: {name: value}; evaluation_tables: (title, columns, rows, note) each; cards:
    scene_card."""
    sections = [
        {
            "kind": "table",
            "title": "Run",
            "columns": ["", ""],
            "rows": [[k, str(v)] for k, v in about.items()],
        },
        *(table_section(*table) for table in evaluation_tables),
        curve_section(records),
        {
            "kind": "rollouts",
            "title": "Scenes that changed most, gains and losses in turn",
            "note": "Greedy decoding, held-out scenes.",
            "items": cards,
        },
        {"kind": "text", "title": "Configuration", "html": f"<pre>{html.escape(config_text)}</pre>"},
    ]
    return report.render(path, title, sections)
