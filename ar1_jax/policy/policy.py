"""Policy: a checkpoint that plans. Strings and scenes in, plans out; the jitted stages lie in sampling.py and here.

B scenes, K samples, A controls, L completion room, W = 64 waypoints. One jitted program a stage and shape bucket:
another scene of the same bucket compiles nothing.
"""

import functools
import logging
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax import actions
from ar1_jax.core import errors, sharding
from ar1_jax.core.types import Answer, Plan, Scene
from ar1_jax.models import alpamayo, expert
from ar1_jax.models import grammar as grammars
from ar1_jax.models.decoder import Past
from ar1_jax.policy import decoding, drafts, prompts, sampling
from ar1_jax.policy.config import PolicyConfig
from ar1_jax.text.vocabulary import Vocabulary, between

BUCKET = 32  # prompt lengths are padded up to a multiple of this
ROOM = 64  # and the room of a released policy's completions to a multiple of this

prefill = jax.jit(alpamayo.prefill, static_argnames=("config",))
look = jax.jit(alpamayo.look, static_argnames=("config", "grids"))


@functools.partial(jax.jit, static_argnames=("config", "steps", "integrator"), donate_argnames=("noise",))
def flow(
    config: PolicyConfig, params, prefix, suffix, suffix_length, start, noise, *, steps: int, integrator: str
):
    """Normalised actions [B, K, A, 2] by integrating the expert's field from float32 noise [B, K, A, 2], given up."""

    def field(x, tau):
        return alpamayo.flow_velocity(config.model, params, prefix, suffix, suffix_length, x, tau, start)

    return expert.integrate(field, noise, steps, integrator)[0]


@functools.partial(jax.jit, static_argnames=("config", "steps", "integrator"), donate_argnames=("noise",))
def guided_flow(
    config: PolicyConfig, params, prefix, other, suffix, ids, suffix_length, start, noise, weight, *, steps: int,
    integrator: str,
):  # fmt: skip
    """`flow` with (1 - w) · velocity without the route + w · velocity with it, both from one call for 2B scenes.

    other: the prompts without their routes, padded to prefix's length; ids int [B, K, L] go behind it at once, so that
    the reasoning is the same. The two sides are joined before the first step and only read after it.
    """
    _, bare = alpamayo.completion(config.model, params, other, ids)
    join = lambda a, b, axis=0: jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=axis), a, b)
    past = Past(
        join(prefix.cache, other.cache, -4), join(prefix.length, other.length),
        join(suffix.by_head(), bare.by_head(), -5), join(suffix_length, suffix_length),
    )  # fmt: skip
    starts = join(start, start + (other.next_position - prefix.next_position)[:, None])

    def field(x, tau):
        with_route, without = jnp.split(
            expert.velocity(config.model, params, join(x, x), join(tau, tau), past, starts), 2
        )
        return (1 - weight) * without + weight * with_route

    return expert.integrate(field, noise, steps, integrator)[0]


@functools.partial(jax.jit, static_argnames=("config",))
def trajectories(config: PolicyConfig, normalised, history_xyz, history_rot):
    """Actions [B, K, A, 2] -> xyz [B, K, 64, 3], rot [B, K, 64, 3, 3] from the histories [B, 16, 3], [B, 16, 3, 3]."""
    spread = lambda x: jnp.broadcast_to(x[:, None], (*normalised.shape[:2], *x.shape[1:]))
    return actions.unicycle_decode(normalised, spread(history_xyz), spread(history_rot), config.unicycle)


def _on_its_mesh(method):
    """A method whose programs are traced on the mesh of the policy's parameters, if they are spread over one."""

    @functools.wraps(method)
    def run(policy, *args, **kwargs):
        with sharding.on(policy.mesh):
            return method(policy, *args, **kwargs)

    return run


