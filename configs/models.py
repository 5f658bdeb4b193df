"""The sizes a policy comes in: nano, 0p5b, 3b, 7b, and 10b (r1_10b and v1_5_10b, the released shapes).

    >>> from ar1_jax.configs import models
    >>> models.get_config("0p5b").text.hidden_size
    1024

The numbers stand in ar1_jax/policy/sizes.py, one line a size; here they are read as the releases' config files name
them. No verb: other configurations name a size by `model`.
"""

import ml_collections

from ar1_jax.policy import sizes

SIZES, ALIASES = sizes.SIZES, sizes.ALIASES


def get_config(argument=None):
    """argument: a size, nano by default. Sections: text, vision (Qwen3-VL's keys), policy (config.json's keys)."""
    name = argument or "nano"
    size = sizes.size(name)
    vlm = sizes.vlm_config(size)
    vlm["text_config"]["vocab_size"] = size.vocab or sizes.nano_vocabulary_size()
    return ml_collections.ConfigDict(
        {
            "model": name,
            "text": vlm["text_config"],
            "vision": vlm["vision_config"],
            "policy": sizes.policy_config(name),
        },
        type_safe=False,
    )
