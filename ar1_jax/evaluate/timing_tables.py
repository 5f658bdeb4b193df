"""Rows of `timing` and `timing_torch` as tables: percentiles, floors, ratios. Pure functions of the rows' JSON.

A floor is the larger of FLOPs over the matrix rate and bytes over the copy rate, counted from shapes by `models.costs`
(roofline): no program on this machine can be faster, and how much slower ours is says where there is something left.
"""

from collections.abc import Sequence

import numpy as np

from ar1_jax.core import trees
from ar1_jax.evaluate.workload import Workload, model_of
from ar1_jax.policy import loading

STAGES = ("vision", "prefill", "decode", "flow")
CHIPS = {  # bf16 FLOP/s, bytes/s, bytes of memory, as their makers state them
    "TPU v5e": (197e12, 819e9, 16e9),
    "TPU v5p": (459e12, 2765e9, 95e9),
    "TPU v6e": (918e12, 1638e9, 32e9),
    "TPU7x": (2307e12, 7400e9, 206e9),
    "A100 80 GB": (312e12, 2039e9, 80e9),
    "H100": (989e12, 3352e9, 80e9),
    "H200": (989e12, 4800e9, 141e9),
    "B200": (2250e12, 7672e9, 180e9),
    "RTX PRO 6000": (504e12, 1792e9, 96e9),
    "Jetson Thor": (258e12, 273e9, 128e9),
}


def key(row: dict) -> tuple[str, int]:
    """(engine, K) of a row."""
    return row["engine"], row["workload"]["samples"]


def totals(row: dict) -> list[float]:
    """Seconds of a whole plan, one a repeat."""
    return [sum(run.values()) for run in row["seconds"]]


def joined(rows: Sequence[dict]) -> dict[tuple[str, int], dict]:
    """Rows of one engine and K as one: repeats of all rounds, largest memory, fastest rates of any round."""
    out: dict[tuple[str, int], dict] = {}
    fastest = {name: max(r["rates"][name] for r in rows if "rates" in r) for name in ("flops", "bytes")}
    for row in rows:
        one = out.setdefault(key(row), {**row, "seconds": [], "processor_seconds": [], "rates": fastest})
        one["seconds"] = one["seconds"] + row["seconds"]
        one["processor_seconds"] = one["processor_seconds"] + row["processor_seconds"]
        one["peak_bytes"] = max(one["peak_bytes"], row["peak_bytes"])
    return out


def stages(row: dict) -> list[dict]:
    """One line a stage and one for the whole: p50, p90, floor in seconds, ratio p50 to floor (ours only)."""
    load = Workload(**row["workload"])
    floors = {}
    if row["engine"] == "ours":
        counted = load.costs(model_of(load)[0])
        floors = {
            name: cost.seconds(row["rates"]["flops"], row["rates"]["bytes"]) for name, cost in counted.items()
        }
    out = []
    for name in (*STAGES, "total"):
        taken = totals(row) if name == "total" else [run[name] for run in row["seconds"] if name in run]
        if not taken:
            continue
        floor = sum(floors.values()) if name == "total" else floors.get(name, 0.0)
        p50, p90 = np.percentile(taken, [50, 90])
        out.append(
            {
                "stage": name,
                "p50": p50,
                "p90": p90,
                "floor": floor or None,
                "ratio": p50 / floor if floor else None,
            }
        )
    return out


def ratios(rows: Sequence[dict]) -> list[dict]:
    """Ours beside transformers for each K that both ran: total, one reading of the prompt, ids a second."""
    found, out = joined(rows), []
    one = found.get(("transformers", 1))
    median = lambda row, name: float(np.median([run[name] for run in row["seconds"]]))
    speed = lambda row: sum(row["tokens"]) / median(row, "decode")
    for (engine, k), ours in found.items():
        theirs = found.get(("transformers", k))
        if engine != "ours" or theirs is None:
            continue
        total, flow = (
            float(np.median(totals(ours))),
            median(ours, "flow") if "flow" in ours["seconds"][0] else 0.0,
        )
        their_total = float(np.median(totals(theirs)))
        line = {"K": k, "total with flow / theirs": total / their_total,
                "total without flow / theirs": (total - flow) / their_total, "flow / total": flow / total,
                "tokens a second / theirs": speed(ours) / speed(theirs)}  # fmt: skip
        if one is not None:
            line["one prefill / theirs"] = median(ours, "prefill") / median(one, "prefill")
        out.append(line | {"same ids": ours["ids"] == theirs["ids"]})
    return out


def markdown(rows: Sequence[dict]) -> str:
    """Both tables and what they were made from."""
    lines = ["| engine | K | stage | p50, s | p90, s | floor, s | p50 / floor | ids a second | peak memory, GB |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    cell = lambda value, form: "" if value is None else format(value, form)
    for (engine, k), row in sorted(joined(rows).items(), key=lambda item: (item[0][1], item[0][0])):
        for line in stages(row):
            speed = sum(row["tokens"]) / line["p50"] if line["stage"] == "decode" else None
            memory = row["peak_bytes"] / 1e9 if line["stage"] == "total" else None
            cells = [engine, k, line["stage"], f"{line['p50']:.3f}", f"{line['p90']:.3f}", cell(line["floor"], ".3f"),
                     cell(line["ratio"], ".2f"), cell(speed, ".2f"), cell(memory, ".2f")]  # fmt: skip
            lines.append(table_line(cells))
    beside = ratios(rows)
    if beside:
        names = list(dict.fromkeys(name for line in beside for name in line))
        lines += [
            "",
            "Ours over transformers', medians of one run:",
            "",
            f"| {' | '.join(names)} |",
            "|---" * len(names) + "|",
        ]
        lines += [table_line(_shown(line.get(name, "")) for name in names) for line in beside]
    return "\n".join(lines) + "\n"


def _shown(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def table_line(cells: Sequence) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def floors(load: Workload) -> str:
    """Estimates for known chips from shapes alone: milliseconds of each stage at the stated rates, chips that hold the
    weights; several chips share work and bytes evenly and talk for free."""
    model = model_of(load)[0]
    lines = [
        "| chip | chips | K | vision, ms | prefill, ms | decode, ms an id | flow, ms | plan, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    weights = weight_bytes(load)
    for chip, (flops, speed, memory) in CHIPS.items():
        chips = next(n for n in (1, 2, 4, 8, 16) if n * memory * 0.9 > weights)
        for k in (1, 6, 16):
            counted = Workload(**{**vars(load), "samples": k}).costs(model)
            ms = {name: 1e3 * cost.seconds(chips * flops, chips * speed) for name, cost in counted.items()}
            shown = [ms["vision"], ms["prefill"], ms["decode"] / load.tokens, ms["flow"], sum(ms.values())]
            lines.append(table_line([chip, chips, k, *(f"{x:.1f}" for x in shown)]))
    return "\n".join(lines) + "\n"


def weight_bytes(load: Workload) -> float:
    """Bytes of a model's weights in the workload's dtype."""
    return float(trees.count(loading.shapes(model_of(load)[0])) * load.width)
