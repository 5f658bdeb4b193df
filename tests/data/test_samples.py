"""Samples of the world said in nano's words: back to text, back to trajectories, cells on their image tokens."""

import jax
import numpy as np
import pytest

from ar1_jax.core import errors
from ar1_jax.data import completions, samples
from ar1_jax.policy import decoding, loading, prompts
from ar1_jax.world import api

POLICY = loading.create("nano", jax.random.key(0))
COUNT = 16
WORLD = api.make_batch(api.split_seeds("train", COUNT))
TEXTS = api.texts(WORLD)
SAMPLES = samples.said(POLICY, WORLD, TEXTS)
LAYOUT = samples.template(POLICY, SAMPLES, api.CAMERA_IDS)
RULES = POLICY.config.grammar("tokens")


def test_completions_read_back_as_the_texts_that_were_written():
    assert decoding.reasonings(POLICY.config, POLICY.vocabulary, SAMPLES["ids"]) == TEXTS


def test_decision_words_are_those_before_the_colon_and_weigh_four():
    for row, text in enumerate(TEXTS):
        marked = POLICY.vocabulary.decode(SAMPLES["ids"][row][SAMPLES["decision"][row]])
        assert marked == text.split(":")[0].replace(",", "")
    np.testing.assert_array_equal(SAMPLES["weights"] == 4.0, SAMPLES["decision"])
    lengths = (SAMPLES["weights"] > 0).sum(-1)
    words = [len(POLICY.vocabulary.encode_user(text)) for text in TEXTS]
    np.testing.assert_array_equal(lengths, np.array(words) + 2 + 2 * RULES.controls + 1)


def test_action_ids_drive_where_the_world_drove():
    xyz, _, valid = decoding.token_trajectories(
        POLICY.config, SAMPLES["ids"][:, None], SAMPLES["ego_history_xyz"], SAMPLES["ego_history_rot"]
    )
    assert np.asarray(valid).all()
    gap = np.linalg.norm(np.asarray(xyz)[:, 0, :, :2] - WORLD["ego_future_xyz"][..., :2], axis=-1)
    assert gap.mean() < 0.6  # metres; what 65 bins a channel and 0.4 s controls cost
    ahead = np.asarray(WORLD["ego_future_xyz"])
    assert (
        np.linalg.norm(ahead - ahead[::-1], axis=-1).mean() > 3.0
    )  # the probe: other scenes are farther away


def test_cells_stand_in_the_order_of_the_image_tokens():
    # One cell of one camera turns white: the image token whose patches change is the one with the cell's number.
    encode = samples.encoder(POLICY.config, LAYOUT)
    batch = {name: SAMPLES[name][:1].copy() for name in samples.ENCODED}
    before = np.asarray(encode(batch).pixels[0]).reshape(4 * 15, 4, -1)
    for camera, row, column in ((0, 0, 0), (2, 1, 3), (3, 2, 4)):
        changed = {**batch, "images": batch["images"].copy()}
        changed["images"][0, camera, 0, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] ^= 255
        after = np.asarray(encode(changed).pixels[0]).reshape(4 * 15, 4, -1)
        moved = (before != after).any(axis=-1)
        cells = np.zeros((1, 4, 1, 3, 5), bool)
        cells[0, camera, 0, row, column] = True
        np.testing.assert_array_equal(moved.all(-1), cells.reshape(-1))
        np.testing.assert_array_equal(moved.any(-1), cells.reshape(-1))
    np.testing.assert_array_equal(SAMPLES["cells"], WORLD["cells"].reshape(COUNT, 60, -1))


def test_a_sample_depends_on_its_number_only():
    world = samples.WorldSamples(POLICY, "train")
    chunk = world.chunk(8)(1)
    for name, value in chunk.items():
        np.testing.assert_array_equal(value, SAMPLES[name][8:16], err_msg=name)


def test_texts_that_cannot_be_said_are_named():
    bins = np.zeros((2, 2 * RULES.controls), np.int32)
    with pytest.raises(errors.DataError, match="2 of 2 texts") as caught:
        completions.build(
            POLICY.vocabulary, RULES, ["Stop, keep lane: zebra.", " ".join(["road"] * 30)], bins
        )
    assert "zebra" in str(caught.value) and "at most 18" in str(caught.value)


def test_prompts_of_samples_equal_prompts_of_scenes():
    from ar1_jax.core.types import Scene

    scene = Scene(
        SAMPLES["images"][3],
        np.asarray(api.CAMERA_IDS, np.int32),
        SAMPLES["ego_history_xyz"][3],
        SAMPLES["ego_history_rot"][3],
    )
    one = prompts.batch(POLICY.config, [prompts.encode_scene(POLICY.config, POLICY.templates, scene)])
    many = samples.encoder(POLICY.config, LAYOUT)(SAMPLES)
    np.testing.assert_array_equal(one.input_ids[0], many.input_ids[3])
    np.testing.assert_array_equal(one.pixels[0], many.pixels[0][12:16])
    np.testing.assert_array_equal(one.position_ids[:, 0], many.position_ids[:, 3])
