"""Resizing and patches: goldens of the released preprocessing, and the fixed-point rule written out in loops."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ar1_jax import images
from ar1_jax.core import errors
from tests.goldens import compare, weights

CASES = sorted({r["key"].split("/")[0] for r in compare.manifest()["image_processing"]["rows"]})


def reference_axis(values, n_out):
    """One axis of a list of ints, from the definition, one output at a time."""
    n_in, scale = len(values), len(values) / n_out
    stretch, rows = max(scale, 1.0), []
    for i in range(n_out):
        c = scale * (i + 0.5)
        first, end = max(int(c - 2 * stretch + 0.5), 0), min(int(c + 2 * stretch + 0.5), n_in)
        w = []
        for j in range(first, end):
            x = abs((j - c + 0.5) / stretch)
            w.append(
                1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0
            )
        rows.append((first, [v / sum(w) for v in w]))
    largest, p = max(max(w) for _, w in rows), 0
    while p < 22 and int(0.5 + largest * 2 ** (p + 1)) < 2**15:
        p += 1
    out = []
    for first, w in rows:
        q = [int(v * 2**p + (0.5 if v >= 0 else -0.5)) for v in w]
        total = sum(a * int(b) for a, b in zip(q, values[first : first + len(q)], strict=True))
        out.append(min(max((total + 2 ** (p - 1)) >> p, 0), 255))
    return out


@pytest.mark.fast
@pytest.mark.parametrize("case", CASES)
def test_pixel_values_match_the_release(case):
    seed, n, h, w, low, high = (int(v) for v in compare.arrays("image_processing")[case + "/in/spec"])
    pixels, grid = images.preprocess(weights.images(seed, (n, h, w, 3)), low, high)
    compare.assert_golden("image_processing", case + "/pixel_values", pixels)
    compare.assert_golden("image_processing", case + "/image_grid_thw", grid)


def test_known_12_to_5():
    values = (37 * np.arange(12)[:, None] + 11 * np.arange(12)) % 256
    got = images.resize(values.astype("uint8")[..., None].repeat(3, -1), 5, 5)
    want = [
        [36, 62, 89, 117, 149],
        [125, 154, 183, 193, 157],
        [184, 176, 121, 69, 58],
        [54, 73, 88, 120, 156],
        [129, 156, 184, 210, 160],
    ]
    for channel in range(3):
        np.testing.assert_array_equal(got[..., channel], want)


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    size=st.sampled_from(
        [((54, 96), (32, 64)), ((40, 33), (96, 64)), ((32, 700), (32, 64)), ((1300, 20), (32, 20))]
    ),
    seed=st.integers(0, 9),
    hard=st.booleans(),
)
def test_both_routes_equal_the_rule_in_loops(size, seed, hard):
    (h, w), (out_h, out_w) = size
    x = np.random.default_rng(seed).integers(0, 256, (2, h, w, 3)).astype("uint8")
    x = np.where(x < 128, 0, 255).astype("uint8") if hard else x  # hard edges: overshoot must be clipped
    got = images.resize(x, out_h, out_w)
    np.testing.assert_array_equal(got, images.resize_jax(x, out_h, out_w))
    row = [reference_axis(r, out_w) if w != out_w else list(r) for r in x[1, :, :, 2]]
    column = [r[3] for r in row]
    np.testing.assert_array_equal(got[1, :, 3, 2], reference_axis(column, out_h) if h != out_h else column)


def test_strong_shrinking_stays_exact():
    """40 to 1: weights of 20 bits on bright pixels exceed float32; a million values, as few lie near a boundary."""
    x = np.random.default_rng(0).integers(200, 256, (20000, 640, 3)).astype("uint8")
    np.testing.assert_array_equal(images.resize(x, 20000, 16), images.resize_jax(x, 20000, 16))


def test_patch_order():
    x = np.zeros((64, 64, 3), np.uint8)
    x[16 * 3 + 5, 16 * 1 + 7, 2] = 255  # patch row 3, patch column 1; inside it row 5, column 7; blue
    patches = np.asarray(images.patchify(x))
    assert patches.shape == (16, 1536)
    lit = np.argwhere(patches > 0)
    row = (1 * 2 + 0) * 4 + 1 * 2 + 1  # block (1, 0) of 2 x 2 blocks, inside it (1, 1)
    np.testing.assert_array_equal(lit, [[row, ((2 * 2 + t) * 16 + 5) * 16 + 7] for t in range(2)])
    assert patches.min() == -1 and patches.max() == 1


def test_target_sizes():
    sizes = {
        (1080, 1920): (320, 576),
        (1208, 1920): (320, 544),
        (1280, 1920): (352, 512),
        (512, 512): (416, 416),
    }
    for native, want in sizes.items():
        assert images.target_size(*native, 163840, 196608) == want


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), "expected uint8"),
        (np.zeros((1, 3, 32, 32), np.uint8), r"\[..., height, width, 3\]"),
        (np.zeros((1, 1, 300, 3), np.uint8), "factor 200"),
        (np.zeros((32, 32, 3), np.uint8), r"\[N, height, width, 3\]"),
    ],
)
def test_bad_images_are_refused(x, says):
    with pytest.raises(errors.ImageError, match=says):
        images.preprocess(x, 1024, 4096)
    with pytest.raises(errors.ImageError, match="multiples of 32"):
        images.patchify(np.zeros((40, 64, 3), np.uint8))
