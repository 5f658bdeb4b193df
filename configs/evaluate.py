"""Open-loop evaluation of a policy on held-out scenes of the driving world, beside those who do not look.

    python -m ar1_jax.main --config=configs/evaluate.py                                  the bundled policy
    python -m ar1_jax.main --config=configs/evaluate.py --config.policy=FOLDER --config.samples=6
    python -m ar1_jax.main --config=configs/evaluate.py:dial                             flow steps against time
    python -m ar1_jax.main --config=configs/evaluate.py:int8                             weights in eight bits

About a minute for 1,024 scenes on two cores, a minute more for six samples a scene. Writes open_loop.md and .json.
"""

import ml_collections


def get_config(argument=None):
    """argument: None, "quick" for few scenes, or another table: "dial", "int8", "fp8"."""
    if argument not in (None, "quick", "dial", "int8", "fp8"):
        raise ValueError(f"evaluate:{argument}: the argument is one of quick, dial, int8, fp8")
    config = ml_collections.ConfigDict()
    config.root, config.name = "runs", "evaluate"
    config.policy = "nano"  # the bundled one, or a folder
    config.kernels = (
        "auto"  # of attention and log-probabilities; or "xla", "pallas_tpu", "pallas_gpu", "cudnn"
    )
    config.split = "test"  # or "validation", "train"
    config.start = 0  # first scene of the split
    config.scenes = 1024
    config.batch = 64
    config.samples = 0  # plans a scene for the minADE, 0 = none; the paper's is 6
    config.temperature = 0.6  # of these samples
    config.seed = 0
    config.table = "open_loop"  # or "dial", "int8", "fp8"
    config.dial = ml_collections.ConfigDict()
    config.dial.steps = (1, 2, 4, 5, 10)  # of the flow
    config.dial.integrators = ("euler", "midpoint")
    config.dial.direct_steps = (1, 2, 10)  # Euler steps of plans without reasoning
    config.dial.repeats = 15  # of every timed call, in turn
    config.check = False  # exit code 1 where a target is missed
    if argument == "quick":
        config.name, config.scenes, config.batch = "evaluate_quick", 32, 16
    if argument in ("dial", "int8", "fp8"):
        config.name, config.table, config.scenes, config.samples = f"evaluate_{argument}", argument, 512, 6
    return config
