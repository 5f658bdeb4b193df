"""Action codecs against the released code's numbers on 14 synthetic and 20 real motions (tests/goldens)."""

import numpy as np
import pytest

from ar1_jax import actions
from tests.goldens import compare

SPACE, HISTORY, HISTORY_YAW, FUTURE = (
    compare.manifest()["codec_config"][k] for k in ("action_space", "history", "history_yaw", "future")
)
SETS = {"codecs": "synthetic", "real_egomotion": "real"}


def quantities(name):
    """Every quantity of a set from its inputs, computed when called."""
    prefix = SETS[name]
    data = {k.removeprefix(prefix + "/"): v for k, v in compare.arrays(name).items()}
    past = data["in/ego_history_xyz"], data["in/ego_history_rot"]
    future = data["in/ego_future_xyz"], data["in/ego_future_rot"]
    noise, stored = data["in/actions"], data["encoded_actions"]
    decode = lambda x: actions.unicycle_decode(x, *past, SPACE)
    decode_future = lambda: actions.decode_future_ids(data["in/future_ids"], *past, FUTURE)
    decode_history = lambda: actions.decode_history_ids(data["history_ids"], HISTORY)
    return {
        "initial_speed": lambda: actions.initial_speed(*past, SPACE),
        "encoded_actions": lambda: actions.unicycle_encode(*past, *future, SPACE),
        "reconstructed_xyz": lambda: decode(stored)[0],
        "reconstructed_rot": lambda: decode(stored)[1],
        "within_bounds": lambda: actions.within_bounds(stored, SPACE),
        "decoded_xyz": lambda: decode(noise)[0],
        "decoded_rot": lambda: decode(noise)[1],
        "within_bounds_random": lambda: actions.within_bounds(noise * np.float32(12), SPACE),
        "history_ids": lambda: actions.history_ids(*past, HISTORY),
        "history_decoded_xyz": lambda: decode_history()[0],
        "history_decoded_rot": lambda: decode_history()[1],
        "history_yaw_ids": lambda: actions.history_ids(*past, HISTORY_YAW),
        "future_ids": lambda: actions.future_ids(*past, *future, FUTURE),
        "future_decoded_xyz": lambda: decode_future()[0],
        "future_decoded_rot": lambda: decode_future()[1],
    }


@pytest.mark.fast
@pytest.mark.parametrize("name", SETS)
def test_every_quantity_is_within_its_bound(name):
    made = quantities(name)
    assert {r["key"].split("/")[1] for r in compare.manifest()[name]["rows"]} == set(made)
    for quantity, compute in made.items():
        compare.assert_golden(name, f"{SETS[name]}/{quantity}", compute())


def test_dict_and_dataclass_configs_agree():
    past = (compare.arrays("codecs")[f"synthetic/in/ego_history_{k}"] for k in ("xyz", "rot"))
    past = tuple(past)
    for given, of in ((HISTORY, actions.HistoryCodecConfig.of), (HISTORY_YAW, actions.HistoryCodecConfig.of)):
        np.testing.assert_array_equal(
            actions.history_ids(*past, given), actions.history_ids(*past, of(given))
        )
    assert (
        actions.FutureCodecConfig.of(FUTURE) == actions.FutureCodecConfig()
    )  # the defaults are the released values
    assert actions.HistoryCodecConfig.of(HISTORY) == actions.HistoryCodecConfig()