class Policy:
    """A loaded checkpoint. config: PolicyConfig; params: nested dict of arrays; vocabulary: its tokenizer; raw: its
    config.json."""

    def __init__(self, config: PolicyConfig, params, vocabulary: Vocabulary, raw: dict, vlm: dict):
        self.config, self.params, self.vocabulary, self.raw, self.vlm = config, params, vocabulary, raw, vlm
        self.templates = prompts.Templates(config, vocabulary)
        self.source: pathlib.Path | None = None
        self._split = None

    @property
    def mesh(self):
        """The mesh that params are spread over; None where they lie on one device."""
        where = jax.tree.leaves(self.params)[0].sharding
        return where.mesh if isinstance(where, jax.sharding.NamedSharding) else None

    @property
    def weights(self):
        """params as the stages run on them: split by layer on one processor (views, no copy), else as they are."""
        if self._split is None or self._split[0] is not self.params:
            devices = {device for leaf in jax.tree.leaves(self.params) for device in leaf.devices()}
            alone = len(devices) == 1 and devices.pop().platform == "cpu"
            self._split = self.params, alpamayo.by_layer(self.params) if alone else self.params
        return self._split[1]

    @_on_its_mesh
    def plan(
        self, scene: Scene | Sequence[Scene], samples: int = 6, key=None, temperature: float = 0.6,
        top_p: float | None = 0.98, top_k: int | None = None, max_new_tokens: int = 256, decoder: str = "flow",
        flow_steps: int = 10, integrator: str = "euler", guidance: float | None = None, reasoning: str | None = None,
        noise=None, draft: Plan | Sequence[Plan] | str | None = None, draft_width: int = 8,
    ):  # fmt: skip
        """K = `samples` reasonings and trajectories of one scene (a Plan) or of several (a list of Plans).

        key: a jax random key (or a list, one a scene), needed where anything is drawn (temperature > 0, or no noise for
        the flow). decoder: "flow" (expert) or "tokens" (discrete actions). guidance: weight w of route guidance.
        reasoning: this text instead of a sampled one. noise: float32 [K, A, 2] (or one a scene) where the flow starts.
        draft: what the reasonings probably say, to draw them in fewer calls of the decoder: the plan of the previous
        frame (one a scene), or "ngram" for what the prompt and the reasoning itself have said; draft_width ids are
        guessed at once. The result is the same with any draft, up to rounding (policy/drafts.py). Errors: SceneError
        with all that is wrong with a scene, ValueError for settings that contradict each other.
        """
        single = isinstance(scene, Scene)
        scenes = [scene] if single else list(scene)
        rules, length = self._rules(decoder, max_new_tokens)
        greedy = temperature == 0
        if key is None and (not greedy or (noise is None and decoder == "flow")):
            raise ValueError("plan: key=None, but something is drawn at random; pass key=jax.random.key(seed), or "
                             "temperature=0 with noise=")  # fmt: skip
        if decoder == "tokens" and not (guidance is None and noise is None):
            raise ValueError(
                "plan: guidance= and noise= are the flow's; decoder='tokens' draws its actions as ids"
            )
        keys = jnp.stack(self._keys(key, len(scenes)))
        names = ["scene"] if single else [f"scene {i}" for i in range(len(scenes))]
        encoded = [
            prompts.encode_scene(self.config, self.templates, s, where=name)
            for s, name in zip(scenes, names, strict=True)
        ]
        prompt = prompts.batch(self.config, encoded, self._bucket(encoded))
        prefix, other = self._read(prompt, encoded, guidance)
        nucleus = None if greedy or top_p is None or top_p >= 1 else top_p
        text = self._draft(draft, draft_width, prompt, len(scenes), length)
        drafted = functools.partial(drafts.sample, draft=text, width=draft_width)
        draw = sampling.sample if text is None else drafted
        done = draw(
            self.config.model, rules, self.weights, prefix, keys, samples=samples, length=length,
            temperature=1.0 if greedy else float(temperature), greedy=greedy, top_k=top_k, top_p=nucleus,
            forced=self._forced(reasoning, length), limit=max_new_tokens,
        )  # fmt: skip
        history = [jnp.asarray(np.stack([np.asarray(getattr(s, name), np.float32) for s in scenes]))
                   for name in ("ego_history_xyz", "ego_history_rot")]  # fmt: skip
        if decoder == "tokens":
            taken, _ = grammars.action_ids(rules, done.ids)
            top = self.config.future.num_bins * (2 if self.config.future.separate else 1)
            normal = actions.ids_to_actions(
                (taken - self.config.ids.trajectory).clip(0, top - 1), self.config.future
            )
        else:
            noise = self._noise(noise, keys, samples, len(scenes))
            normal = self._flow(prefix, other, done, rules, noise, flow_steps, integrator, guidance)
        xyz, rot = trajectories(self.config, normal, *history)
        plans = self._plans(done, rules, normal, xyz, rot)
        return plans[0] if single else plans

    @_on_its_mesh
    def answer(
        self, scene: Scene, temperature: float = 0.6, key=None, max_new_tokens: int = 256, top_p=0.98
    ) -> Answer:
        """The text that answers scene.question, where the checkpoint knows questions (Alpamayo 1.5)."""
        if scene.question is None:
            raise errors.SceneError("answer: the scene asks nothing; pass Scene(question=...)")
        if self.config.family != "alpamayo1_5":
            raise ValueError(f"answer: {self.config.family} was not trained on questions; Alpamayo 1.5 is")
        greedy = temperature == 0
        if key is None and not greedy:
            raise ValueError("answer: key=None with a temperature above 0; pass key=jax.random.key(seed)")
        encoded = prompts.encode_scene(self.config, self.templates, scene, question=True)
        prefix = prefill(
            self.config.model, self.weights, prompts.batch(self.config, [encoded], self._bucket([encoded]))
        )
        ids = self.config.ids
        rules = grammars.Grammar((0, ids.size), -1, -1, -1, ids.end_of_turn, ids.pad, strict=False)
        done = sampling.sample(
            self.config.model, rules, self.weights, prefix, jnp.stack([jax.random.key(0) if key is None else key]),
            samples=1, length=_padded(max_new_tokens, ROOM), temperature=1.0 if greedy else float(temperature),
            greedy=greedy, top_p=None if greedy else top_p, limit=max_new_tokens,
        )  # fmt: skip
        token_ids = np.asarray(done.ids)[0, :, : int(done.lengths[0, 0])]
        text = between(self.vocabulary.decode(token_ids[0]), "answer")
        return Answer(encoded.template.ids[None], token_ids, text)

    def save(self, folder: str | pathlib.Path, extra: dict[str, str] | None = None) -> None:
        """Write the policy as a folder that `load` reads: config, weights, tokenizer, and extra text files."""
        from ar1_jax.policy import loading

        loading.save(self, pathlib.Path(folder), extra or {})

    def _rules(self, decoder: str, max_new_tokens: int):
        """Grammar and room of completions, the same for every limit up to the room: a limit compiles nothing."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: at least one is needed")
        room = _padded(max_new_tokens, ROOM)
        rules = self.config.grammar(decoder, room)
        return rules, rules.length if rules.strict else room

    def _draft(self, draft, width: int, prompt, scenes: int, length: int) -> drafts.Draft | None:
        if draft is None:
            return None
        if width < 1:
            raise ValueError(f"draft_width={width}: at least one id is guessed")
        if isinstance(draft, str) and draft == "ngram":
            return drafts.of_prompt(prompt)
        plans = [draft] if isinstance(draft, Plan) else draft
        if isinstance(draft, str) or len(plans) != scenes or not all(isinstance(p, Plan) for p in plans):
            raise ValueError(
                f'draft: "ngram" or one Plan for each of {scenes} scenes was expected, got {draft!r:.60}'
            )
        return drafts.of_completions([(plan.token_ids, plan.lengths) for plan in plans], length)

    @staticmethod
    def _keys(key, scenes: int) -> list:
        """One key a scene: the one given for all, or those of a list."""
        if not isinstance(key, (list, tuple)):
            return [jax.random.key(0) if key is None else key] * scenes
        if len(key) != scenes:
            raise ValueError(f"plan: {len(key)} keys for {scenes} scenes")
        return list(key)

    def _bucket(self, encoded) -> int:
        return _padded(max(len(e.template.ids) for e in encoded), BUCKET)

    def _forced(self, reasoning: str | None, length: int):
        if reasoning is None:
            return None
        ids = self.vocabulary.encode_user(reasoning) + [self.config.ids.cot_end, self.config.ids.future_start]
        if len(ids) > length:
            raise ValueError(f"reasoning: {len(ids) - 2} tokens, at most {length - 2} fit")
        return jnp.asarray(ids + [-1] * (length - len(ids)), jnp.int32)

    def _noise(self, noise, keys, samples: int, scenes: int):
        shape = (scenes, samples, self.config.model.actions, 2)
        if noise is None:
            draw = lambda key: jax.random.normal(jax.random.fold_in(key, 2**31 - 1), shape[1:])
            return jax.vmap(draw)(keys)
        noise = jnp.array(noise, jnp.float32)  # a copy: the flow gives it up
        noise = noise[None] if noise.ndim == 3 else noise
        if noise.shape != shape:
            raise ValueError(f"noise: {list(noise.shape)} was given, {list(shape[1:])} a scene is expected")
        return noise

    def _read(self, prompt, encoded, guidance):
        """The prefixes with and, for guidance, without the routes (else None); the pictures are seen once."""
        if guidance is None:
            return prefill(self.config.model, self.weights, prompt), None
        bare = [
            prompts.Encoded(prompts.drop_route(self.config, e.template), e.pixels, e.history) for e in encoded
        ]
        without = prompts.batch(self.config, bare, self._bucket(encoded))
        seen = look(self.config.model, self.weights, prompt.pixels, prompt.grids)
        return tuple(prefill(self.config.model, self.weights, p, seen) for p in (prompt, without))

    def _flow(self, prefix, other, done, rules, noise, steps: int, integrator: str, guidance):
        suffix_length, start = trigger_state(rules, prefix, done)
        if other is None:
            return flow(self.config, self.weights, prefix, done.suffix, suffix_length, start, noise, steps=steps,
                        integrator=integrator)  # fmt: skip
        return guided_flow(
            self.config, self.weights, prefix, other, done.suffix, done.ids, suffix_length, start, noise,
            float(guidance), steps=steps, integrator=integrator,
        )  # fmt: skip

    def _plans(self, done, rules, normal, xyz, rot) -> list[Plan]:
        host = jax.device_get((done.ids, done.log_prob, done.lengths, done.complete, normal, xyz, rot))
        plans, cut, rounds = [], ~host[3], int(done.rounds)
        if cut.any():
            said = "%d of %d reasonings did not end by themselves"
            logging.getLogger(__name__).warning(said, cut.sum(), cut.size)
        for ids, log_prob, lengths, complete, action, path, turn in zip(*host, strict=True):
            n = int(lengths.max())
            texts = decoding.reasonings(self.config, self.vocabulary, ids)
            controls = np.asarray(actions.controls_of(action, self.config.unicycle))
            plans.append(
                Plan(
                    path,
                    turn,
                    controls,
                    action,
                    tuple(texts),
                    ids[:, :n],
                    log_prob[:, :n],
                    lengths,
                    complete,
                    rounds,
                )
            )
        return plans


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def trigger_state(rules: grammars.Grammar, prefix, done: sampling.Completions):
    """Tokens of each suffix the expert may read and the position of its first token, int [B, K] both.

    Without a trigger the last token was counted but never read, as in the reference (goldens, fact 8)."""
    length, found = grammars.trigger_length(rules, done.ids)
    used = jnp.where(found, length, done.lengths - 1)
    return used, prefix.next_position[:, None] + jnp.where(found, length, done.lengths)
