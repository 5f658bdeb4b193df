"""One batch of 64 scenes, rendered once for all tests of the world."""

import pytest

from ar1_jax.world import api


@pytest.fixture(scope="session")
def batch():
    return api.make_batch(api.split_seeds("train", 64))
