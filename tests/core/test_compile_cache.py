"""A second process starts without compiling. The reference: JAX's own events, counted in two processes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = """
import collections, json, sys, time
import jax
import numpy as np
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rsplit("/", 1)[-1]]))
import ar1_jax
start = time.perf_counter()
policy = ar1_jax.load("nano", cache_dir=sys.argv[1])
xyz = np.zeros((16, 3), np.float32)
xyz[:, 0] = np.arange(-15, 1)
images = np.zeros((4, 1, 96, 160, 3), np.uint8)
scene = ar1_jax.Scene(images, np.array([0, 1, 2, 6]), xyz, np.tile(np.eye(3, dtype=np.float32), (16, 1, 1)))
plan = policy.plan(scene, samples=2, key=jax.random.key(0))
took = time.perf_counter() - start
print(json.dumps({"hits": counts["cache_hits"], "misses": counts["cache_misses"], "seconds": took,
                  "ids": plan.token_ids.tolist()}))
"""


def start(folder) -> dict:
    """One process that loads, plans once and tells."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "AR1_"))}
    env["JAX_PLATFORMS"] = "cpu"
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path, capsys):
    first, second = start(tmp_path / "kept"), start(tmp_path / "kept")
    with capsys.disabled():
        print(f"\nload and plan: first process {first['seconds']:.1f} s ({first['misses']} programs compiled), second "
              f"{second['seconds']:.1f} s ({second['hits']} taken from disk)")  # fmt: skip
    assert first["misses"] > 4 and first["hits"] == 0
    assert second["misses"] == 0 and second["hits"] == first["misses"]
    assert second["ids"] == first["ids"] and second["seconds"] < first["seconds"]
