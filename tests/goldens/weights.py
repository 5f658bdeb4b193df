"""Seeded weights, tokenizer files and test images for the goldens.  Needs numpy only.

    python weights.py NAME TARGET_DIR [--goldens DIR]     write the model folder of one golden
    python weights.py --list                              names of the goldens

Nothing here is trained: every tensor is drawn from numpy's legacy RandomState (whose streams are
frozen), so that a reference run and a developer's test start from the same bytes.  See README.md.
"""

import argparse
import json
import math
import os
import struct
import sys
import zlib

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))

# ---------------------------------------------------------------------------------------------
# 1. tensors
# ---------------------------------------------------------------------------------------------


def draw(name, shape, seed):
    """Bell-shaped numbers of mean 0 and variance 1, float64, C order.

    Sum of four uniforms, minus 2, times sqrt(3); only +, - and * are used, so the result does not
    depend on a maths library.  Stream: RandomState(crc32(utf8 name) xor seed).random_sample(4n),
    read as four consecutive blocks of n.
    """
    n = int(np.prod(shape)) if len(shape) else 1
    rng = np.random.RandomState((zlib.crc32(name.encode("utf-8")) ^ (seed & 0xFFFFFFFF)) & 0xFFFFFFFF)
    total = rng.random_sample(n)
    for _ in range(3):
        total = total + rng.random_sample(n)
    return ((total - 2.0) * 1.7320508075688772).reshape(shape)


def fourier_freqs(features, max_freq):
    half = features // 2
    return (10.0 ** np.linspace(0.0, math.log10(max_freq), half))[None, :].astype(np.float32)


