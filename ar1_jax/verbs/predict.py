"""Plans for scenes: prints what the policy says, draws where it would go, and keeps the numbers.

Writes runs/<name>/: figures/<scene>.png, plans/<scene>.json (units in its keys), plans.jsonl with the same records, one
a line, and report.html with all of them (docs/predict.md). Scenes are those of the package and of the driving world, or
one folder of yours (config.scene); several are planned at once, in batches of one layout.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ar1_jax import images
from ar1_jax.core import errors, runlog, scenes
from ar1_jax.core.types import Plan, Scene
from ar1_jax.data import examples, folder
from ar1_jax.figures import overlay, report
from ar1_jax.figures import plan as plan_figure
from ar1_jax.metrics import displacement
from ar1_jax.policy import loading
from ar1_jax.text import coc


class Reads(NamedTuple):
    """What a family of policies was trained with: cameras by id, frames a camera, are absent cameras made black, does
    it know routes (None: its prompt has no place for one) and questions?"""

    cameras: tuple[int, ...]
    frames: int
    fill: bool
    routes: bool | None
    questions: bool


READS = {
    "alpamayo_nano": Reads((0, 1, 2, 6), 1, False, False, False),
    "alpamayo1_5": Reads(tuple(scenes.CAMERA_NAMES), 4, False, True, True),
    # images bear no label: their number and order are fixed
    "alpamayo_r1": Reads((0, 1, 2, 6), 4, True, None, False),
}


class Result(NamedTuple):
    """What came out for one scene: the plan, the one under config.counterfactual, and the answer to its question."""

    plan: Plan
    other: Plan | None = None
    answer: str | None = None

    @property
    def influence(self) -> float | None:
        """How far the other reasoning moves the ways, in units of their spread; None where it cannot be known."""
        value = math.nan if self.other is None else self.plan.influence(self.other)
        return None if math.isnan(value) else value


def run(config) -> int:
    """Plans, prints, draws; returns the exit code."""
    check(config)
    policy = loading.load(config.policy, kernels=config.kernels)
    reads = READS[policy.config.family]
    if config.question is not None and not reads.questions:
        raise errors.ConfigError(
            f"config.question: {policy.config.family} was not trained on questions; Alpamayo 1.5 is"
        )
    found = [
        prepare(policy, example, config.frames, config.route, config.question)
        for example in wanted(config, config.frames or reads.frames)
    ]
    out = runlog.open_run(config.root, config.name, config)
    (out / "plans").mkdir(exist_ok=True)
    with runlog.RunLog(out, len(found)) as log:
        for name in ("reasoning", "counterfactual"):
            for note in misread(policy, config[name], f"config.{name}"):
                log.say(f"note: {note}")
        done = {}
        for members in batches([np.shape(example.scene.images) for example in found], config.batch):
            results = plan_batch(policy, [found[i].scene for i in members], members, config)
            for index, result in dict(zip(members, results, strict=True)).items():
                done[index] = one(policy, found[index], index, result, log)
        records, cards = zip(*(done[index] for index in sorted(done)), strict=True)
        lines = [json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n" for record in records]
        runlog.write_text(out / "plans.jsonl", "".join(lines))
        page = out / "report.html"
        subtitle = (
            f"Policy {config.policy}, {config.samples} samples a scene, temperature {config.temperature:g}"
        )
        report.render(page, "Plans", [{"kind": "rollouts", "items": list(cards)}], subtitle)
        log.say(f"done: {page}, numbers in {out / 'plans.jsonl'}")
    return errors.DONE


def one(policy, example: folder.Example, index: int, result: Result, log) -> tuple[dict, dict]:
    """Draws, writes and prints one scene's result; returns its record and its card for the page."""
    example = example._replace(notes=(*example.notes, *not_drawn(example.scene, result.plan)))
    name, facts = file_name(example.name, index), numbers(example, result.plan)
    picture = draw(policy, example, result.plan, log.figure(f"{name}.png"), result.other)
    record = to_json(example, result, facts) | {"figure": f"figures/{name}.png"}
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    runlog.write_text(log.folder / "plans" / f"{name}.json", text + "\n")
    say(log, example, result, facts, log.figure(f"{name}.png"))
    return record, card(example, result, facts, picture)


