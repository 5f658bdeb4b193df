"""Rows of `timing` and `timing_torch` as tables: medians, floors, ratios. Pure functions of the rows' JSON.

The estimate of a floor is the larger of FLOPs over the matrix rate and bytes over the copy rate, counted from shapes by
`models.costs` (roofline); how much slower ours is says where something may be left. It is no bound: the copy rate is
that of reading and writing in equal parts where decoding almost only reads, and the matrix rate is XLA's own.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from ar1_kernels.counts import CHIPS

from ar1_jax.core import trees
from ar1_jax.evaluate.workload import STAGES, Workload, model_of
from ar1_jax.policy import loading

NOTES = (
    "Floors are estimates: the larger of FLOPs over the rate of XLA's own matrix product and bytes over the rate of a "
    "copy, which reads and writes in equal parts where decoding almost only reads; no bound.",
    "Beside transformers: both are greedy, so top-p is in neither. Ours warms up with one whole plan, "
    "theirs with one short plan of one row. Their prefill includes the rope index, the mask and one row of the output "
    "head; ours has the positions computed beforehand on the host and the first use of the head under decode. Ours has "
    "a cache with room for as many ids as a plan's, theirs grows. Transformers has no flow: its total is one without.",
)


def key(row: dict) -> tuple[str, int]:
    """(engine, K) of a row."""
    return row["engine"], row["workload"]["samples"]


def totals(row: dict, flow: bool = True) -> list[float]:
    """Seconds of a whole plan, with or without the flow, one a repeat."""
    return [sum(time for name, time in run.items() if flow or name != "flow") for run in row["seconds"]]


def reading(row: dict) -> list[float]:
    """Seconds until the prompt is read, pictures and text, one a repeat."""
    return [run["vision"] + run["prefill"] for run in row["seconds"]]


def joined(rows: Sequence[dict]) -> dict[tuple[str, int], dict]:
    """Rows of one engine and K as one: repeats of all rounds, largest memory, fastest rates of any round."""
    out: dict[tuple[str, int], dict] = {}
    fastest = {
        name: max((r["rates"][name] for r in rows if "rates" in r), default=0.0)
        for name in ("flops", "bytes")
    }
    for row in rows:
        one = out.setdefault(key(row), {**row, "seconds": [], "processor_seconds": [], "rates": fastest})
        one["seconds"] = one["seconds"] + row["seconds"]
        one["processor_seconds"] = one["processor_seconds"] + row["processor_seconds"]
        one["peak_bytes"] = max(one["peak_bytes"], row["peak_bytes"])
    return out


def stages(row: dict) -> list[dict]:
    """A line a stage and two for the whole: p50, p90, min, max, estimate of the floor, ratio p50 to it (ours only)."""
    floors, whole = {}, {"total without flow": totals(row, flow=False), "total": totals(row)}
    if row["engine"] == "ours":
        load = Workload(**row["workload"])
        counted = load.costs(model_of(load)[0])
        floors = {
            n: cost.seconds(row["rates"]["flops"], row["rates"]["bytes"]) for n, cost in counted.items()
        }
        floors["total"] = sum(floors.values())
        floors["total without flow"] = floors["total"] - floors["flow"]
    out = []
    for name in (*STAGES, *whole):
        taken = whole[name] if name in whole else [run[name] for run in row["seconds"] if name in run]
        if not taken:
            continue
        floor, (p50, p90) = floors.get(name), np.percentile(taken, [50, 90])
        line = {"stage": name, "p50": p50, "p90": p90, "min": min(taken), "max": max(taken)}
        out.append(line | {"floor": floor or None, "ratio": p50 / floor if floor else None})
    return out


def ratios(rows: Sequence[dict]) -> list[dict]:
    """Ours beside transformers for each K that both ran: total, reading of the prompt, ids a second."""
    found, out = joined(rows), []
    one = found.get(("transformers", 1))
    for (engine, k), ours in sorted(found.items()):
        theirs = found.get(("transformers", k))
        if engine != "ours" or theirs is None:
            continue
        over = lambda of, mine=ours, other=theirs: float(np.median(of(mine)) / np.median(of(other)))
        line = {"K": k, "total with flow / theirs": over(totals),
                "total without flow / theirs": over(lambda row: totals(row, flow=False)),
                "vision + prefill / theirs": over(reading), "tokens a second / theirs": over(speeds)}  # fmt: skip
        if one is not None:
            line["one prefill / theirs"] = median(ours, "prefill") / median(one, "prefill")
        out.append(line | {"same ids": ours["ids"] == theirs["ids"]})
    return out


def shares(rows: Sequence[dict]) -> list[dict]:
    """Each engine and K by itself: part of the flow in a plan, peak memory over that at K = 1 where it ran."""
    found, out = joined(rows), []
    for (engine, k), row in sorted(found.items()):
        flow = [run.get("flow", 0.0) for run in row["seconds"]]
        line = {"engine": engine, "K": k, "flow / total": float(np.median(flow) / np.median(totals(row)))}
        if (engine, 1) in found:
            line["peak memory / K = 1"] = row["peak_bytes"] / found[engine, 1]["peak_bytes"]
        out.append(line)
    return out


def median(row: dict, name: str) -> float:
    """Median seconds of a stage."""
    return float(np.median([run[name] for run in row["seconds"]]))


def speeds(row: dict) -> list[float]:
    """Ids of all samples a second of decoding, one a repeat."""
    return [sum(row["tokens"]) / run["decode"] for run in row["seconds"]]


def markdown(rows: Sequence[dict]) -> str:
    """All tables and what they were made from."""
    lines = ["| engine | K | stage | median, s | min..max, s | p90, s | estimate of the floor, s | median / estimate "
             "| ids a second | peak memory, GB |", "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    cell = lambda value, form: "" if value is None else format(value, form)
    for (engine, k), row in sorted(joined(rows).items(), key=lambda item: (item[0][1], item[0][0])):
        for line in stages(row):
            said = speeds(row) if line["stage"] == "decode" else None
            speed = f"{np.median(said):.2f} ({min(said):.2f}..{max(said):.2f})" if said else ""
            memory = row["peak_bytes"] / 1e9 if line["stage"] == "total" else None
            lines.append(table_line([
                engine, k, line["stage"], f"{line['p50']:.3f}", f"{line['min']:.3f}..{line['max']:.3f}",
                f"{line['p90']:.3f}", cell(line["floor"], ".3f"), cell(line["ratio"], ".2f"), speed,
                cell(memory, ".2f"),
            ]))  # fmt: skip
    lines += _named("Parts:", shares(rows)) + _named(
        "Ours over transformers', medians of one run:", ratios(rows)
    )
    return "\n".join([*lines, "", "\n\n".join(NOTES)]) + "\n"


def _named(title: str, rows: Sequence[dict]) -> list[str]:
    """Lines of a table with the rows' own names, none without rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = ["", title, "", table_line(names), "|---" * len(names) + "|"] if rows else []
    return head + [table_line(_shown(row.get(name, "")) for name in names) for row in rows]


def _shown(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def table_line(cells: Iterable) -> str:
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
