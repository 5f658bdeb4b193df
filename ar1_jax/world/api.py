"""Batches of scenes from seeds: what training, evaluation, RL and the figures ask of the world.

B scenes, C = 4 cameras, T frames, M = 8 agents, n = len(CELL_CLASSES). A scene depends on its seed and the arguments,
never on its batch: scenes are made in chunks of one compiled shape and the last chunk is filled up. Frames of length T
end at t0. Positions in m in the ego frame at t0, times 0.1 ... 6.4 s for everything in the future."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.text import coc
from ar1_jax.world import boxes, driver, labels, motion, render, rig, state
from ar1_jax.world import families as registry

CHUNK = 16
CAMERA_IDS = rig.CAMERA_IDS
CELL_CLASSES = boxes.CELL_CLASSES
AGENT_FIELDS = motion.AGENT_FIELDS
ROAD_FIELDS = ("curvature", "right", "left", "stop_line", "light")
NO_LINE = 1e3  # stop_line where nothing demands a stop

_SPLITS = {"train": 0, "validation": 1 << 40, "test": 1 << 41}
_SPLIT_SIZE = 1 << 40


def calibration():
    """The four cameras, core.types.CameraModel in the order of CAMERA_IDS."""
    return rig.calibration()


def split_seeds(split: str, n: int, start: int = 0) -> np.ndarray:
    """int64 [n] seeds of "train", "validation" or "test", from number `start` on; splits are disjoint ranges."""
    if split not in _SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(_SPLITS)}")
    if start < 0 or n < 0 or start + n > _SPLIT_SIZE:
        raise ValueError(f"split {split!r}: scenes {start} to {start + n} are not within 0 to {_SPLIT_SIZE}")
    return np.arange(start, start + n, dtype=np.int64) + _SPLITS[split]


def make_batch(
    seeds, families: Sequence[str] | None = None, *, frames: int = 1, frame_step: float = 0.1
) -> dict:
    """int64 [B] seeds -> dict of NumPy arrays, one scene a seed. `families`: names to draw from (None: all).

    images u8 [B, C, T, 96, 160, 3]; camera_ids i32 [C]; ego_history_xyz f32 [B, 16, 3], ego_history_rot f32
    [B, 16, 3, 3], ego_future_xyz f32 [B, 64, 3], ego_future_rot f32 [B, 64, 3, 3]; cells u8 [B, C, T, 3, 5, n];
    family, longitudinal, lateral i32 [B] (indices of families.names(), coc.LONGITUDINAL, coc.LATERAL); causes i32
    [B, 3] kind, side, distance (coc.Cause.indices); agents f32 [B, M, 64, 7] (AGENT_FIELDS, zero where not valid);
    road f32 [B, 5] (ROAD_FIELDS: 1/m, |d| of the edges with sign, s of the stop line, state of the light); shown bool
    [B]: all that the driver reacts to can be seen; seed i64 [B]."""
    seeds = np.asarray(seeds, np.int64).reshape(-1)
    if frames < 1:
        raise ValueError(f"frames {frames}: at least the one of t0 is needed")
    weight = registry.weights(families)
    filled = np.concatenate([seeds, np.zeros(-len(seeds) % CHUNK or (0 if len(seeds) else CHUNK), np.int64)])
    parts = []
    for chunk in filled.reshape(-1, CHUNK):
        halves = chunk.view(np.uint32).reshape(CHUNK, 2)
        parts.append(_chunk(halves, weight, frames, float(frame_step)))
    batch = {
        name: np.concatenate([np.asarray(part[name]) for part in parts])[: len(seeds)] for name in parts[0]
    }
    batch["camera_ids"] = np.asarray(CAMERA_IDS, np.int32)
    batch["seed"] = seeds
    return batch


def texts(batch: dict) -> list[str]:
    """The Chain of Causation of each scene of a batch."""
    rows = zip(batch["longitudinal"], batch["lateral"], batch["causes"], strict=True)
    return [
        coc.write(coc.LONGITUDINAL[i], coc.LATERAL[j], [coc.cause_of(*map(int, cause))])
        for i, j, cause in rows
    ]


def seed_key(halves):
    """u32 [2], the lower and upper half of a seed -> its random key."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), halves[0]), halves[1])


@functools.partial(jax.jit, static_argnums=(2, 3))
def _chunk(halves, weight, frames, frame_step):
    return jax.vmap(lambda half: _scene(half, weight, frames, frame_step))(halves)


def _scene(halves, weight, frames, frame_step):
    """One scene as a dict of arrays."""
    world, family = registry.sample(seed_key(halves), weight)
    decision = driver.decide(world)
    history_xyz, history_rot = driver.history(world, driver.history_times())
    future_xyz, future_rot = driver.future(world, decision, driver.future_times())
    shots = jax.vmap(lambda time: _shot(world, time))(
        -frame_step * jnp.arange(frames - 1, -1, -1, dtype=jnp.float32)
    )
    named = labels.label(world, decision, shots.box_pixels.sum(0), shots.shining.sum(0))
    red = (world.light.state == state.RED) | (world.light.state == state.YELLOW)
    road = (
        world.road.curvature,
        -state.KERB,
        state.KERB,
        jnp.where(red, world.light.stop, NO_LINE),
        world.light.state,
    )
    return {
        "images": jnp.swapaxes(shots.images, 0, 1),
        "cells": jnp.swapaxes(shots.cells, 0, 1),
        "ego_history_xyz": history_xyz,
        "ego_history_rot": history_rot,
        "ego_future_xyz": future_xyz,
        "ego_future_rot": future_rot,
        "agents": motion.boxes(world.agents, world.road, driver.future_times()),
        "road": jnp.stack([jnp.float32(value) for value in road]),
        "family": family,
        "longitudinal": named.longitudinal,
        "lateral": named.lateral,
        "causes": named.cause,
        "shown": named.shown,
    }


def _shot(world, time) -> render.Pictures:
    """Pictures at `time` [] s <= 0 from t0."""
    xyz, rot = driver.history(world, time[None])
    pose = (xyz[0, 0], xyz[0, 1], jnp.arctan2(rot[0, 1, 0], rot[0, 0, 0]))
    return render.render(world, boxes.of_world(world, time), pose)