def batches(shapes: Sequence[tuple[int, ...]], size: int) -> list[list[int]]:
    """Indices of scenes in batches of at most `size`, all of one image shape [C, T, H, W, 3].

    Batches of one shape have one length (the last is filled up with its own last scene), so that each stage compiles
    once a shape, however many scenes there are."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        alike.setdefault(tuple(shape), []).append(index)
    out = []
    for members in alike.values():
        width = min(size, len(members))
        for start in range(0, len(members), width):
            part = members[start : start + width]
            out.append(part + part[-1:] * (width - len(part)))
    return out


def plan_batch(policy, batch: Sequence[Scene], indices: Sequence[int], config) -> list[Result]:
    """Results of scenes whose numbers in the run are `indices`; a scene's draws depend on its number only.

    Settings that contradict each other become a ConfigError."""
    keys = [jax.random.fold_in(jax.random.key(config.seed), index) for index in indices]
    plan = lambda reasoning: policy.plan(
        list(batch), samples=config.samples, key=keys, temperature=config.temperature, top_p=config.top_p,
        max_new_tokens=config.max_new_tokens, decoder=config.decoder, flow_steps=config.flow_steps,
        reasoning=reasoning,
    )  # fmt: skip
    try:
        plans = plan(config.reasoning)
        others = [None] * len(plans) if config.counterfactual is None else plan(config.counterfactual)
    except ValueError as e:
        raise errors.ConfigError(str(e)) from e
    asks = READS[policy.config.family].questions
    ask = lambda scene: policy.answer(scene, temperature=0, max_new_tokens=config.max_new_tokens).text
    answers = [ask(scene) if asks and scene.question is not None else None for scene in batch]
    return [Result(*row) for row in zip(plans, others, answers, strict=True)]


def check(config) -> None:
    """Names what is wrong with settings or scenes before weights are read, which may take minutes."""
    errors.one_of(config.decoder, ("flow", "tokens"), "config.decoder")
    if config.samples < 1:
        raise errors.ConfigError(f"config.samples={config.samples}: at least one plan is needed")
    if config.batch < 1:
        raise errors.ConfigError(f"config.batch={config.batch}: at least one scene is planned at a time")
    if config.t0 is not None and config.scene is None:
        raise errors.ConfigError(
            "config.t0: a moment can be chosen in a folder's recording only; give config.scene"
        )
    if config.scene is None and not config.families and not config.recordings:
        raise errors.ConfigError(
            "no scene: config.families and config.recordings are empty and config.scene is none"
        )
    if config.scene is not None:
        folder.load_folder(config.scene, t0=config.t0, frames=config.frames or None)
    for name in config.recordings:
        examples.shipped(name)


def wanted(config, frames: int) -> list[folder.Example]:
    """The scenes of the config, with `frames` frames a camera where there are so many."""
    if config.scene is not None:
        return folder.load_folder(config.scene, t0=config.t0, frames=frames)
    found = [
        examples.world(config.number + i, family, frames=frames) for i, family in enumerate(config.families)
    ]
    return found + [examples.shipped(name, frames) for name in config.recordings]


def prepare(
    policy, example: folder.Example, frames: int = 0, route: str | None = None, question: str | None = None
) -> folder.Example:
    """The example with the cameras and frames that the policy was trained with, route and question replaced where they
    are given, its remarks grown by what changed and by what the policy does not know."""
    reads = READS[policy.config.family]
    scene, notes = examples.fit(example.scene, reads.cameras, frames or reads.frames, reads.fill)
    scene = scene if route is None else scene.replace(route=route)
    scene = scene if question is None else scene.replace(question=question)
    if scene.route is not None and not reads.routes:
        never = (
            "has no place for routes: it is left out" if reads.routes is None else "was never shown routes"
        )
        notes.append(f"route {scene.route!r}: {policy.config.family} {never}")
    if reads.routes is not None:
        notes += misread(policy, scene.route, "route")
    if scene.question is not None and not reads.questions:
        notes.append(
            f"question {scene.question!r}: not answered, {policy.config.family} was not trained on questions"
        )
    return example._replace(scene=scene, notes=(*example.notes, *notes))


def misread(policy, text: str | None, what: str) -> list[str]:
    """A remark where the policy's vocabulary lacks words of a text."""
    if text is None:
        return []
    read = policy.vocabulary.decode(policy.vocabulary.encode_user(text))
    return [] if read == text else [f"{what}: the policy knows not all of its words and reads {read!r}"]


def draw(policy, example: folder.Example, plan: Plan, path=None, other: Plan | None = None) -> bytes:
    """The picture of a plan as PNG bytes; the strip shows the pixels that the policy reads, resized as it does.

    other: the plan under a reasoning that was given instead, drawn beside it with its influence in the title."""
    scene, config = example.scene, policy.config
    size = images.target_size(*np.shape(scene.images)[2:4], config.min_pixels, config.max_pixels)
    plans, title = [plan], example.name.replace("_", " ")
    decisions = [decision(text) for text in plan.reasoning]
    if other is not None:
        plans.append(other)
        decisions += [f"told to believe: {decision(text)}".rstrip(": ") for text in other.reasoning]
        title += f": influence of its reasoning {shown(Result(plan, other).influence)}"
    joined = lambda name: np.concatenate([np.asarray(getattr(each, name)) for each in plans])
    return plan_figure.render(
        images.resize(np.asarray(scene.images), *size),
        [scenes.CAMERA_NAMES[int(i)] for i in scene.camera_ids],
        scene.ego_history_xyz,
        joined("trajectory_xyz"),
        [text for each in plans for text in each.reasoning],
        path=path,
        title=title,
        decisions=decisions,
        notes=["" if complete else "(cut off: did not end by itself)" for complete in joined("complete")],
        rotations=joined("trajectory_rot"),
        truth=example.future_xyz,
        agents=example.agents,
        lanes=example.lanes,
        calibration=scene.calibration,
        pictures=scene.images,
        samples=len(plan.reasoning),
    )


