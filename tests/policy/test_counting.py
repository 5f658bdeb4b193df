"""What a plan costs, counted: operations, memory, buffers and compilations grow with the samples' own share only.

Programs are compiled from shapes; what XLA reports of them (operations, buffer sizes, optimised text) is the
reference for the package's own counts and for the bounds. Both forms of the parameters are compiled: split by layer, as
a plan runs on a processor, and stacked, as it runs elsewhere."""

import contextlib
import dataclasses
import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ar1_jax
from ar1_jax.models import alpamayo, costs, decoder
from ar1_jax.models.config import ExpertConfig, ModelConfig, TextConfig, VisionConfig
from ar1_jax.models.grammar import Grammar
from ar1_jax.policy import loading, sampling, sizes
from ar1_jax.policy import policy as policies
from tests.policy import folders, test_combinations

SMALL = ModelConfig(
    TextConfig(128, 256, 2, 4, 2, 32, 512, (6, 5, 5)), VisionConfig(2, 64, 128, 2, 16, 128, (0,)),
    ExpertConfig(128, 192, 4, 64, 2), image_token_id=0, actions=4,
)  # fmt: skip
S, L = 96, 12  # prompt and suffix tokens of SMALL's programs
FORMS = pytest.mark.parametrize("split", [False, True], ids=["stacked", "by layer"])


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


@functools.cache
def params_of(config, split):
    """Shapes of the parameters: stacked, or split by layer as a policy decodes from them on a processor."""
    init = functools.partial(alpamayo.init_params, config)
    return jax.eval_shape(lambda key: alpamayo.by_layer(init(key)) if split else init(key), jax.random.key(0))


def prompt_of(scenes, tokens):
    """Prompts with one camera of two pictures."""
    ids = lambda *dims: shape(*dims, dtype=jnp.int32)
    return alpamayo.Prompt(
        ids(scenes, tokens), ids(scenes), ids(3, scenes, tokens), ids(scenes), ids(scenes, tokens),
        (shape(2 * scenes, 24, 1536),), ((4, 6),),
    )  # fmt: skip


@functools.cache
def prefix_of(config, split, scenes, tokens):
    """What `prefill` gives, so that its layout is the one that is sampled from."""
    read = functools.partial(alpamayo.prefill, config)
    return jax.eval_shape(read, params_of(config, split), prompt_of(scenes, tokens))


def suffix_of(prefix, samples, length):
    return jax.eval_shape(lambda: prefix.cache.room(samples, length))


# --- operations -----------------------------------------------------------------------------------------------------


def test_a_plan_grows_by_its_samples_own_share():
    plan = functools.partial(costs.plan, SMALL, 1, images=4, patches=60, prefix=S, tokens=L)
    one, two, sixteen = (plan(k).flops for k in (1, 2, 16))
    share = 15 * (two - one)
    assert sixteen - one == pytest.approx(share, rel=1e-12)
    own = (
        sum(costs.decode(SMALL, 1, 1, S, n).flops for n in range(L))
        + 10 * costs.flow(SMALL, 1, 1, S, L).flops
    )
    assert two - one == pytest.approx(own, rel=1e-12)
    guided = functools.partial(plan, guided=True)
    both = own + 10 * costs.flow(SMALL, 1, 1, S, L).flops + costs.completion(SMALL, 1, 1, S, L).flops
    assert guided(2).flops - guided(1).flops == pytest.approx(both, rel=1e-12)


def decode_program(samples, split):
    """One token of K rows, logits included."""

    def run(params, prefix, suffix, length, x, positions):
        past = decoder.Past(prefix.cache, prefix.length, suffix, length)
        return alpamayo.logits(params, alpamayo.decode(SMALL, params, x, positions, past)[0])

    prefix, length = prefix_of(SMALL, split, 1, S), shape(1, samples, dtype=jnp.int32)
    x, at = shape(1, samples, 1, SMALL.text.hidden_size), shape(3, 1, samples, 1, dtype=jnp.int32)
    return run, (params_of(SMALL, split), prefix, suffix_of(prefix, samples, L), length, x, at)


def flow_program(samples, split):
    """One evaluation of the field."""
    run = functools.partial(alpamayo.flow_velocity, SMALL)
    prefix, length = prefix_of(SMALL, split, 1, S), shape(1, samples, dtype=jnp.int32)
    x, tau = shape(1, samples, SMALL.actions, 2), shape(1, samples)
    return run, (params_of(SMALL, split), prefix, suffix_of(prefix, samples, L), length, x, tau)


@FORMS
@pytest.mark.parametrize(("program", "count"), [(decode_program, costs.decode), (flow_program, costs.flow)])
def test_the_count_agrees_with_the_compiler(program, count, split, monkeypatch):
    """Two layers, unrolled where they are stacked, because XLA counts the body of a loop once."""
    scan = nn.scan
    monkeypatch.setattr(nn, "scan", lambda *a, **k: scan(*a, **{**k, "unroll": True}))
    flops = {}
    for samples in (1, 16):
        run, arguments = program(samples, split)
        flops[samples] = jax.jit(run).lower(*arguments).compile().cost_analysis()["flops"]
        assert flops[samples] == pytest.approx(count(SMALL, 1, samples, S, L).flops, rel=0.05)
    share = count(SMALL, 1, 2, S, L).flops - count(SMALL, 1, 1, S, L).flops
    assert flops[16] - flops[1] == pytest.approx(15 * share, rel=0.05)


