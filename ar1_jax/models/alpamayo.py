"""The model put together: prompt -> prefix cache -> completions and their log-probabilities -> flow.

B scenes, I images, P patches an image, S prompt length, G completions (or K samples), L completion length, N rows, D
width, V vocabulary, A controls. Pure functions of (config, params, arrays); parameters are the nested dict

    vlm/model/visual, vlm/model/language_model, vlm/lm_head, expert, action_in_proj, action_out_proj

with the checkpoint's module names. Prompts are right-padded inside; the reference's left padding is a view of it.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from ar1_kernels import linear_log_prob

from ar1_jax.models import expert, layers
from ar1_jax.models.config import ModelConfig
from ar1_jax.models.decoder import Cache, Decoder, Past
from ar1_jax.models.vision import VisionTower


@flax.struct.dataclass
class Prompt:
    """B prompts with their pixels.

    input_ids: int32 [B, S], right-padded; length: int32 [B]; position_ids: int32 [3, B, S]; next_position: int32 [B],
    of the first completion token. pixels: one float32 [images, P, values] per image grid; grids: its (rows, columns)
    in patches; image_index: int32 [B, S], the row of the image token at each position among all grids' tokens in the
    order of `pixels`, -1 elsewhere.
    """

    input_ids: jax.Array
    length: jax.Array
    position_ids: jax.Array
    next_position: jax.Array
    image_index: jax.Array
    pixels: tuple[jax.Array, ...]
    grids: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Prefix:
    """A prompt that has been read: cache [layers, B, J, S, E] (heads first), length [B], next_position [B], last hidden
    [B, D].

    image_tokens: [rows, D], what the vision tower handed to the decoder, in the order of the prompt's pixels.
    """

    cache: Cache
    length: jax.Array
    next_position: jax.Array
    hidden: jax.Array
    image_tokens: jax.Array


def look(config: ModelConfig, params, pixels, grids):
    """Image tokens [rows, D] and DeepStack features [taps, rows, D] of all images, grid by grid."""
    tower = VisionTower(config.vision, remat=config.remat, kernels=config.kernels)
    variables = {"params": params["vlm"]["model"]["visual"]}
    seen = [tower.apply(variables, x, grid) for x, grid in zip(pixels, grids, strict=True)]
    flat = lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1])
    return (
        jnp.concatenate([flat(tokens) for tokens, _ in seen]),
        jnp.concatenate([flat(deep) for _, deep in seen], axis=1),
    )


def by_layer(params):
    """Parameters with each decoder's stacked `layers` as `layers_0`, `layers_1`, ...: what a processor decodes from.

    Arrays of one processor become views of the stacked ones, so that nothing is held twice; under jit, slices.
    """

    def split(decoder):
        stacked = decoder["layers"]
        depth = jax.tree.leaves(stacked)[0].shape[0]
        rest = {name: tree for name, tree in decoder.items() if name != "layers"}
        return rest | {f"layers_{i}": jax.tree.map(lambda x, i=i: _row(x, i), stacked) for i in range(depth)}

    vlm = params["vlm"]
    model = vlm["model"] | {"language_model": split(vlm["model"]["language_model"])}
    params = params | {"vlm": vlm | {"model": model}}
    return params | {"expert": split(params["expert"])} if "expert" in params else params


def _row(stacked, index: int):
    """stacked[index], without a copy where a processor holds it."""
    if isinstance(stacked, jax.core.Tracer):
        return stacked[index]
    (device,) = stacked.devices()
    if device.platform != "cpu":
        return stacked[index]
    return jax.device_put(np.asarray(stacked)[index], device, may_alias=True)


def embed(params, ids):
    """Rows of the embedding table: ids [...] -> [..., D]."""
    return params["vlm"]["model"]["language_model"]["embed_tokens"]["embedding"][ids]


def decode(config: ModelConfig, params, x, positions, past=None, lengths=None, deep=None, *, trace=False):
    """The text decoder on x [B, K, N, D]; trace=True also returns the inputs of every layer and of the final norm (of
    stacked parameters only)."""
    decoder = Decoder(config.text, remat=config.remat, kernels=config.kernels)
    variables = {
        "params": {k: v for k, v in params["vlm"]["model"]["language_model"].items() if k != "embed_tokens"}
    }
    if not trace:
        return decoder.apply(variables, x, positions, past, lengths, deep)
    (hidden, own), seen = decoder.apply(
        variables, x, positions, past, lengths, deep, mutable=["intermediates"]
    )
    seen = seen["intermediates"]
    inputs = jnp.concatenate([seen["layers"]["hidden_states"][0], seen["last_hidden_state"][0][None]])
    return hidden, own, inputs


def read(config: ModelConfig, params, prompt: Prompt, *, seen=None, trace=False):
    """The embedded prompt through vision and decoder: hidden [B, S, D], Cache [layers, B, S, J, E], image tokens.

    seen: what `look` gave for the prompt's pixels, where it was asked before. trace=True returns a dict of named
    intermediates as fourth.
    """
    tokens, deep = look(config, params, prompt.pixels, prompt.grids) if seen is None else seen
    here = prompt.image_index >= 0
    lay = lambda rows: jnp.where(
        here[..., None], jnp.take(rows, jnp.maximum(prompt.image_index, 0), axis=0), 0
    )
    text = embed(params, prompt.input_ids)
    x = jnp.where(here[..., None], lay(tokens).astype(text.dtype), text)
    rows = jax.vmap(lay)(deep)[:, :, None]
    out = decode(
        config,
        params,
        x[:, None],
        prompt.position_ids[:, :, None],
        lengths=prompt.length,
        deep=rows,
        trace=trace,
    )
    own = jax.tree.map(lambda c: c.squeeze(-4), out[1])
    if not trace:
        return out[0][:, 0], own, tokens
    named = {"vision_embeds": tokens, "deepstack_embeds": deep, "hidden_states": out[2][:, :, 0]}
    return out[0][:, 0], own, tokens, named


def prefill(config: ModelConfig, params, prompt: Prompt, seen=None) -> Prefix:
    """Read the prompts once, whatever is sampled from them afterwards; seen as in `read`."""
    hidden, cache, tokens = read(config, params, prompt, seen=seen)
    last = jnp.take_along_axis(hidden, prompt.length[:, None, None] - 1, axis=1)[:, 0]
    return Prefix(cache.by_head(), prompt.length, prompt.next_position, last, tokens)


def completion(config: ModelConfig, params, prefix: Prefix, ids):
    """ids int [B, G, L] behind their prefix, all at once: hidden [B, G, L, D], suffix Cache [layers, B, G, L, J, E].

    hidden[..., i, :] is the state that predicts ids[..., i]: the prompt's last state for i = 0. Differentiable in
    params and prefix.
    """
    batch, group, length = ids.shape
    positions = prefix.next_position[:, None, None] + jnp.arange(length)
    positions = jnp.broadcast_to(positions, (3, batch, group, length))
    past = Past(prefix.cache, prefix.length)
    hidden, own = decode(config, params, embed(params, ids), positions, past)
    first = jnp.broadcast_to(prefix.hidden[:, None, None], (batch, group, 1, hidden.shape[-1]))
    return jnp.concatenate([first.astype(hidden.dtype), hidden[:, :, :-1]], axis=2), own


def completion_hidden(config: ModelConfig, params, prefix: Prefix, ids):
    """`completion` without the cache: hidden [B, G, L, D]."""
    return completion(config, params, prefix, ids)[0]


def logits(params, hidden):
    """float32 [..., V] of hidden [..., D]."""
    return jnp.dot(hidden, params["vlm"]["lm_head"]["kernel"], preferred_element_type=jnp.float32)


def token_log_prob(params, hidden, ids, allowed=None, temperature=1.0, kernels="auto"):
    """Log-probability and entropy (nats), float32 [...], of ids [...] given hidden [..., D]: the one definition.

    allowed: int [..., 2], interval of ids the softmax runs over (`ar1_kernels.linear_log_prob`). kernels: as in
    ModelConfig.
    """
    shape = ids.shape
    flat = None if allowed is None else allowed.reshape(-1, 2)
    kernel = params["vlm"]["lm_head"]["kernel"]
    log_prob, entropy = linear_log_prob(
        hidden.reshape(-1, hidden.shape[-1]),
        kernel,
        ids.reshape(-1),
        temperature=temperature,
        allowed=flat,
        entropy=True,
        backend="auto" if kernels == "cudnn" else kernels,
    )
    return log_prob.reshape(shape), entropy.reshape(shape)


def flow_velocity(
    config: ModelConfig, params, prefix: Prefix, suffix: Cache, suffix_length, x, tau, start=None
):
    """The expert's field at x [B, K, A, 2], tau [B, K] over the prefix and each sequence's suffix up to its trigger.

    suffix: Cache of B x K sequences; suffix_length: int [B, K], tokens up to and including the trigger. start: int
    [B, K], position of the first action token (default: prefix.next_position + suffix_length).
    """
    if start is None:
        start = prefix.next_position[:, None] + suffix_length
    past = Past(prefix.cache, prefix.length, suffix, suffix_length)
    return expert.velocity(config, params, x, tau, past, start)


def init_params(config: ModelConfig, key):
    """Fresh float32 parameters; under `jax.eval_shape` only their shapes."""
    keys = jax.random.split(key, 6)
    v, t = config.vision, config.text
    values = v.in_channels * v.temporal_patch_size * v.patch_size**2
    one = jnp.zeros((1, 1, 1, t.hidden_size))
    spot = jnp.zeros((3, 1, 1, 1), jnp.int32)
    merge = v.spatial_merge_size
    visual = VisionTower(v).init(keys[0], jnp.zeros((1, merge * merge, values)), (merge, merge))["params"]
    language = Decoder(t).init(keys[1], one, spot, lengths=jnp.ones((1,), jnp.int32))["params"]
    table = nn.initializers.normal(0.02)(keys[2], (t.vocab_size, t.hidden_size))
    head = nn.initializers.normal(t.hidden_size**-0.5)(keys[3], (t.hidden_size, t.vocab_size))
    language = {"embed_tokens": {"embedding": table}, **language}
    params = {"vlm": {"model": {"visual": visual, "language_model": language}, "lm_head": {"kernel": head}}}
    if config.expert is not None:
        action_keys = jax.random.split(keys[4], 3)
        text = config.expert_text()
        state = jnp.zeros((1, 1, 1, text.hidden_size))
        decoder = Decoder(text, causal=False).init(
            action_keys[0], state, spot, lengths=jnp.ones((1,), jnp.int32)
        )
        params["expert"] = decoder["params"]
        action_in = expert.ActionIn(config.expert)
        params["action_in_proj"] = action_in.init(action_keys[1], jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 1)))[
            "params"
        ]
        params["action_out_proj"] = layers.Linear(2, use_bias=True).init(action_keys[2], state)["params"]
    return params
