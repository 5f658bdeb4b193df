"""Open-loop evaluation of a policy on held-out scenes of the driving world, beside those who do not look.

    python -m ar1_jax.main --config=configs/evaluate.py                                  the bundled policy
    python -m ar1_jax.main --config=configs/evaluate.py --config.policy=FOLDER --config.samples=6

About a minute for 1,024 scenes on two cores, a minute more for six samples a scene. Writes open_loop.md and .json.
"""

import ml_collections


def get_config(argument=None):
    """argument: None, or "quick" for few scenes."""
    if argument not in (None, "quick"):
        raise ValueError(f"evaluate:{argument}: the only argument is quick")
    config = ml_collections.ConfigDict()
    config.root, config.name = "runs", "evaluate"
    config.policy = "nano"  # the bundled one, or a folder
    config.split = "test"  # or "validation", "train"
    config.start = 0  # first scene of the split
    config.scenes = 1024
    config.batch = 64
    config.samples = 0  # plans a scene for the minADE, 0 = none; the paper's is 6
    config.temperature = 0.6  # of these samples
    config.seed = 0
    config.check = False  # exit code 1 where a target is missed
    if argument == "quick":
        config.name, config.scenes, config.batch = "evaluate_quick", 32, 16
    return config
