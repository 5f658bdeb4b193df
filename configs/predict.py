"""Plans for scenes, drawn: what the cameras gave, K ways to go, and why.

    python -m ar1_jax.main --config=configs/predict.py                           bundled policy, bundled scenes
    python -m ar1_jax.main --config=configs/predict.py --config.scene=FOLDER     your scene (docs/scene_folder.md)
    python -m ar1_jax.main --config=configs/predict.py:quick                     one scene
    ... --config.counterfactual="Keep speed, keep lane: road clear."             what if it believed this?

Half a minute on two cores, most of it compiling. Writes a PNG and a JSON a scene, plans.jsonl and report.html.
"""

import ml_collections


def get_config(argument=None):
    """argument: None, or "quick" for one scene of the driving world."""
    if argument not in (None, "quick"):
        raise ValueError(f"predict:{argument}: the only argument is quick")
    config = ml_collections.ConfigDict()
    config.root, config.name = "runs", "predict"
    config.policy = "nano"  # the bundled one, or a checkpoint folder
    config.kernels = (
        "auto"  # of attention and log-probabilities; or "xla", "pallas_tpu", "pallas_gpu", "cudnn"
    )
    config.scene = ml_collections.config_dict.placeholder(str)  # a scene folder; none: the scenes below
    config.t0 = ml_collections.config_dict.placeholder(
        float
    )  # s, the moment of a recording; none: the latest good one
    config.families = (
        "light",
        "pedestrian",
        "lead",
        "nudge",
        "free",
    )  # one scene of the driving world of each
    config.number = 0  # first scene of the world's test split; each family takes the next
    config.recordings = ("comma2k19",)  # shipped with the package
    config.samples = 6
    config.seed = 0
    config.temperature = 0.6
    config.top_p = 0.98
    config.decoder = "flow"  # or "tokens", the discrete actions
    config.flow_steps = 10
    config.max_new_tokens = 256
    config.batch = 4  # scenes planned at once, at most
    config.reasoning = ml_collections.config_dict.placeholder(str)  # this text instead of a sampled one
    config.counterfactual = ml_collections.config_dict.placeholder(
        str
    )  # what if it believed this: both, compared
    config.route = ml_collections.config_dict.placeholder(str)  # instead of the scene's own
    config.question = ml_collections.config_dict.placeholder(
        str
    )  # instead of the scene's own; its answer is printed
    config.frames = 0  # frames a camera, 0: as many as the policy was trained with
    if argument == "quick":
        config.name, config.families, config.recordings = "predict_quick", ("light",), ()
    return config
