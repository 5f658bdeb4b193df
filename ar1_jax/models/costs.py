"""What a stage costs, from shapes alone: vision, prefill, a decode step, a flow step. Sums of core.costs.

I images of P patches, B scenes, S prompt tokens, K samples, L suffix tokens, A controls. Bytes count every weight and
every key and value once; `width` is bytes a number. Checked against the counts of inference.md section 12 and against
XLA on programs of one layer.
"""

from ar1_jax.core import costs
from ar1_jax.core.costs import Cost
from ar1_jax.models.config import ModelConfig, TextConfig


def _layer(text: TextConfig, tokens: int, width: int) -> Cost:
    """Products and norms of one decoder layer on `tokens` tokens, without attention itself."""
    d, heads, kv = (
        text.hidden_size,
        text.num_attention_heads * text.head_dim,
        text.num_key_value_heads * text.head_dim,
    )
    sizes = [
        (d, heads),
        (d, kv),
        (d, kv),
        (heads, d),
        (d, text.intermediate_size),
        (d, text.intermediate_size),
    ]
    products = costs.total(
        costs.matmul(tokens, i, o, width=width) for i, o in [*sizes, (text.intermediate_size, d)]
    )
    return products + 2 * costs.norm(tokens, d, width=width) + costs.norm(tokens, heads + kv, width=width)


def vision(config: ModelConfig, images: int, patches: int, *, width: int = 4) -> Cost:
    """The tower on I images of P patches: patch embedding, blocks, main merger and DeepStack mergers."""
    v = config.vision
    tokens, d, group = images * patches, v.hidden_size, v.spatial_merge_size**2
    values = v.in_channels * v.temporal_patch_size * v.patch_size**2
    sizes = [(d, 3 * d), (d, d), (d, v.intermediate_size), (v.intermediate_size, d)]
    block = costs.total(costs.matmul(tokens, i, o, width=width) for i, o in sizes)
    head = d // v.num_heads
    block += costs.attention(
        images, patches, patches, v.num_heads, v.num_heads, head, causal=False, width=width
    )
    merger = costs.matmul(tokens // group, group * d, group * d, width=width)
    merger += costs.matmul(tokens // group, group * d, v.out_hidden_size, width=width)
    mergers = 1 + len(v.deepstack_visual_indexes)
    return costs.matmul(tokens, values, d, width=width) + v.depth * block + mergers * merger


def prefill(config: ModelConfig, scenes: int, tokens: int, *, width: int = 4) -> Cost:
    """The decoder on B prompts of S tokens, once whatever K is; logits of the last position are decoding's."""
    t = config.text
    attend = costs.attention(
        scenes,
        tokens,
        tokens,
        t.num_attention_heads,
        t.num_key_value_heads,
        t.head_dim,
        causal=True,
        width=width,
    )
    return t.num_hidden_layers * (_layer(t, scenes * tokens, width) + attend)


def _suffix(
    text: TextConfig, scenes: int, samples: int, queries: int, prefix: int, own: int, width: int
) -> Cost:
    """Attention of K x N queries a scene: on one shared prefix, read once, and on each sample's own keys."""
    heads, kv, e = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    shared = costs.attention(scenes, samples * queries, prefix, heads, kv, e, causal=False, width=width)
    return shared + costs.attention(scenes * samples, queries, own, heads, kv, e, causal=False, width=width)


def decode(
    config: ModelConfig, scenes: int, samples: int, prefix: int, suffix: int, *, width: int = 4
) -> Cost:
    """One token of each of B x K rows behind S prompt and L suffix tokens, logits included."""
    t, rows = config.text, scenes * samples
    layer = _layer(t, rows, width) + _suffix(t, scenes, samples, 1, prefix, suffix + 1, width)
    return t.num_hidden_layers * layer + costs.matmul(rows, t.hidden_size, t.vocab_size, width=width)


def flow(config: ModelConfig, scenes: int, samples: int, prefix: int, suffix: int, *, width: int = 4) -> Cost:
    """One evaluation of the expert's field: A tokens of each of B x K rows, with its input and output projections."""
    x, t = config.expert, config.expert_text()
    tokens = scenes * samples * config.actions
    layer = _layer(t, tokens, width) + _suffix(
        t, scenes, samples, config.actions, prefix, suffix + config.actions, width
    )
    widths = [3 * x.fourier_features] + [x.in_hidden_size] * x.in_layers + [x.hidden_size]
    project = costs.total(
        costs.matmul(tokens, i, o, width=width) for i, o in zip(widths[:-1], widths[1:], strict=True)
    )
    return t.num_hidden_layers * layer + project + costs.matmul(tokens, x.hidden_size, 2, width=width)


def completion(
    config: ModelConfig, scenes: int, samples: int, prefix: int, tokens: int, *, width: int = 4
) -> Cost:
    """L given tokens of each of B x K rows behind S prompt tokens, all at once, without logits."""
    t, rows = config.text, scenes * samples
    heads, kv, e = t.num_attention_heads, t.num_key_value_heads, t.head_dim
    shared = costs.attention(scenes, samples * tokens, prefix, heads, kv, e, causal=False, width=width)
    own = costs.attention(rows, tokens, tokens, heads, kv, e, causal=True, width=width)
    return t.num_hidden_layers * (_layer(t, rows * tokens, width) + shared + own)


def plan(
    config: ModelConfig, scenes: int, samples: int, *, images: int, patches: int, prefix: int, tokens: int,
    steps: int = 10, guided: bool = False, width: int = 4,
) -> Cost:  # fmt: skip
    """A whole plan of B scenes: I images a scene and S prompt tokens read once, L tokens of each of B x K rows one by
    one, `steps` evaluations of the field. guided: the prompt is read a second time without its route, its pictures
    are not, the tokens go
    behind it at once, and every evaluation is of both fields."""
    look = vision(config, scenes * images, patches, width=width)
    read = prefill(config, scenes, prefix, width=width)
    said = costs.total(decode(config, scenes, samples, prefix, n, width=width) for n in range(tokens))
    sides = 2 if guided else 1
    moved = steps * flow(config, sides * scenes, samples, prefix, tokens, width=width)
    again = read + completion(config, scenes, samples, prefix, tokens, width=width) if guided else Cost()
    return look + read + said + moved + again
