"""The pipeline against its definition written out, and resumed against uninterrupted."""

import json
import threading

import numpy as np
import pytest

from ar1_jax.data import augment, pipeline, reuse

LAYOUT = reuse.Layout(batch=4, chunk=6, block=12, reuse=3, seed=7)


def make(number):
    """Six scenes of one 2 x 3 picture; scene s is recognised by its seed and by its pictures."""
    seeds = np.arange(6) + 6 * number
    images = np.random.default_rng(number).integers(0, 256, (6, 1, 1, 2, 3, 3)).astype(np.uint8)
    return {"seed": seeds, "images": images}


def read(iterator, count):
    return [next(iterator) for _ in range(count)]


def test_each_block_is_gone_through_reuse_times_first_in_order():
    scenes = np.concatenate([LAYOUT.scenes(i) for i in range(18)]).reshape(2, 3, 12)
    for block in range(2):
        np.testing.assert_array_equal(scenes[block, 0], 12 * block + np.arange(12))
        for turn in (1, 2):
            assert sorted(scenes[block, turn]) == list(12 * block + np.arange(12))
            assert (scenes[block, turn] != scenes[block, 0]).any()
    assert (scenes[0, 1] != scenes[0, 2]).any() and (scenes[0, 1] + 12 != scenes[1, 1]).any()


def test_batches_are_what_the_index_says():
    settings = pipeline.Augment(brightness=0.0, contrast=0.0, drop=0.0)
    for index, batch in enumerate(read(pipeline.training_iterator(make, LAYOUT, settings), 14)):
        np.testing.assert_array_equal(batch["seed"], LAYOUT.scenes(index))
        for row, scene in enumerate(LAYOUT.scenes(index)):
            np.testing.assert_array_equal(batch["images"][row], make(scene // 6)["images"][scene % 6])


def test_resumed_equals_uninterrupted_whatever_the_threads():
    settings = pipeline.Augment(drop=0.3)
    whole = read(pipeline.training_iterator(make, LAYOUT, settings, threads=4, ahead=6), 9)
    first = pipeline.training_iterator(make, LAYOUT, settings, threads=1, ahead=2)
    read(first, 5)
    state = json.loads(json.dumps(first.get_state()))
    second = pipeline.training_iterator(make, LAYOUT, settings)
    second.set_state(state)
    for got, want in zip(read(second, 4), whole[5:], strict=True):
        for name in want:
            np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_dropped_scenes_are_grey_and_said_so():
    batch = pipeline.sample_batch(reuse.Chunks(make, 2), LAYOUT, pipeline.Augment(drop=0.5), 1)
    grey = (batch["images"] == augment.GREY).all(axis=(1, 2, 3, 4, 5))
    np.testing.assert_array_equal(grey, batch["seen"] == 0)
    assert 0 < grey.sum() < 4


def test_brightness_and_contrast_match_the_formula():
    images = make(0)["images"]
    got = augment.brightness_and_contrast(images, np.random.default_rng(3), 0.1, 0.2)
    rng = np.random.default_rng(3)
    shift, gain = rng.uniform(-0.1, 0.1, 6), rng.uniform(0.8, 1.2, 6)
    for scene in range(6):
        want = 128 + gain[scene] * (images[scene].astype(float) - 128) + 255 * shift[scene]
        np.testing.assert_array_equal(got[scene], np.clip(np.rint(want), 0, 255).astype(np.uint8))


def test_shuffled_leaves_no_scene_its_own_pictures():
    images = make(0)["images"]
    changed = augment.shuffled(images)
    assert all((changed[i] == images[i - 1]).all() and (changed[i] != images[i]).any() for i in range(6))


def test_brightness_is_drawn_anew_for_every_batch():
    grey = lambda number: make(number) | {"images": np.full((6, 1, 1, 2, 3, 3), 64, "uint8")}
    chunks = reuse.Chunks(grey, 4)
    first, second = (
        pipeline.sample_batch(chunks, LAYOUT, pipeline.Augment(drop=0.0), i)["images"] for i in (0, 1)
    )
    assert (first != second).any()
    assert len(np.unique(first)) > 1  # and for every scene of a batch


def test_a_chunk_is_made_once_for_all_threads_and_old_ones_are_dropped():
    made, asked, go = [], threading.Semaphore(0), threading.Event()

    def slow(number):
        made.append(number)
        go.wait(timeout=30)
        return {"n": np.full(1, number)}

    def ask(number):
        asked.release()
        chunks.get(number)

    chunks = reuse.Chunks(slow, keep=2)
    threads = [threading.Thread(target=ask, args=(i % 2,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for _ in threads:  # all have asked while the first two chunks are in the making
        asked.acquire()
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(made) == [0, 1]
    for number in (2, 1, 2, 0):
        chunks.get(number)
    assert made[2:] in ([2, 0], [2, 1, 0])  # whichever of the two was older went first


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="block 10"):
        reuse.Layout(batch=4, chunk=5, block=10, reuse=1, seed=0)
