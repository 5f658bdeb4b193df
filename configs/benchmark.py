"""Times a plan stage by stage, each beside an estimate of its floor on this machine.

    python -m ar1_jax.main --config=configs/benchmark.py                 nano, seconds
    python -m ar1_jax.main --config=configs/benchmark.py:0p5b            random weights, 16 images, some minutes
    python -m ar1_jax.main --config=configs/benchmark.py:floors          the 10B on known chips, estimates from shapes

Beside transformers: --config.compare=1,6 --config.torch_python=PYTHON, an interpreter with `pip install -e '.[torch]'`.
"""

import ml_collections


def get_config(argument=None):
    """argument: a size (nano by default), or "floors"."""
    floors = argument == "floors"
    config = ml_collections.ConfigDict()
    config.root = "runs"
    config.size = "v1_5_10b" if floors else argument or "nano"
    config.name = f"benchmark_{argument or 'nano'}"
    config.policy = ""  # a checkpoint folder instead of random weights of a size
    config.kernels = (
        "auto"  # of attention and log-probabilities; or "xla", "pallas_tpu", "pallas_gpu", "cudnn"
    )
    config.floors = floors
    nano = config.size == "nano"
    config.images = 4 if nano else 16
    config.rows, config.columns = (6, 10) if nano else (20, 36)  # patches of an image; a token is 2 x 2
    config.text = 40 if nano else 160  # other ids of the prompt
    config.tokens = 18 if nano else 40  # ids of each reasoning, neither more nor fewer
    config.room = 20 if nano else 256  # ids a sample has place for, as in policy.plan
    config.steps = 10  # of the flow
    config.samples = (1, 6, 16)
    config.compare = ()  # numbers of samples that transformers is timed with
    config.torch_python = ""  # interpreter with torch and transformers; none: this one
    config.dtype = "bfloat16" if floors else "float32"
    config.threads = 0  # processors, 0: all
    config.repeats = 3  # in a process, after one that warms up
    config.rounds = 1  # processes of each row
    config.seed = 0
    return config