def not_drawn(scene: Scene, plan: Plan) -> list[str]:
    """A remark where no camera's picture can show the ways."""
    if scene.calibration is None:
        return ["calibration is absent: the ways are not drawn on the pictures"]
    seen = overlay.looking_there(scene.calibration, plan.trajectory_xyz)
    return [] if seen else ["the ways lie in no camera's picture, so they are drawn from above only"]


def shown(influence: float | None) -> str:
    """'6.9', or why there is no number."""
    return "not defined (one sample, or no spread)" if influence is None else f"{influence:.1f}"


def decision(text: str) -> str:
    """'stop, lane keeping' as parsed from a reasoning; "" where it names none of the closed sets."""
    trace = coc.parse(text)
    parts = [part for part in (trace.longitudinal, trace.lateral) if part is not None]
    return ", ".join(part.replace("_", " ") for part in parts)


def numbers(example: folder.Example, plan: Plan) -> dict[str, float]:
    """Mean distance to the way really driven, of all samples and of the best one, in m; {} where it is not known."""
    if example.future_xyz is None:
        return {}
    ade = np.asarray(displacement.ade(plan.trajectory_xyz, example.future_xyz))
    return {"ade_mean_m": float(ade.mean()), "ade_best_m": float(ade.min())}


def to_json(example: folder.Example, result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything but the pictures, rounded to a tenth of a millimetre and the like; keys as in docs/predict.md."""
    scene, other = example.scene, result.other
    return {
        "scene": example.name,
        "notes": list(example.notes),
        "camera_ids": [int(i) for i in scene.camera_ids],
        "image_shape": list(np.shape(scene.images)),
        "route": scene.route,
        "question": scene.question,
        "answer": result.answer,
        "measures": facts,
        "expected_reasoning": example.trace,
        "samples": samples(result.plan),
        "counterfactual": None
        if other is None
        else {
            "reasoning": other.reasoning[0],
            "influence": None if result.influence is None else round(result.influence, 4),
            "samples": samples(other),
        },
        "ego_history_xyz_m": rounded(scene.ego_history_xyz, 4),
        "future_xyz_m": None if example.future_xyz is None else rounded(example.future_xyz, 4),
    }


def samples(plan: Plan) -> list[dict[str, Any]]:
    """The K samples of a plan, plain."""
    heading = np.arctan2(plan.trajectory_rot[..., 1, 0], plan.trajectory_rot[..., 0, 0])
    rows = zip(plan.reasoning, plan.complete, plan.log_prob, plan.trajectory_xyz, heading, plan.controls,
               strict=True)  # fmt: skip
    return [
        {
            "reasoning": text,
            "decision": decision(text),
            "complete": bool(complete),
            "log_prob": round(float(np.sum(log_prob)), 4),
            "trajectory_xyz_m": rounded(xyz, 4),
            "trajectory_heading_rad": rounded(yaw, 5),
            "controls_mps2_per_m": rounded(controls, 5),
        }
        for text, complete, log_prob, xyz, yaw, controls in rows
    ]


def rounded(array, digits: int) -> list:
    """An array as nested lists of numbers with so many decimals."""
    return np.round(np.asarray(array, np.float64), digits).tolist()


def counted(reasoning) -> list[tuple[int, str]]:
    """(how many, text), the most frequent first."""
    texts = list(reasoning)
    return sorted({(texts.count(text), text) for text in texts}, reverse=True)


def say(log, example: folder.Example, result: Result, facts, path) -> None:
    """A scene's lines on the console."""
    log.say(f"{example.name}")
    for note in example.notes:
        log.say(f"  note: {note}")
    for line in said(example, result):
        log.say(f"  {line}")
    if facts:
        log.say(f"  distance to the way driven: {facts['ade_mean_m']:.2f} m, best of {len(result.plan.reasoning)} "
                f"{facts['ade_best_m']:.2f} m")  # fmt: skip
    log.say(f"  {path}")


def said(example: folder.Example, result: Result) -> list[str]:
    """What console and page say of a scene: reasonings, the expected one, the counterfactual, question and answer."""
    k = len(result.plan.reasoning)
    lines = [f"{count} of {k}: {text or '(no text)'}" for count, text in counted(result.plan.reasoning)]
    lines += [f"expected: {example.trace}"] if example.trace is not None else []
    if result.other is not None:
        lines.append(f"told to believe: {result.other.reasoning[0]}")
        lines.append(f"influence of its reasoning: {shown(result.influence)} (the ways move so many times as far as "
                     "its samples differ)")  # fmt: skip
    if result.answer is not None:
        lines += [f"question: {example.scene.question}", f"answer: {result.answer or '(no text)'}"]
    return lines


def card(example: folder.Example, result: Result, facts, picture: bytes) -> dict[str, Any]:
    """A scene on the page."""
    return {
        "title": example.name,
        "captions": [*said(example, result), *example.notes],
        "facts": {f"ADE {name[4:-2]}": f"{value:.2f} m" for name, value in facts.items()},
        "image_png_bytes": picture,
    }


def file_name(name: str, index: int) -> str:
    """A name of letters, digits, - and _ that is unique in the run."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:80]
    return f"{index:02d}_{plain}"
