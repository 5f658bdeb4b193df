"""Reinforcement learning of a policy in the driving world: the main job, by default on the bundled nano policy.

    python -m ar1_jax.main --config=configs/rl.py          under 10 minutes on two cores; also `make rl`
    python -m ar1_jax.main --config=configs/rl.py:quick    seconds, to see that it runs
    python -m ar1_jax.main --config=configs/rl.py:grpo     clipped GRPO in place of the paper's objective

Evaluates on held-out scenes, trains, evaluates again, and writes runs/<name>/report.html. Call it again to resume.
Results of the default: docs/rl.md.
"""

import ml_collections


def get_config(argument=None):
    """argument: None, "quick", or "grpo"."""
    if argument not in (None, "quick", "grpo"):
        raise ValueError(f"rl:{argument}: the arguments are quick and grpo")
    config = ml_collections.ConfigDict()
    config.root, config.name = "runs", "rl"
    config.policy = "nano"  # the bundled policy, or a checkpoint folder: start and frozen reference
    config.kernels = (
        "auto"  # of attention and log-probabilities; or "xla", "pallas_tpu", "pallas_gpu", "cudnn"
    )
    config.seed = 0
    config.steps = 180
    config.scenes = 16  # a step; each is new
    config.group = 8  # completions of a scene
    config.temperature = 1.0
    config.updates = 1  # of the learner on the same rollouts
    config.log_every, config.save_every, config.validate_every = 1, 25, 25
    config.export = ""  # folder for the finished policy

    config.objective = ml_collections.ConfigDict(
        {
            "name": "paper",  # or clipped, sequence_clipped, capped
            "beta": 3.0,  # paper: sharpness of the weights softmax(beta * reward)
            "baseline": True,  # paper: weights minus their mean 1/G, the same expected gradient with less noise
            "advantage": "dr_grpo",  # the others: or grpo, grpo_unbiased_std, batch_std, rloo
            "std_floor": 0.05,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "dual_clip": 3.0,
            "cap": 2.0,  # capped
            "aggregation": "sequence-mean-token-sum",
            "length": 0,  # the constant of sequence-mean-token-sum-norm; 0: the longest completion
            "kl_coef": 0.02,
            "kl": "k2",  # or ratio_k3
        }
    )
    config.rewards = ml_collections.ConfigDict({"reasoning": 1.0, "consistency": 0.5, "trajectory": 1.0})
    config.optimizer = ml_collections.ConfigDict(
        {"rate": 1.5e-4, "warmup": 5, "floor": 0.1, "b1": 0.9, "b2": 0.95, "weight_decay": 0.0, "clip": 1.0}
    )
    # Patterns over parameter paths and factors of the rate, first match wins. The flow expert is not trained here.
    config.optimizer.rates = "(expert|action_in_proj|action_out_proj)/.*=0,.*=1"
    # Low-rank adapters in place of all parameters; the KL reference is then the base that both share. A Linear's update
    # counts alpha / rank times; targets are patterns over module paths.
    config.lora = ml_collections.ConfigDict({"rank": 0, "alpha": 16.0})  # rank 0: off
    config.lora.targets = ("vlm/model/language_model/layers/.*_proj",)
    config.evaluation = ml_collections.ConfigDict({"scenes": 512, "samples": 4})
    config.validation = ml_collections.ConfigDict({"scenes": 128})
    if argument == "quick":
        config.name, config.steps, config.scenes, config.group = "rl_quick", 4, 4, 4
        config.save_every, config.validate_every = 2, 2
        config.evaluation.update({"scenes": 16, "samples": 2})
        config.validation.scenes = 8
    if argument == "grpo":
        config.name, config.updates = "rl_grpo", 2  # the second update is the one that clips can act on
        config.objective.update({"name": "clipped", "advantage": "grpo", "aggregation": "token-mean"})
    return config
