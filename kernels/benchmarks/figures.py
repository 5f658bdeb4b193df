"""The figures of kernels/README.md, written to kernels/figures/: `python -m benchmarks.figures` (needs matplotlib)."""

import pathlib

import numpy as np
from ar1_kernels import counts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks import cases, readme

FOLDER = pathlib.Path(__file__).parent.parent / "figures"
INK, PALE = "#333333", "#f1f1ee"
WHOLE, PART, SHARED, OWN = "#4c78a8", "#f2a65a", "#4c78a8", "#72b7b2"


def canvas(width: float, height: float, panels: int, ratios=None):
    """A figure and its axes, no ticks."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = np.atleast_1d(figure.subplots(1, panels, width_ratios=ratios))
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure, axes


def save(figure, name: str) -> None:
    """Writes kernels/figures/<name>.png."""
    FOLDER.mkdir(exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(FOLDER / f"{name}.png"), metadata={"Software": None})


def box(axis, x, y, width, height, colour, words="", **given):
    """A filled rectangle with its words in the middle."""
    axis.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", linewidth=1.2))
    light = {"color": "white" if colour in (WHOLE, SHARED) else INK}
    axis.text(
        x + width / 2, y + height / 2, words, ha="center", va="center", **(light | {"fontsize": 9} | given)
    )


def seen(live: np.ndarray, rows: int, keys: int) -> np.ndarray:
    """Mask [X, S] -> 0 where a tile of [rows, keys] sees nothing, 1 something, 2 everything."""
    x, s = live.shape
    tiles = [[live[i : i + rows, j : j + keys] for j in range(0, s, keys)] for i in range(0, x, rows)]
    return np.array([[int(t.any()) + int(t.all()) for t in line] for line in tiles])


def tiles(axis, live: np.ndarray, rows: int, keys: int, title: str) -> None:
    """What is computed of the scores: tiles without a mask, with one, and none."""
    table = seen(live, rows, keys)
    for (i, j), code in np.ndenumerate(table):
        axis.add_patch(
            Rectangle((j, i), 1, 1, facecolor=(PALE, PART, WHOLE)[code], edgecolor="white", linewidth=1)
        )
    height, width = table.shape
    axis.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1))
    axis.set_xlabel(f"{live.shape[1]:,} keys in blocks of {keys}: stream past", fontsize=10)
    axis.set_ylabel(f"{live.shape[0]:,} rows in chunks of {rows}: stay in VMEM", fontsize=10)
    done = (table > 0).mean()
    axis.set_title(
        f"{title}\n{done:.0%} of the tiles computed, {(table == 1).mean():.0%} with a mask", fontsize=10
    )


def attention() -> None:
    """Tiles of the prefill (one kv head, all rows of its query heads) and of the packed vision tower."""
    prefill, vision = (c.sizes for c in readme.of("attention")[:2])
    figure, axes = canvas(11, 5.4, 2, (1, 1.7))
    group = prefill.heads // prefill.kv_heads
    query = np.arange(prefill.queries * group)[:, None] // group
    tiles(axes[0], np.arange(prefill.keys) <= query, 512, 512, "prefill: causal, one kv head")
    piece = np.arange(vision.queries) // (vision.queries // vision.pieces)
    tiles(axes[1], piece[:, None] == piece, 512, 512, "vision: 16 pictures packed in a row, one head")
    marks = [Rectangle((0, 0), 1, 1, facecolor=c) for c in (WHOLE, PART, PALE)]
    words = ["computed, every row sees every key: no mask", "computed with a mask", "not computed"]
    figure.legend(marks, words, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    save(figure, "attention")


def shared_prefix() -> None:
    """Which keys lie in memory and which rows read them: repeated, and stored once."""
    decode = readme.of("shared_prefix_attention")[0]
    once, copies = readme.both(decode)
    figure, axes = canvas(11, 4.6, 2, (1.45, 1))
    drawn, prefix, own = 4, 3.0, 0.8
    for i in range(drawn):
        left = i * (prefix + own)
        box(axes[0], left, i, prefix, 0.94, SHARED, f"prefix, copy {i + 1}")
        box(axes[0], left + prefix, i, own, 0.94, OWN, "own", fontsize=8)
        box(axes[1], prefix + i * own, i, own, 0.94, OWN, "own", fontsize=8)
    box(
        axes[1],
        0,
        0,
        prefix,
        drawn - 0.06,
        SHARED,
        "one prefix,\nfetched once\nfor the rows of\nall sequences",
    )
    group = decode.sizes.heads // decode.sizes.kv_heads
    for axis, right in zip(axes, (drawn * (prefix + own), prefix + drawn * own)):
        axis.set(xlim=(-0.05, right + 0.05), ylim=(drawn + 0.05, -0.05))
        axis.set_xlabel("keys of a kv head in memory", fontsize=10)
        axis.set_yticks(np.arange(drawn) + 0.47, [f"sequence {i + 1}" for i in range(drawn)], fontsize=9)
    rows = f"{decode.sizes.samples} products of {group} rows a kv head"
    joined = f"one product of {decode.sizes.samples * group} rows a kv head"
    axes[0].set_title(f"prefix repeated\n{rows}, {readme.bytes_words(copies.bytes)} read", fontsize=10)
    axes[1].set_title(f"prefix stored once\n{joined}, {readme.bytes_words(once.bytes)} read", fontsize=10)
    figure.supxlabel("Decoding with K = 16, one scene, one layer of the 10 B model; four sequences drawn. own: "
                     "suffix and the query's own key. Parts are joined by log-sum-exp.", fontsize=10)  # fmt: skip
    save(figure, "shared_prefix")


def log_prob() -> None:
    """Forward: tiles of the vocabulary pass by a block of rows. Backward: a chunk of d logits at a time."""
    figure, axes = canvas(11, 4.6, 2, (1.15, 1))
    across, down = 9, 4
    box(axes[0], -2.9, 0, 2.5, 1.0, SHARED, "hidden [R, D]\nstays", fontsize=8)
    box(axes[0], 0, 0, 3, 1, WHOLE, "gone again", fontsize=8)
    box(axes[0], 3, 0, 1, 1, PART, "logits\n[R, T]", fontsize=8)
    box(axes[0], across + 0.4, 0, 2.6, 1.0, SHARED, "peak, sum,\nlabel, mean", fontsize=8)
    for j in range(down):
        if j:
            box(axes[0], -2.9, j, 2.5, 1.0, PALE, f"rows, block {j + 1}", fontsize=8)
        for i in range(across):
            if j or i > 3:
                box(axes[0], i, j, 1, 1, PALE)
    for i in range(across):
        box(axes[0], i, -1.5, 1, 1.2, OWN if i == 3 else PALE, "tile\n[D, T]" if i == 3 else "", fontsize=8)
    middle = {"ha": "center", "va": "center"}
    axes[0].text(across / 2, 1.0 + (down - 1) / 2, "logits [N, V]: never in memory", fontsize=11, **middle)
    axes[0].text(across / 2 + 2.1, -0.9, "weight [D, V] streams past", fontsize=9, **middle)
    axes[0].set(xlim=(-3.0, across + 3.1), ylim=(down + 0.2, -1.7))
    axes[0].set_title("forward: one product, four numbers kept a row", fontsize=10)
    box(axes[1], 0.0, 1.6, 1.6, 3.2, SHARED, "hidden\n[N, D]")
    box(axes[1], 2.2, 0.0, 1.4, 1.3, OWN, "weight\n[D, Vc]")
    box(axes[1], 2.2, 1.6, 1.4, 3.2, PART, "d logits\nof a chunk\n[N, Vc]")
    box(axes[1], 5.0, 1.6, 1.6, 3.2, SHARED, "d hidden\n[N, D]\nsum of\nchunks")
    box(axes[1], 7.0, 0.0, 1.8, 1.3, OWN, "d weight\n[D, Vc]")
    arrow = {"arrowstyle": "->", "color": INK, "lw": 1.2}
    for start, end in (((1.65, 3.2), (2.15, 3.2)), ((2.9, 1.33), (2.9, 1.58)), ((3.65, 3.2), (4.95, 3.2)),
                       ((3.65, 1.9), (6.95, 0.7))):  # fmt: skip
        axes[1].annotate("", end, start, arrowprops=arrow)
    axes[1].text(4.3, 3.0, "· weightᵀ", ha="center", va="bottom", fontsize=9)
    axes[1].text(5.3, 0.95, "hiddenᵀ ·", ha="center", va="bottom", fontsize=9)
    axes[1].set(xlim=(-0.1, 8.9), ylim=(5.0, -0.3))
    axes[1].set_title("backward, chunk after chunk: logits again, two plain products", fontsize=10)
    save(figure, "log_prob")


def roofline() -> None:
    """Attainable FLOP/s over intensity: where each case lies, ours filled, the other way hollow."""
    figure = Figure(figsize=(11, 5), layout="constrained", facecolor="white")
    forward = [case for case in cases.cases() if not case.backward and case.name != "decode, eight scenes"]
    colours = ("#4c78a8", "#e45756", "#54a24b", "#f58518", "#b279a2", "#222222")
    for axis, chip in zip(figure.subplots(1, 2, sharey=True), ("TPU v5e", "H200")):
        flops, bandwidth, _ = counts.CHIPS[chip]
        across = np.geomspace(2, 8000, 200)
        axis.loglog(
            across, np.minimum(flops, across * bandwidth) / 1e12, color="#999999", linewidth=1.5, zorder=1
        )
        for case, colour in zip(forward, colours):
            spots = [
                (c.intensity, c.flops / c.seconds(flops, bandwidth) / 1e12)
                for c in reversed(readme.both(case))
            ]
            axis.scatter(*spots[0], s=55, facecolor="white", edgecolor=colour, linewidth=1.5, zorder=3)
            axis.scatter(*spots[1], s=55, color=colour, zorder=4,
                         label="decode, any number of scenes" if "decode" in case.name else case.name)  # fmt: skip
        axis.set_title(f"{chip}: {flops / 1e12:.0f} TFLOP/s, {bandwidth / 1e9:.0f} GB/s", fontsize=10)
        axis.set_xlabel("FLOPs a byte of device memory", fontsize=10)
        axis.grid(color="#e8e8e8", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("TFLOP/s, estimate of the most", fontsize=10)
    handles, words = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=3, frameon=False, fontsize=10,
                  title="filled: each operand once; hollow: scores held, prefix repeated, logits held")  # fmt: skip
    save(figure, "roofline")


if __name__ == "__main__":
    for draw in (attention, shared_prefix, log_prob, roofline):
        draw()