def value(name, shape, spec):
    """The tensor `name` of golden `spec` as float32."""
    seed = spec["seed"]
    cfg = spec["config"]
    if name.endswith(".freqs"):
        p = cfg["action_in_proj_cfg"]
        return fourier_freqs(p["num_fourier_feats"], p["max_freq"])
    if name.startswith("action_space."):
        return np.asarray(cfg["action_space_cfg"][name.split(".", 1)[1]], np.float32)
    z = draw(name, shape, seed)
    if name.endswith(".bias"):
        return (0.05 * z).astype(np.float32)
    if len(shape) == 1:  # norm gains
        return (1.0 + 0.1 * z).astype(np.float32)
    if name.endswith("embed_tokens.weight"):
        return (0.5 * z).astype(np.float32)
    if name.endswith("pos_embed.weight"):
        return (0.3 * z).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    gain = 1.0
    if name.endswith("lm_head.weight"):
        gain = 2.0
    elif name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "linear_fc2.weight")):
        gain = 0.7
    elif name == "action_out_proj.weight":
        gain = 0.5
    w = z * (gain / math.sqrt(fan_in))
    if name == "action_in_proj.encoder.trunk.0.weight":
        # high Fourier frequencies count for less: keeps the flow integration well conditioned
        p = cfg["action_in_proj_cfg"]
        f = fourier_freqs(p["num_fourier_feats"], p["max_freq"])[0].astype(np.float64)
        cols = np.tile(np.concatenate([1.0 / f, 1.0 / f]), shape[1] // (2 * f.size))
        w = w * (2.0 * cols)[None, :]
    if name == "vlm.lm_head.weight":
        for token, factor in spec.get("lm_head_row_gain", {}).items():
            w[token_id(spec, token)] *= factor
    return w.astype(np.float32)


def tensor_shapes(spec):
    """Ordered {tensor name: shape} of the checkpoint, in the naming of the released checkpoints."""
    cfg, text, vis = spec["config"], spec["vlm"]["text_config"], spec["vlm"]["vision_config"]
    vocab = vocab_size(spec)
    out = {}

    def decoder(prefix, c):
        h, inter, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
        q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
        for i in range(c["num_hidden_layers"]):
            p = f"{prefix}layers.{i}."
            out[p + "input_layernorm.weight"] = (h,)
            out[p + "self_attn.q_proj.weight"] = (q, h)
            out[p + "self_attn.k_proj.weight"] = (kv, h)
            out[p + "self_attn.v_proj.weight"] = (kv, h)
            out[p + "self_attn.o_proj.weight"] = (h, q)
            out[p + "self_attn.q_norm.weight"] = (d,)
            out[p + "self_attn.k_norm.weight"] = (d,)
            out[p + "post_attention_layernorm.weight"] = (h,)
            out[p + "mlp.gate_proj.weight"] = (inter, h)
            out[p + "mlp.up_proj.weight"] = (inter, h)
            out[p + "mlp.down_proj.weight"] = (h, inter)
        out[prefix + "norm.weight"] = (h,)

    def linear(name, n_out, n_in):
        out[name + ".weight"] = (n_out, n_in)
        out[name + ".bias"] = (n_out,)

    def norm(name, n):
        out[name + ".weight"] = (n,)
        out[name + ".bias"] = (n,)

    v, hv, iv = "vlm.model.visual.", vis["hidden_size"], vis["intermediate_size"]
    out[v + "patch_embed.proj.weight"] = (
        hv,
        vis["in_channels"],
        vis["temporal_patch_size"],
        vis["patch_size"],
        vis["patch_size"],
    )
    out[v + "patch_embed.proj.bias"] = (hv,)
    out[v + "pos_embed.weight"] = (vis["num_position_embeddings"], hv)
    for i in range(vis["depth"]):
        b = f"{v}blocks.{i}."
        norm(b + "norm1", hv)
        norm(b + "norm2", hv)
        linear(b + "attn.qkv", 3 * hv, hv)
        linear(b + "attn.proj", hv, hv)
        linear(b + "mlp.linear_fc1", iv, hv)
        linear(b + "mlp.linear_fc2", hv, iv)
    merged = hv * vis["spatial_merge_size"] ** 2
    norm(v + "merger.norm", hv)
    linear(v + "merger.linear_fc1", merged, merged)
    linear(v + "merger.linear_fc2", vis["out_hidden_size"], merged)
    for i in range(len(vis["deepstack_visual_indexes"])):
        m = f"{v}deepstack_merger_list.{i}."
        norm(m + "norm", merged)
        linear(m + "linear_fc1", merged, merged)
        linear(m + "linear_fc2", vis["out_hidden_size"], merged)
    out["vlm.model.language_model.embed_tokens.weight"] = (vocab, text["hidden_size"])
    decoder("vlm.model.language_model.", text)
    out["vlm.lm_head.weight"] = (vocab, text["hidden_size"])

    expert = dict(text)
    expert.update(cfg["expert_cfg"])
    decoder("expert.", expert)
    a, he = cfg["action_in_proj_cfg"], expert["hidden_size"]
    if spec["family"] == "alpamayo_r1":  # these buffers are stored in that release only
        for key in ("accel_mean", "accel_std", "curvature_mean", "curvature_std"):
            out["action_space." + key] = ()
        for key in ("sinus.0", "sinus.1", "timestep_fourier_encoder"):
            out[f"action_in_proj.{key}.freqs"] = (1, a["num_fourier_feats"] // 2)
    hid, k = a["hidden_size"], 0
    linear(f"action_in_proj.encoder.trunk.{k}", hid, 3 * a["num_fourier_feats"])
    k = 2
    for layer in range(a["num_enc_layers"]):
        last = layer == a["num_enc_layers"] - 1
        out[f"action_in_proj.encoder.trunk.{k}.weight"] = (hid,)
        linear(f"action_in_proj.encoder.trunk.{k + 1}", he if last else hid, hid)
        k += 3
    norm("action_in_proj.norm", he)
    linear("action_out_proj", 2, he)
    return out


def to_bfloat16_bits(x):
    """Round float32 to bfloat16 (nearest even), as uint16 bits."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)


def write_safetensors(path, tensors, stored):
    """tensors: {name: float32 array}; stored: 'F32' or 'BF16'."""
    header, offset, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name in sorted(tensors):
        x = tensors[name]
        blob = (
            np.ascontiguousarray(x, "<f4") if stored == "F32" else to_bfloat16_bits(x).astype("<u2")
        ).tobytes()
        header[name] = {"dtype": stored, "shape": list(x.shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    head = json.dumps(header, separators=(",", ":")).encode("utf-8")
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)))
        f.write(head)
        for blob in blobs:
            f.write(blob)
    return offset


# ---------------------------------------------------------------------------------------------
# 2. tokenizer files
# ---------------------------------------------------------------------------------------------

# the tokens that the Qwen3-VL tokenizer adds to its base vocabulary, in id order; real ids start at 151643
QWEN_ADDED = [
    ("<|endoftext|>", 1),
    ("<|im_start|>", 1),
    ("<|im_end|>", 1),
    ("<|object_ref_start|>", 1),
    ("<|object_ref_end|>", 1),
    ("<|box_start|>", 1),
    ("<|box_end|>", 1),
    ("<|quad_start|>", 1),
    ("<|quad_end|>", 1),
    ("<|vision_start|>", 1),
    ("<|vision_end|>", 1),
    ("<|vision_pad|>", 1),
    ("<|image_pad|>", 1),
    ("<|video_pad|>", 1),
    ("<tool_call>", 0),
    ("</tool_call>", 0),
    ("<|fim_prefix|>", 0),
    ("<|fim_middle|>", 0),
    ("<|fim_suffix|>", 0),
    ("<|fim_pad|>", 0),
    ("<|repo_name|>", 0),
    ("<|file_sep|>", 0),
    ("<tool_response>", 0),
    ("</tool_response>", 0),
    ("<think>", 0),
    ("</think>", 0),
]
REAL_BASE_VOCAB = 151643

# tokens that the model adds after <i0>..<iN-1>, in order, when add_special_tokens is true
_SPECIAL_R1 = """prompt_start prompt_end image_start image_pre_tkn image_end traj_history_start
traj_history_pre_tkn traj_history_end cot_start cot_end meta_action_start meta_action_end
traj_future_start traj_future_pre_tkn traj_future_end traj_history traj_future image_pad
vectorized_wm vectorized_wm_start vectorized_wm_end vectorized_wm_pre_tkn route_start route_pad
route_end question_start question_end answer_start answer_end""".split()
_RENAMED_15 = {
    "image_pre_tkn": "_padding_0",
    "traj_history_pre_tkn": "_padding_1",
    "meta_action_start": "_padding_2",
    "meta_action_end": "_padding_3",
    "traj_future_pre_tkn": "_padding_4",
    "vectorized_wm": "_padding_5",
    "vectorized_wm_start": "_padding_6",
    "vectorized_wm_end": "_padding_7",
    "vectorized_wm_pre_tkn": "_padding_8",
}


def special_tokens(spec):
    names = _SPECIAL_R1
    if spec["family"] == "alpamayo1_5":
        names = [_RENAMED_15.get(n, n) for n in names]
    return ["<|" + n + "|>" for n in names]


def base_tokens(spec):
    """Base vocabulary (tokens in id order) and merges."""
    path = os.path.join(spec["_dir"], "tokenizer_base.json")
    if not os.path.exists(path):
        path = os.path.join(HERE, "tokenizer_base.json")
    with open(path, encoding="utf-8") as f:
        base = json.load(f)
    tokens = list(base["tokens"])
    if spec["tokenizer"] == "full":  # unreachable fillers up to the size of the real base vocabulary
        tokens += [f"<filler_{i:06d}>" for i in range(len(tokens), REAL_BASE_VOCAB)]
    return tokens, base["merges"]


def base_size(spec):
    return len(base_tokens(spec)[0])


def added_by_model(spec):
    """Tokens that loading the model adds to the tokenizer files, in id order (already present ones skipped)."""
    have = {t for t, _ in QWEN_ADDED}
    new = [f"<i{i}>" for i in range(spec["config"]["traj_vocab_size"])]
    return new + [t for t in special_tokens(spec) if t not in have]


def token_id(spec, token):
    start = base_size(spec)
    for i, (t, _) in enumerate(QWEN_ADDED):
        if t == token:
            return start + i
    return start + len(QWEN_ADDED) + added_by_model(spec).index(token)


def vocab_size(spec):
    return base_size(spec) + len(QWEN_ADDED) + len(added_by_model(spec))


SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.content is string %}{{- m.content }}{%- else %}{%- for part in m.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def write_tokenizer(spec, folder):
    tokens, merges = base_tokens(spec)
    n = len(tokens)
    vocab = {t: i for i, t in enumerate(tokens)}

    def added(i, token, special):
        return {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": bool(special),
        }

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    dump(
        folder,
        "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(n + i, t, s) for i, (t, s) in enumerate(QWEN_ADDED)],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                    byte_level,
                ],
            },
            "post_processor": byte_level,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocab,
                "merges": merges,
            },
        },
        indent=None,
    )
    decoder = {}
    for i, (t, s) in enumerate(QWEN_ADDED):
        entry = added(n + i, t, s)
        entry.pop("id")
        decoder[str(n + i)] = entry
    dump(
        folder,
        "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": decoder,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 262144,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    dump(folder, "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    dump(folder, "vocab.json", vocab, indent=None)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8", newline="\n") as f:
        f.write("#version: 0.2\n" + "\n".join(merges) + "\n")


# ---------------------------------------------------------------------------------------------
# 3. folder
# ---------------------------------------------------------------------------------------------


def dump(folder, name, obj, indent=2):
    with open(os.path.join(folder, name), "w", encoding="utf-8", newline="\n") as f:
        json.dump(obj, f, indent=indent, ensure_ascii=True)
        f.write("\n")


def load_specs(goldens_dir=None):
    folder = goldens_dir or HERE
    with open(os.path.join(folder, "specs.json"), encoding="utf-8") as f:
        specs = json.load(f)
    for name, spec in specs["goldens"].items():
        spec["name"], spec["_dir"] = name, folder
    return specs


def write_folder(name, target, goldens_dir=None):
    """Write config.json, safetensors (+ index when sharded) and vlm/ (sizes, tokenizer, image processor)."""
    spec = load_specs(goldens_dir)["goldens"][name]
    os.makedirs(os.path.join(target, "vlm"), exist_ok=True)
    vlm = os.path.join(target, "vlm")

    config = dict(spec["config"])
    config["model_type"] = spec["family"]
    config["vlm_name_or_path"] = "vlm"
    config["vocab_size"] = vocab_size(spec)
    config["traj_token_start_idx"] = token_id(spec, "<i0>")
    config["traj_token_ids"] = {
        k: token_id(spec, t)
        for k, t in (
            ("history", "<|traj_history|>"),
            ("future", "<|traj_future|>"),
            ("history_start", "<|traj_history_start|>"),
            ("future_start", "<|traj_future_start|>"),
            ("history_end", "<|traj_history_end|>"),
            ("future_end", "<|traj_future_end|>"),
        )
    }
    dump(target, "config.json", config)

    q = dict(spec["vlm"])
    q["text_config"] = dict(q["text_config"])
    q["text_config"]["vocab_size"] = base_size(spec) + len(QWEN_ADDED)
    q["text_config"]["bos_token_id"] = token_id(spec, "<|endoftext|>")
    q["text_config"]["eos_token_id"] = token_id(spec, "<|im_end|>")
    q.update(
        architectures=["Qwen3VLForConditionalGeneration"],
        model_type="qwen3_vl",
        image_token_id=token_id(spec, "<|image_pad|>"),
        video_token_id=token_id(spec, "<|video_pad|>"),
        vision_start_token_id=token_id(spec, "<|vision_start|>"),
        vision_end_token_id=token_id(spec, "<|vision_end|>"),
    )
    dump(vlm, "config.json", q)
    image = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": 2,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "processor_class": "Qwen3VLProcessor",
    }
    dump(vlm, "preprocessor_config.json", dict(image, image_processor_type="Qwen2VLImageProcessorFast"))
    dump(
        vlm,
        "video_preprocessor_config.json",
        dict(
            image,
            size={"longest_edge": 25165824, "shortest_edge": 4096},
            video_processor_type="Qwen3VLVideoProcessor",
        ),
    )
    write_tokenizer(spec, vlm)

    shapes = tensor_shapes(spec)
    names = list(shapes)
    shards = spec.get("shards", 1)
    stored = spec.get("stored_dtype", "F32")
    if shards == 1:
        write_safetensors(
            os.path.join(target, "model.safetensors"), {n: value(n, shapes[n], spec) for n in names}, stored
        )
    else:
        weight_map, total = {}, 0
        for k in range(shards):
            part = names[k * len(names) // shards : (k + 1) * len(names) // shards]
            fname = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
            total += write_safetensors(
                os.path.join(target, fname), {n: value(n, shapes[n], spec) for n in part}, stored
            )
            weight_map.update({n: fname for n in part})
        dump(
            target,
            "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )
    return target


# ---------------------------------------------------------------------------------------------
# 4. images
# ---------------------------------------------------------------------------------------------


def images(seed, shape):
    """uint8 images [..., H, W, 3]: random 8x8 blocks plus pixel noise, integers only."""
    lead, (h, w, c) = tuple(shape[:-3]), tuple(shape[-3:])
    rng = np.random.RandomState(seed & 0xFFFFFFFF)
    n = int(np.prod(lead)) if lead else 1
    coarse = rng.randint(0, 256, size=(n, -(-h // 8), -(-w // 8), c))
    smooth = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)[:, :h, :w]
    noise = rng.randint(-24, 25, size=(n, h, w, c))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8).reshape(lead + (h, w, c))


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("name", nargs="?")
    p.add_argument("target", nargs="?")
    p.add_argument("--goldens", default=None)
    p.add_argument("--list", action="store_true")
    a = p.parse_args(argv)
    if a.list:
        print("\n".join(load_specs(a.goldens)["goldens"]))
        return 0
    if not (a.name and a.target):
        p.error("NAME and TARGET_DIR are needed")
    write_folder(a.name, a.target, a.goldens)
    return 0


if __name__ == "__main__":
    sys.exit(main())
