"""The tables of kernels/README.md, from `ar1_kernels.counts` and the runs in results/: `python -m benchmarks.readme`.

A block between <!-- name --> and <!-- end --> is rewritten; a test holds that doing so changes nothing.
"""

import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
from ar1_kernels import chunked, counts
from ar1_kernels.tpu import log_prob

from benchmarks import report
from benchmarks.cases import Case, cases

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "README.md"
CHIPS = ("TPU v5e", "TPU v6e", "H100", "H200", "B200")
WIDTH = 2  # bytes of a bfloat16
OTHER = {
    "attention": "all scores held",
    "shared_prefix_attention": "prefix repeated",
    "linear_log_prob": "all logits held",
}


def both(case: Case) -> tuple[counts.Cost, counts.Cost]:
    """Costs of a case: the least, and of the other way."""
    return tuple(case.sizes.cost(WIDTH, case.backward, other) for other in (False, True))


def of(operation: str) -> list[Case]:
    """The cases of an operation."""
    return [case for case in cases() if case.operation == operation]


def bytes_words(n: float) -> str:
    """12.3 MB, 1.28 GB."""
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB"


def time_words(seconds: float) -> str:
    """4.1 µs, 12.6 ms."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def flops_words(n: float) -> str:
    """811 MFLOP, 74.5 GFLOP, 16.3 TFLOP."""
    size, unit = next((s, u) for s, u in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")) if n >= s)
    return f"{n / size:.3g} {unit}"


def counted(operation: str) -> str:
    """FLOPs, bytes and intensity of each case of an operation, and the estimate of its floor on each chip."""
    other = OTHER[operation]
    head = ["case", "FLOPs", "least bytes", f"bytes, {other}", "FLOPs a byte", f"FLOPs a byte, {other}"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for case in of(operation):
        ours, theirs = both(case)
        cells = [case.name, flops_words(ours.flops), bytes_words(ours.bytes), bytes_words(theirs.bytes),
                 f"{ours.intensity:.0f}", f"{theirs.intensity:.0f}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Estimates (roofline), not measurements; in brackets " + other + ":", ""]
    lines += ["| case | " + " | ".join(CHIPS) + " |", "|---|" + "---:|" * len(CHIPS)]
    for case in of(operation):
        floors = [[cost.seconds(*counts.CHIPS[chip][:2]) for cost in both(case)] for chip in CHIPS]
        cells = [f"{time_words(ours)} ({time_words(theirs)})" for ours, theirs in floors]
        lines.append("| " + " | ".join([case.name, *cells]) + " |")
    return "\n".join(lines)


def chunks() -> str:
    """Bytes of linear_log_prob as the TPU kernels do it: rows in blocks, the backward pass in chunks."""
    case = of("linear_log_prob")[0]
    rows, features, vocabulary = sizes = case.sizes
    shapes = jax.ShapeDtypeStruct(sizes[:2], jnp.bfloat16), jax.ShapeDtypeStruct(sizes[1:], jnp.bfloat16)
    size, block = chunked.chunk_size(*shapes), log_prob.blocks_for(features, jnp.bfloat16).rows
    walks, number = -(-rows // block), -(-vocabulary // size)
    forward = counts.log_prob(*sizes, width=WIDTH, walks=walks)
    backward = counts.log_prob_backward_in_chunks(*sizes, width=WIDTH, chunks=number, walks=walks)
    lines = ["| | bytes | FLOPs a byte |", "|---|---:|---:|"]
    words = f"{walks} blocks of rows"
    for name, cost in (
        (f"forward, {words}", forward),
        (f"forward and backward, {words}, {number} chunks of {size:,} ids", forward + backward),
    ):
        lines.append(f"| {name} | {bytes_words(cost.bytes)} | {cost.intensity:.0f} |")
    return "\n".join(lines)


def chips() -> str:
    """Peaks of the chips, and the intensity at which products rather than memory become the limit."""
    lines = ["| chip | bf16 TFLOP/s | GB/s | balance, FLOPs a byte |", "|---|---:|---:|---:|"]
    for name in CHIPS:
        chip = counts.CHIPS[name]
        lines.append(f"| {name} | {chip.flops / 1e12:.0f} | {chip.bandwidth / 1e9:.0f} | "
                     f"{chip.flops / chip.bandwidth:.0f} |")  # fmt: skip
    for name, chip in counts.REACHED.items():
        lines.append(f"| {name}, reached by one chip in a plain product and a copy | {chip.flops / 1e12:.0f} | "
                     f"{chip.bandwidth / 1e9:.0f} | {chip.flops / chip.bandwidth:.0f} |")  # fmt: skip
    return "\n".join(lines)


def measured(folder: pathlib.Path = HERE / "results") -> str:
    """The tables of the runs in `folder`, full sizes only."""
    runs = [
        json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if "sweep" not in path.name
    ]
    runs = [run for run in runs if not run["tiny"]]
    if not runs:
        return (
            "**Not measured yet**: no accelerator has run these kernels. The command below fills this place."
        )
    return "\n\n".join(re.sub("^(#+)", r"##\1", report.markdown(run), flags=re.MULTILINE) for run in runs)


def filled(text: str) -> str:
    """The page with every block made anew."""
    blocks = {"chips": chips, "chunks": chunks, "measured": measured} | {
        o: lambda o=o: counted(o) for o in OTHER
    }
    for name, make in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = pattern.subn(lambda match, make=make: match[1] + make() + "\n" + match[2], text)
        if found != 1:
            raise ValueError(f"README.md: {found} blocks named {name}, expected 1")
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    sys.exit(0)
