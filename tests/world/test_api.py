"""The contract of a batch: shapes, seeds, splits, texts; the same scene whatever is beside it."""

import numpy as np
import pytest

from ar1_jax.text import coc
from ar1_jax.world import api, boxes, families

SHAPES = {
    "images": ((64, 4, 1, 96, 160, 3), np.uint8),
    "cells": ((64, 4, 1, 3, 5, len(boxes.CELL_CLASSES)), np.uint8),
    "camera_ids": ((4,), np.int32),
    "ego_history_xyz": ((64, 16, 3), np.float32),
    "ego_history_rot": ((64, 16, 3, 3), np.float32),
    "ego_future_xyz": ((64, 64, 3), np.float32),
    "ego_future_rot": ((64, 64, 3, 3), np.float32),
    "agents": ((64, 8, 64, 7), np.float32),
    "road": ((64, 5), np.float32),
    "family": ((64,), np.int32),
    "longitudinal": ((64,), np.int32),
    "lateral": ((64,), np.int32),
    "causes": ((64, 3), np.int32),
    "shown": ((64,), bool),
    "seed": ((64,), np.int64),
}


def test_shapes_and_dtypes(batch):
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == SHAPES
    assert batch["camera_ids"].tolist() == [0, 1, 2, 6] and len(api.calibration()) == 4
    assert all(np.isfinite(value).all() for value in batch.values())


def test_a_scene_depends_on_its_seed_alone(batch):
    """Alone, in another order, in a chunk that is filled up: bit-equal."""
    for rows in ([5], [40, 3, 17], list(range(63, 43, -1))):
        again = api.make_batch(batch["seed"][rows])
        for name, value in again.items():
            if name != "camera_ids":
                np.testing.assert_array_equal(value, batch[name][rows], err_msg=name)


def test_both_halves_of_a_seed_count():
    """Splits differ in the upper half only, neighbours in the lower."""
    seeds = [api.split_seeds(split, 1, 7)[0] for split in ("train", "validation", "test")] + [8]
    made = api.make_batch(seeds)
    futures = made["ego_future_xyz"].reshape(4, -1)
    assert len(np.unique(futures, axis=0)) == 4


def test_splits_are_disjoint():
    ranges = {split: api.split_seeds(split, 1000, start=10**6) for split in ("train", "validation", "test")}
    assert len(np.unique(np.concatenate(list(ranges.values())))) == 3000
    ends = [api.split_seeds(split, 1, start=(1 << 40) - 1)[0] for split in ("train", "validation")]
    assert ends[0] < api.split_seeds("validation", 1)[0] and ends[1] < api.split_seeds("test", 1)[0]
    with pytest.raises(ValueError, match="not within"):
        api.split_seeds("train", 2, start=(1 << 40) - 1)
    with pytest.raises(ValueError, match="'dev' is not one of train, validation, test"):
        api.split_seeds("dev", 1)


def test_texts_say_the_labels(batch):
    texts = api.texts(batch)
    parsed = coc.parse_batch(texts)
    np.testing.assert_array_equal(parsed.longitudinal, batch["longitudinal"])
    np.testing.assert_array_equal(parsed.lateral, batch["lateral"])
    np.testing.assert_array_equal(parsed.causes, batch["causes"])
    assert all(len(coc.tokens(text)) <= 17 for text in texts)


def test_every_reaction_can_be_seen(batch):
    """Naming only what the pictures show: no reaction of the driver is hidden from the policy."""
    assert batch["shown"].all()
    seen = batch["cells"].any((1, 2, 3, 4))
    of_cause = {"red_light": "red_lamp", "yellow_light": "yellow_lamp", "green_light": "green_lamp",
                "lead_braking": "brake_light", "lead_moving": "lead_vehicle"}  # fmt: skip
    for row, (kind, side, _) in enumerate(batch["causes"]):
        kind = coc.CAUSES[kind]
        if kind in of_cause:
            assert seen[row, boxes.CLASS[of_cause[kind]]]
        if kind == "pedestrian_on_road":
            assert seen[row, boxes.CLASS[f"person_on_road_{coc.SIDES[side]}"]]
        if kind == "stopped_vehicle":
            assert seen[row, boxes.CLASS[f"blocking_vehicle_{coc.SIDES[side]}"]]


def test_families_can_be_chosen():
    made = api.make_batch(np.arange(20), ["lead"])
    assert (made["family"] == families.names().index("lead")).all()
    with pytest.raises(ValueError, match="known are free"):
        api.make_batch(np.arange(2), ["leads"])


def test_empty_batch():
    assert api.make_batch(np.zeros(0, np.int64))["images"].shape == (0, 4, 1, 96, 160, 3)


def test_frames_end_at_t0(batch):
    """Two frames: the last is the picture of t0, the first was taken 0.5 s earlier and differs."""
    two = api.make_batch(batch["seed"][:4], frames=2, frame_step=0.5)
    assert two["images"].shape == (4, 4, 2, 96, 160, 3)
    difference = np.abs(two["images"][:, :, 1].astype(int) - batch["images"][:4, :, 0].astype(int))
    assert (difference > 1).mean() < 1e-3
    assert (two["images"][:, :, 0] != two["images"][:, :, 1]).mean() > 0.02
    with pytest.raises(ValueError, match="frames 0"):
        api.make_batch([1], frames=0)
