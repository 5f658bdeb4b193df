"""Scenes as Python gives them: what is wrong is said before anything runs, and a list is planned with a key each."""

import jax
import numpy as np
import pytest

import ar1_jax
from ar1_jax.core import errors
from ar1_jax.policy import loading

POLICY = loading.create("nano", jax.random.key(3))
KEY = jax.random.key(0)


def scene(speed=10.0):
    xyz = np.zeros((16, 3), np.float32)
    xyz[:, 0] = np.arange(-15, 1) * 0.1 * speed
    images = np.random.default_rng(int(speed)).integers(0, 256, (4, 1, 96, 160, 3), dtype=np.uint8)
    rot = np.tile(np.eye(3, dtype=np.float32), (16, 1, 1))
    return ar1_jax.Scene(images, np.array([0, 1, 2, 6]), xyz, rot)


GOOD = scene()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": GOOD.images[:, 0]}, r"images: shape \[4, 96, 160, 3\], expected \[C, T, H, W, 3\]"),
        ({"images": GOOD.images / 255.0}, "images: float64, expected uint8"),
        ({"camera_ids": np.array([0, 2, 1, 6])}, "camera_ids: .* out of order"),
        ({"camera_ids": np.array([0, 1, 2])}, "4 cameras, but 3 camera_ids"),
        ({"ego_history_xyz": GOOD.ego_history_xyz[1:]}, r"ego_history_xyz: shape \[15, 3\]"),
        ({"ego_history_xyz": GOOD.ego_history_xyz[::-1]}, "rows are reversed"),
        ({"ego_history_rot": GOOD.ego_history_rot * 2}, "no rotation"),
    ],
)
def test_a_scene_that_is_none_is_refused(change, message):
    with pytest.raises(errors.SceneError, match=message):
        POLICY.plan(GOOD.replace(**change), samples=2, key=KEY)


def test_all_problems_come_at_once_with_the_place_in_the_list():
    bad = GOOD.replace(camera_ids=np.array([0, 1, 2, 9]), ego_history_rot=GOOD.ego_history_rot[:3])
    with pytest.raises(errors.SceneError, match="scene 1: 2 problems") as caught:
        POLICY.plan([GOOD, bad], samples=2, key=KEY)
    assert "9 is unknown" in str(caught.value) and "ego_history_rot" in str(caught.value)


@pytest.mark.slow
def test_a_key_a_scene_draws_what_that_key_draws_alone():
    scenes, keys = [GOOD, scene(5.0)], list(jax.random.split(KEY, 2))
    together = POLICY.plan(scenes, samples=2, key=keys, flow_steps=1)
    for one, key, plan in zip(scenes, keys, together, strict=True):
        alone = POLICY.plan(one, samples=2, key=key, flow_steps=1)
        np.testing.assert_array_equal(plan.token_ids, alone.token_ids)
        np.testing.assert_allclose(plan.actions, alone.actions, atol=1e-5)
    swapped = POLICY.plan(scenes, samples=2, key=keys[::-1], flow_steps=1)
    assert np.abs(swapped[0].actions - together[0].actions).max() > 1e-3  # the probe
    with pytest.raises(ValueError, match="3 keys for 2 scenes"):
        POLICY.plan(scenes, samples=2, key=[KEY] * 3)
