"""Comparison of a quantity with its golden, under the bound of manifest.json."""

import functools
import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent


@functools.cache
def manifest() -> dict:
    """The whole of manifest.json."""
    return json.loads((HERE / "manifest.json").read_text())


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of NAME.npz."""
    with np.load(HERE / f"{name}.npz") as data:
        return dict(data)


def row(name: str, key: str) -> dict:
    """The manifest's row of a quantity: shape, take, bound, row_bounds, dtype, tie."""
    return next(r for r in manifest()[name]["rows"] if r["key"] == key)


def assert_golden(name: str, key: str, got) -> None:
    """`got`, the full quantity, equals golden `key` of NAME.npz within the bound; NaN and -999999 are not compared."""
    want, rule, got = arrays(name)[key], row(name, key), np.asarray(got)
    assert list(got.shape) == rule["shape"], f"{key}: shape {got.shape}, expected {rule['shape']}"
    for axis, index in enumerate(rule.get("take") or ()):
        if index is not None:
            got = np.take(got, index, axis=axis)
    if rule["dtype"] == "int32":
        off = np.abs(got.astype(np.int64) - want)
        allowed = arrays(name)[key + ".tie"].astype(np.int64) if rule.get("tie") else 0
        bad = (off > allowed) & (want != -999999)
        assert not bad.any(), f"{key}: {bad.sum()} of {bad.size} ids differ"
        return
    bound = np.asarray(rule.get("row_bounds", rule["bound"]))
    bound = bound.reshape(bound.shape + (1,) * (want.ndim - bound.ndim)) if bound.ndim else bound
    share = np.where(np.isnan(want), 0.0, np.abs(got.astype(np.float64) - want) / bound)
    assert np.isfinite(got[~np.isnan(want)]).all(), f"{key}: not finite"
    assert (share <= 1).all(), f"{key}: {share.max():.3g} times the bound"