# --- memory ---------------------------------------------------------------------------------------------------------


def sample_program(config, split, rules, samples, tokens, **options):
    """The compiled sample stage behind one scene of so many tokens."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))

    def run(params, prefix, keys, temperature, top_p, limit):
        return sampling.sample.__wrapped__(
            config, rules, params, prefix, keys, samples=samples, temperature=temperature, top_p=top_p,
            limit=limit, **options,
        )  # fmt: skip

    numbers = shape(), shape(), shape(dtype=jnp.int32)
    params, prefix = params_of(config, split), prefix_of(config, split, 1, tokens)
    return jax.jit(run).lower(params, prefix, keys, *numbers).compile()


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["stacked", "by layer"])
def test_a_sample_needs_its_suffix_and_little_more(split):
    """0p5b, 256 new tokens, in float32 (XLA for CPU widens bfloat16 weights and caches)."""
    size = sizes.size("0p5b")
    text = TextConfig(size.d, size.f, size.layers, size.h, size.j, size.e, size.vocab, size.mrope)
    vision = dataclasses.replace(SMALL.vision, out_hidden_size=size.d)
    config = ModelConfig(text, vision, None, image_token_id=0)
    rules = Grammar((155_669, 151_669), 155_678, 155_681, 155_683, 151_645, 151_643, strict=False)
    taken = {}
    for samples in (1, 16):
        program = sample_program(config, split, rules, samples, 3072, length=256)
        m = program.memory_analysis()
        parts = m.argument_size_in_bytes, m.temp_size_in_bytes, m.output_size_in_bytes
        taken[samples] = sum(parts) - m.alias_size_in_bytes
    suffix = 2 * 4 * size.layers * 256 * size.j * size.e
    assert (taken[16] - taken[1]) / 15 <= 1.25 * suffix + 4 * size.vocab * 4
    assert taken[16] - taken[1] >= 15 * suffix  # the probe: the caches are among what is counted


# --- buffers --------------------------------------------------------------------------------------------------------

MANY, LONG = 64, 512  # samples and prompt tokens: everything but a repeated prefix is smaller than K·S·J·E


def largest_buffer(program) -> int:
    """Elements of the largest array that the optimised program names."""
    sizes_ = re.findall(r"\b(?:pred|[sufb]+\d+)\[([\d,]*)\]", program.as_text())
    return max(math.prod(map(int, dims.split(","))) for dims in sizes_ if dims)


def planning_programs(split):
    """Name -> (stage, its arguments) of all stages of a plan of SMALL with MANY samples behind LONG tokens."""
    whole = loading.create("nano", jax.random.key(0)).config
    config = dataclasses.replace(whole, model=SMALL)
    params, prefix = params_of(SMALL, split), prefix_of(SMALL, split, 1, LONG)
    count, ids = shape(1, MANY, dtype=jnp.int32), shape(1, MANY, L, dtype=jnp.int32)
    suffix, noise = suffix_of(prefix, MANY, L), shape(1, MANY, SMALL.actions, 2)
    flow = functools.partial(policies.flow.__wrapped__, config, steps=2, integrator="euler")
    guided = functools.partial(policies.guided_flow.__wrapped__, config, steps=2, integrator="euler")
    return {
        "prefill": (functools.partial(alpamayo.prefill, SMALL), (params, prompt_of(1, LONG))),
        "flow": (flow, (params, prefix, suffix, count, count, noise)),
        "guided flow": (guided, (params, prefix, prefix, suffix, ids, count, count, noise, shape())),
    }


@FORMS
@pytest.mark.parametrize("stage", ["prefill", "sample", "flow", "guided flow"])
def test_no_stage_repeats_the_prefix(stage, split):
    bound = MANY * LONG * SMALL.text.num_key_value_heads * SMALL.text.head_dim
    assert largest_buffer(compiled(stage, split)) < bound


@FORMS
@pytest.mark.parametrize("stage", ["sample", "flow", "guided flow"])
def test_a_repeated_prefix_would_be_seen(stage, split, monkeypatch):
    """The probe: attention as the reference has it, on K copies of the prefix."""
    shared = decoder.shared_prefix_attention

    def repeating(
        q, prefix_k, prefix_v, suffix_k=None, suffix_v=None, *, prefix_length, own_k, own_v, **rest
    ):
        samples = q.shape[1]
        flat = lambda x: x.reshape(-1, 1, *x.shape[2:])
        copies = [jnp.repeat(x, samples, axis=0) for x in (prefix_k, prefix_v, prefix_length)]
        suffix = [None if x is None else flat(x) for x in (suffix_k, suffix_v)]
        rest["suffix_length"] = None if rest["suffix_length"] is None else flat(rest["suffix_length"])
        out = shared(
            flat(q),
            *copies[:2],
            *suffix,
            prefix_length=copies[2],
            own_k=flat(own_k),
            own_v=flat(own_v),
            **rest,
        )
        return out.reshape(q.shape)

    monkeypatch.setattr(decoder, "shared_prefix_attention", repeating)
    bound = MANY * LONG * SMALL.text.num_key_value_heads * SMALL.text.head_dim
    assert largest_buffer(compiled(stage, split)) >= bound


def compiled(stage, split):
    """A stage's program, traced anew: the functions inside `jit`, which keeps what it traced."""
    if stage == "sample":
        rules = Grammar((10, 500), 5, 6, 7, 8, 0, reasoning=L - 2)
        return sample_program(SMALL, split, rules, MANY, LONG, length=L)
    run, arguments = planning_programs(split)[stage]
    return jax.jit(lambda *a: run(*a)).lower(*arguments).compile()


