"""Where the model's parameters and activations lie: the two tables of the house, read by sharding.py.

Names are the parameter paths (those of the released checkpoints); stacked layers lead with [depth]. Kernels are
[in, out]: what widens is cut fsdp x tensor, what narrows tensor x fsdp, so that one all-reduce ends each half of a
block. The vocabulary of the releases (155,697 = 3 x 51,899) is not divided by powers of two, so embedding and head are
cut along the width. Norms, biases of what narrows and the expert's small input and output layers are copied."""

from jax.sharding import PartitionSpec as P

_LAYERS = "layers/(self_attn/(q|k|v)_proj|mlp/(gate|up)_proj)/kernel"
_BACK = "layers/(self_attn/o_proj|mlp/down_proj)/kernel"
_NORMS = r"(layers/(input_layernorm|post_attention_layernorm|self_attn/(q|k)_norm)|norm)/weight"
_TEXT, _VISION = "vlm/model/language_model", "vlm/model/visual"

VLM = (
    (f"{_TEXT}/embed_tokens/embedding", P(None, ("fsdp", "tensor"))),
    ("vlm/lm_head/kernel", P(("fsdp", "tensor"), None)),
    (f"{_TEXT}/{_LAYERS}", P(None, "fsdp", "tensor")),
    (f"{_TEXT}/{_BACK}", P(None, "tensor", "fsdp")),
    (f"{_TEXT}/{_NORMS}", P()),
    (f"{_VISION}/blocks/(attn/qkv|mlp/linear_fc1)/kernel", P(None, "fsdp", "tensor")),
    (f"{_VISION}/blocks/(attn/qkv|mlp/linear_fc1)/bias", P(None, "tensor")),
    (f"{_VISION}/blocks/(attn/proj|mlp/linear_fc2)/kernel", P(None, "tensor", "fsdp")),
    (f"{_VISION}/blocks/(attn/proj|mlp/linear_fc2)/bias", P()),
    (f"{_VISION}/blocks/norm[12]/(weight|bias)", P()),
    (f"{_VISION}/deepstack_merger_list/linear_fc1/kernel", P(None, "fsdp", "tensor")),
    (f"{_VISION}/deepstack_merger_list/linear_fc2/kernel", P(None, "tensor", "fsdp")),
    (f"{_VISION}/deepstack_merger_list/(linear_fc[12]/bias|norm/(weight|bias))", P()),
    (f"{_VISION}/merger/linear_fc1/kernel", P("fsdp", "tensor")),
    (f"{_VISION}/merger/linear_fc2/kernel", P("tensor", "fsdp")),
    (f"{_VISION}/merger/(linear_fc[12]/bias|norm/(weight|bias))", P()),
    (f"{_VISION}/patch_embed/proj/kernel", P("fsdp", "tensor")),
    (f"{_VISION}/patch_embed/proj/bias", P()),
    (f"{_VISION}/pos_embed", P(None, "fsdp")),
)
EXPERT = (
    (f"expert/{_LAYERS}", P(None, "fsdp", "tensor")),
    (f"expert/{_BACK}", P(None, "tensor", "fsdp")),
    (f"expert/{_NORMS}", P()),
    (r"action_in_proj/(encoder/trunk_\d+|norm)/(kernel|weight|bias)", P()),
    (r"action_out_proj/(kernel|bias)", P()),
)
PARAMETERS = VLM + EXPERT

_ROWS = ("data", "fsdp")  # scenes are spread over both
ACTIVATIONS = {
    "scenes": P(_ROWS),  # anything whose first axis is B
    "hidden": P(_ROWS, None, None),  # [B, N, D]
    "heads": P(_ROWS, None, "tensor", None),  # [B, N, H, E]
    "cache": P(None, _ROWS, "tensor", None, None),  # [depth, B, J, S, E], a prefix: heads first
    "completions": P(_ROWS, None, None),  # [B, G, L]
}
