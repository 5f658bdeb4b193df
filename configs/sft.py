"""Supervised fine-tuning of a policy on the driving world; by default nano from nothing.

    python -m ar1_jax.main --config=configs/sft.py --config.name=first          25 minutes on two cores
    python -m ar1_jax.main --config=configs/sft.py:quick                        a few steps, to see that it runs

Hardware: a processor is enough for nano. Results of the default: docs/results.md. Call it again to resume.
"""

import ml_collections


def get_config(argument=None):
    """argument: None, or "quick" for a run of seconds that learns nothing."""
    if argument not in (None, "quick"):
        raise ValueError(f"sft:{argument}: the only argument is quick")
    config = ml_collections.ConfigDict()
    config.root, config.name = "runs", "sft"
    config.model = "nano"  # a size to start from nothing, or a checkpoint folder
    config.kernels = (
        "auto"  # of attention and log-probabilities; or "xla", "pallas_tpu", "pallas_gpu", "cudnn"
    )
    config.seed = 0
    config.minutes = 25.0  # time budget of training and validation; the length of the run is measured
    config.steps = 0  # a fixed number of steps instead, where it is not 0
    config.batch = 16
    config.export = ""  # folder for the finished policy
    config.mesh = ml_collections.ConfigDict(
        {"data": -1, "fsdp": 1, "tensor": 1}
    )  # devices; -1 = whatever is left

    config.optimizer = ml_collections.ConfigDict(
        {"rate": 1.4e-3, "warmup": 100, "floor": 0.05, "b1": 0.9, "b2": 0.95, "weight_decay": 0.05, "clip": 1.0}
    )  # fmt: skip
    # Patterns over parameter paths and factors of the rate, first match wins: "policy/vlm/model/visual/.*=0.1,.*=1".
    config.optimizer.rates = ".*=1"
    # Low-rank adapters in place of all parameters: config.model must be a folder; only they have optimiser state and
    # gradients. A Linear's update counts alpha / rank times; targets are patterns over module paths.
    config.lora = ml_collections.ConfigDict({"rank": 0, "alpha": 16.0})  # rank 0: off
    config.lora.targets = ("vlm/model/language_model/layers/.*_proj", "expert/layers/.*_proj")
    config.loss = ml_collections.ConfigDict(
        {
            "tokens": "weighted",  # or "released": mean over trajectory tokens + mean over the others
            "strict": True,  # log-probabilities under the sampler's grammar
            "decision_weight": 4.0,
            "cells_first": 1.0,  # weight of the cell loss at the start ...
            "cells_last": 0.3,  # ... and at the end
            "cells_positive": 5.0,
            "flow": 1.0,
            "flow_draws": 4,
        }
    )
    config.data = ml_collections.ConfigDict(
        {"reuse": 3, "block": 1024, "chunk": 64, "threads": 2, "ahead": 8}
    )
    config.augment = ml_collections.ConfigDict({"brightness": 0.1, "contrast": 0.2, "drop": 0.05})
    config.validation = ml_collections.ConfigDict({"scenes": 320, "every": 0.05, "batch": 32})
    config.test = ml_collections.ConfigDict({"scenes": 1024, "batch": 64})
    config.log_every = 20
    if argument == "quick":
        config.mesh.data = 1
        config.name, config.steps, config.batch, config.log_every = "sft_quick", 6, 4, 2
        config.optimizer.warmup = 2
        config.data.update({"reuse": 2, "block": 16, "chunk": 8})
        config.validation.update({"scenes": 8, "every": 0.5, "batch": 8})
        config.test.update({"scenes": 16, "batch": 16})
    return config
