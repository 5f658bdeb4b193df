"""Checkpoint folders both ways: Hugging Face safetensors and our orbax form, families, dtypes, parts, finished runs.

    python -m ar1_jax.main --config=configs/convert.py --config.source=FOLDER --config.target=NEW              to orbax
    python -m ar1_jax.main --config=configs/convert.py:huggingface --config.source=NEW --config.target=AGAIN   and back
    python -m ar1_jax.main --config=configs/convert.py:huggingface --config.source=runs/rl --config.target=NEW

The processor is enough; time and memory are those of reading and writing the files. More: docs/checkpoints.md.
"""

import ml_collections


def get_config(argument=None):
    """argument: the target's format, "orbax" (default) or "huggingface"."""
    if argument not in (None, "orbax", "huggingface"):
        raise ValueError(f"convert:{argument}: the argument is orbax or huggingface")
    config = ml_collections.ConfigDict()
    config.source = ""  # a checkpoint folder of any kind, a run of rl or sft, or "nano"
    config.target = ""  # a new folder
    config.format = argument or "orbax"
    config.layout = ""  # "alpamayo_r1", "alpamayo1_5", "training" or "vlm"; "" as the source
    config.dtype = ""  # "bfloat16", "float16" or "float32"; "" as stored
    config.tokenizer = ""  # folder with the VLM's config and tokenizer, where the source lacks them
    config.vlm_name_or_path = ""  # written into config.json with a layout; "" leaves the key
    config.shard_bytes = 5_000_000_000  # largest weight file where the source's layout cannot be kept
    config.mesh = ml_collections.ConfigDict({"data": 1, "fsdp": 1, "tensor": 1})  # how orbax's arrays are cut
    return config
