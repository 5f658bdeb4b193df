"""Rows of a run as Markdown: a table a case, rates beside what the chip reaches and what its maker states."""

from ar1_kernels import counts

KINDS = {  # how jax names a device, by its beginning -> the line of counts.CHIPS
    "TPU v5 lite": "TPU v5e",
    "TPU v5": "TPU v5p",
    "TPU v6 lite": "TPU v6e",
    "TPU7x": "TPU7x",
    "NVIDIA A100": "A100 80 GB",
    "NVIDIA H100": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
    "NVIDIA RTX PRO 6000": "RTX PRO 6000",
    "NVIDIA Thor": "Jetson Thor",
}
HEAD = (
    "way", "error", "time, µs", "fastest-slowest", "TFLOP/s", "GB/s", "of product", "of copy", "of roofline",
    "temporaries, MB", "x ours",
)  # fmt: skip


def chip_of(kind: str) -> str | None:
    """Name in counts.CHIPS of the device that jax calls `kind`."""
    return next((name for start, name in KINDS.items() if kind.startswith(start)), None)


def markdown(run: dict) -> str:
    """run: what `__main__` writes as JSON -> page."""
    reached = run["ceilings"]
    lines = [
        f"# {run['device']}, {run['dtype']}", "",
        f"{run['date']}, jax {run['versions']['jax']}, jaxlib {run['versions']['jaxlib']}, `{run['command']}`. "
        f"This chip reached {reached['flops'] / 1e12:.4g} TFLOP/s in a plain product and "
        f"{reached['bandwidth'] / 1e9:.4g} GB/s in a copy (bytes read and written), measured by the same command.", "",
        "Rates count the least FLOPs and bytes of the operation (`ar1_kernels.counts`), whatever a way really does. "
        f"Error: of the worst row against float32, bound {run['bound']:g} ({run['nats']:g} nats for "
        "log-probabilities). Of roofline: least time by the maker's peaks over the time taken. x ours: time over that "
        "of `ours, auto`.", "",
    ]  # fmt: skip
    for case in dict.fromkeys(row["case"] for row in run["rows"]):
        rows = [row for row in run["rows"] if row["case"] == case]
        lines += [f"## {case}", "", f"`{rows[0]['sizes']}`", ""]
        lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        own = next(
            (r["seconds"]["median"] for r in rows if r["way"] == "ours, auto" and r["status"] == "timed"),
            None,
        )
        lines += ["| " + " | ".join(_cells(row, reached, run["chip"], own)) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cells(row: dict, reached: dict, chip: str | None, own: float | None) -> list[str]:
    error = "-" if row.get("error") is None else f"{row['error']:.1e}"
    if row["status"] != "timed":
        return [
            row["way"],
            error,
            f"{row['status']}: {row['reason']}".replace("|", "/"),
            *[""] * (len(HEAD) - 3),
        ]
    median = row["seconds"]["median"]
    cost = counts.Cost(row["flops"], row["bytes"])
    floor = "-" if chip is None else f"{cost.seconds(*counts.CHIPS[chip][:2]) / median:.0%}"
    return [
        row["way"], error, f"{median * 1e6:.4g}",
        f"{row['seconds']['fastest'] * 1e6:.4g}-{row['seconds']['slowest'] * 1e6:.4g}",
        f"{cost.flops / median / 1e12:.4g}", f"{cost.bytes / median / 1e9:.4g}",
        f"{cost.flops / median / reached['flops']:.0%}", f"{cost.bytes / median / reached['bandwidth']:.0%}", floor,
        f"{row['temporaries'] / 1e6:.4g}", "-" if own is None else f"{median / own:.2f}",
    ]  # fmt: skip
