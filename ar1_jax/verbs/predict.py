"""Plans for scenes: prints what the policy says, draws where it would go, and keeps the numbers.

Writes runs/<name>/: figures/<scene>.png, plans/<scene>.json (units in its keys) and report.html with all of them.
Scenes are those of the package and of the driving world, or one folder of yours (config.scene).
"""

import json
from typing import Any, NamedTuple

import jax
import numpy as np

from ar1_jax import images
from ar1_jax.core import errors, runlog, scenes
from ar1_jax.core.types import Plan, Scene
from ar1_jax.data import examples, folder
from ar1_jax.figures import plan as plan_figure
from ar1_jax.figures import report
from ar1_jax.metrics import displacement
from ar1_jax.policy import loading
from ar1_jax.text import coc


class Reads(NamedTuple):
    """What a family of policies was trained with: cameras by id, frames a camera, are absent cameras made black?"""

    cameras: tuple[int, ...]
    frames: int
    fill: bool


READS = {
    "alpamayo_nano": Reads((0, 1, 2, 6), 1, False),
    "alpamayo1_5": Reads(tuple(scenes.CAMERA_NAMES), 4, False),
    "alpamayo_r1": Reads((0, 1, 2, 6), 4, True),  # images bear no label: their number and order are fixed
}


def run(config) -> int:
    """Plans, prints, draws; returns the exit code."""
    check(config)
    policy = loading.load(config.policy)
    found = wanted(config, config.frames or READS[policy.config.family].frames)
    out = runlog.open_run(config.root, config.name, config)
    (out / "plans").mkdir(exist_ok=True)
    with runlog.RunLog(out, len(found)) as log:
        cards = [one(policy, example, index, config, log) for index, example in enumerate(found)]
        page = out / "report.html"
        subtitle = (
            f"Policy {config.policy}, {config.samples} samples a scene, temperature {config.temperature:g}"
        )
        report.render(page, "Plans", [{"kind": "rollouts", "items": cards}], subtitle)
        log.say(f"done: {page}, numbers in {out / 'plans'}")
    return errors.DONE


def one(policy, example: folder.Example, index: int, config, log) -> dict[str, Any]:
    """Plans for one scene, prints and writes; returns its card for the page."""
    example = prepare(policy, example, config.frames, config.route)
    plan = make_plan(policy, example.scene, jax.random.fold_in(jax.random.key(config.seed), index), config)
    name = file_name(example.name, index)
    picture = draw(policy, example, plan, log.figure(f"{name}.png"))
    facts = numbers(example, plan)
    record = json.dumps(to_json(example, plan, facts), indent=1, allow_nan=False)
    runlog.write_text(log.folder / "plans" / f"{name}.json", record + "\n")
    say(log, example, plan, facts, log.figure(f"{name}.png"))
    return card(example, plan, facts, picture)


def check(config) -> None:
    """Names what is wrong with settings or scenes before weights are read, which may take minutes."""
    errors.one_of(config.decoder, ("flow", "tokens"), "config.decoder")
    if config.samples < 1:
        raise errors.ConfigError(f"config.samples={config.samples}: at least one plan is needed")
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


def prepare(policy, example: folder.Example, frames: int = 0, route: str | None = None) -> folder.Example:
    """The example with the cameras and frames that the policy was trained with, its remarks grown by what changed."""
    reads = READS[policy.config.family]
    scene, notes = examples.fit(example.scene, reads.cameras, frames or reads.frames, reads.fill)
    scene = scene if route is None else scene.replace(route=route)
    return example._replace(scene=scene, notes=(*example.notes, *notes))


def make_plan(policy, scene: Scene, key, config) -> Plan:
    """policy.plan with the config's settings; settings that contradict each other become a ConfigError."""
    try:
        return policy.plan(
            scene, samples=config.samples, key=key, temperature=config.temperature, top_p=config.top_p,
            max_new_tokens=config.max_new_tokens, decoder=config.decoder, flow_steps=config.flow_steps,
            reasoning=config.reasoning,
        )  # fmt: skip
    except ValueError as e:
        raise errors.ConfigError(str(e)) from e


