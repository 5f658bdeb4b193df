"""A policy as portable programs: StableHLO for CPU, CUDA and TPU, one a stage, with weights and manifest in a folder.

    python -m ar1_jax.main --config=configs/export.py --config.target=NEW                                nano
    python -m ar1_jax.main --config=configs/export.py:release --config.policy=FOLDER --config.target=NEW

The processor is enough; seconds, and the time to write the weights. More: docs/export.md.
"""

import ml_collections


def get_config(argument=None):
    """argument: None for nano's one frame a camera, "release" for four and bfloat16."""
    if argument not in (None, "release"):
        raise ValueError(f"export:{argument}: the only argument is release")
    config = ml_collections.ConfigDict()
    config.policy = "nano"  # the bundled one, or a folder
    config.target = ""  # a new folder
    config.dtype = ""  # "bfloat16", "float16" or "float32"; "" as ar1_jax.load chooses
    config.quantization = ""  # "int8": the layers' kernels in eight bits; "fp8" where this machine has it
    config.kernels = (
        "xla"  # one artefact for all platforms; "pallas_tpu" or "pallas_gpu": with that platform alone
    )
    config.chip = ""  # for kernels: the device as jax names it, "NVIDIA H200", "NVIDIA B200", "TPU v6 lite"
    config.stages = ("prompt", "prefill", "decode", "flow")
    config.platforms = ("cpu", "cuda", "tpu")
    config.cameras = (0, 1, 2, 6)  # ids, ascending
    config.frames = 1  # a camera
    config.height, config.width = 96, 160  # of the pictures, pixels; 0 = what the policy makes of 1080 x 1920
    config.prompt_length = 0  # ids; 0 = the prompt of these pictures, rounded up to a bucket of 32
    config.batch, config.samples = 1, 6  # scenes, plans a scene
    config.max_new_tokens = 256
    config.greedy = False  # the likeliest id each time: no key, temperature or top_p
    config.top_k = 0  # 0 = none
    config.flow_steps, config.integrator = 10, "euler"  # or "midpoint"
    if argument == "release":
        config.frames, config.height, config.width, config.dtype = 4, 0, 0, "bfloat16"
    return config