# --- compilations ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def compilations():
    """A list that grows by one with every program that JAX compiles (or takes from its cache on disk)."""
    seen, event = [], "/jax/core/compile/backend_compile_duration"
    listen = lambda name, seconds, **_: seen.append(seconds) if name == event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def scene(seed, cameras=(0, 1, 2, 6), route="Turn left in 40 m"):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(cameras), 1, 96, 160, 3), dtype=np.uint8)
    xyz = np.zeros((16, 3), np.float32)
    xyz[:, 0] = np.arange(-15, 1) * 0.1 * (5 + seed)
    return ar1_jax.Scene(
        images, np.array(cameras), xyz, np.tile(np.eye(3, dtype=np.float32), (16, 1, 1)), route
    )


@pytest.fixture(scope="module")
def policy():
    return test_combinations.small()


def test_the_arguments_counted_are_those_that_run(policy, monkeypatch):
    """What a plan on this processor hands to its stages has the layout that the programs above are compiled for."""
    taken = {}

    def recording(name, stage):
        def run(config, *arguments, **options):
            taken[name] = arguments
            return stage(config, *arguments, **options)

        return run

    monkeypatch.setattr(sampling, "sample", recording("sample", sampling.sample))
    monkeypatch.setattr(policies, "flow", recording("flow", policies.flow))
    policy.plan(scene(0), samples=2, key=jax.random.key(0), flow_steps=1)
    _, params, prefix, _ = taken["sample"]
    config, tokens = policy.config.model, prefix.cache.k[0].shape[-2]
    behind = prefix_of(config, True, 1, tokens)
    layout = lambda *trees: jax.tree.map(lambda x: (x.shape, x.dtype), trees)
    assert layout(params, prefix.cache) == layout(params_of(config, True), behind.cache)
    params, prefix, suffix = taken["flow"][:3]
    room = suffix_of(behind, 2, suffix.k[0].shape[-2])
    assert layout(params, prefix.cache, suffix) == layout(params_of(config, True), behind.cache, room)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch": 2},
        pytest.param({"guidance": 1.5}, marks=pytest.mark.slow),
        pytest.param({"reasoning": "Stop, keep lane."}, marks=pytest.mark.slow),
        pytest.param({"draft": "ngram"}, marks=pytest.mark.slow),
        pytest.param({"decoder": "tokens"}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(f"{key}" for key in options) or "plain",
)
def test_another_scene_of_the_bucket_compiles_nothing(policy, options):
    """After one call: other pictures and history, another length of route, key, temperature, nucleus, limit, weight of
    guidance and text of the reasoning."""
    batch = options.get("batch", 1)
    options = {key: value for key, value in options.items() if key != "batch"}
    many = lambda *scenes: scenes[0] if batch == 1 else list(scenes)
    changed = {**options, "guidance": 3.0} if "guidance" in options else options
    changed = {**changed, "reasoning": "Keep speed, keep lane."} if "reasoning" in options else changed
    policy.plan(many(scene(0), scene(1)), samples=2, key=jax.random.key(0), **options)
    with compilations() as seen:
        other = many(scene(2, route="Go straight for 200 m, then turn right"), scene(3))
        policy.plan(
            other, samples=2, key=jax.random.key(1), temperature=0.9, top_p=0.8, max_new_tokens=100, **changed
        )
        policy.plan(many(scene(4), scene(5)), samples=2, key=jax.random.key(2), max_new_tokens=9, **changed)
    assert not seen
    with compilations() as seen:
        policy.plan(many(scene(0), scene(1)), samples=3, key=jax.random.key(0), **options)
    assert seen  # the probe: another K does


def test_another_limit_of_a_release_compiles_nothing():
    """Its completions have no length of their own: the limit is rounded up to a room, and kept inside it."""
    release, (one, _) = folders.policy("v15_small"), test_combinations.released(*test_combinations.NAMES)
    plan = lambda limit: release.plan(
        one, samples=1, key=jax.random.key(0), max_new_tokens=limit, flow_steps=1
    )
    assert plan(3).lengths == 3
    with compilations() as seen:
        assert plan(5).lengths == 5
    assert not seen