def draw(policy, example: folder.Example, plan: Plan, path=None) -> bytes:
    """The picture of a plan as PNG bytes; the strip shows the pixels that the policy reads, resized as it does."""
    scene, config = example.scene, policy.config
    size = images.target_size(*np.shape(scene.images)[2:4], config.min_pixels, config.max_pixels)
    return plan_figure.render(
        images.resize(np.asarray(scene.images), *size),
        [scenes.CAMERA_NAMES[int(i)] for i in scene.camera_ids],
        scene.ego_history_xyz,
        plan.trajectory_xyz,
        plan.reasoning,
        path=path,
        title=example.name.replace("_", " "),
        decisions=[decision(text) for text in plan.reasoning],
        notes=["" if complete else "(cut off: did not end by itself)" for complete in plan.complete],
        rotations=plan.trajectory_rot,
        truth=example.future_xyz,
        agents=example.agents,
        lanes=example.lanes,
    )


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


def to_json(example: folder.Example, plan: Plan, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything but the pictures, rounded to a tenth of a millimetre and the like."""
    rounded = lambda array, digits: np.round(np.asarray(array, np.float64), digits).tolist()
    scene = example.scene
    return {
        "scene": example.name,
        "notes": list(example.notes),
        "camera_ids": [int(i) for i in scene.camera_ids],
        "image_shape": list(np.shape(scene.images)),
        "route": scene.route,
        "measures": facts,
        "expected_reasoning": example.trace,
        "samples": [
            {
                "reasoning": text,
                "decision": decision(text),
                "complete": bool(complete),
                "log_prob": round(float(np.sum(log_prob)), 4),
                "trajectory_xyz_m": rounded(xyz, 4),
                "controls_mps2_per_m": rounded(controls, 5),
            }
            for text, complete, log_prob, xyz, controls in zip(
                plan.reasoning, plan.complete, plan.log_prob, plan.trajectory_xyz, plan.controls, strict=True
            )
        ],
        "ego_history_xyz_m": rounded(scene.ego_history_xyz, 4),
        "future_xyz_m": None if example.future_xyz is None else rounded(example.future_xyz, 4),
    }


def counted(reasoning) -> list[tuple[int, str]]:
    """(how many, text), the most frequent first."""
    texts = list(reasoning)
    return sorted({(texts.count(text), text) for text in texts}, reverse=True)


def say(log, example: folder.Example, plan: Plan, facts, path) -> None:
    """A scene's lines on the console."""
    log.say(f"{example.name}")
    for note in example.notes:
        log.say(f"  note: {note}")
    for count, text in counted(plan.reasoning):
        log.say(f"  {count} of {len(plan.reasoning)}: {text or '(no text)'}")
    if example.trace is not None:
        log.say(f"  expected: {example.trace}")
    if facts:
        log.say(f"  distance to the way driven: {facts['ade_mean_m']:.2f} m, best of {len(plan.reasoning)} "
                f"{facts['ade_best_m']:.2f} m")  # fmt: skip
    log.say(f"  {path}")


def card(example: folder.Example, plan: Plan, facts, picture: bytes) -> dict[str, Any]:
    """A scene on the page."""
    captions = [f"{count} of {len(plan.reasoning)}: {text}" for count, text in counted(plan.reasoning)]
    captions += [f"expected: {example.trace}"] if example.trace is not None else []
    shown = {f"ADE {name[4:-2]}": f"{value:.2f} m" for name, value in facts.items()}
    return {
        "title": example.name,
        "captions": [*captions, *example.notes],
        "facts": shown,
        "image_png_bytes": picture,
    }


def file_name(name: str, index: int) -> str:
    """A name of letters, digits, - and _ that is unique in the run."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:80]
    return f"{index:02d}_{plain}"
