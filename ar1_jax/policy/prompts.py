"""Scenes -> Prompt: ids with history and image placeholders filled, 3-D positions, patches.

B scenes, C cameras, T frames, I = C·T images, S prompt length, P patches an image. The layout of a prompt (Template)
depends on cameras, frames, image grids and texts only; it is made once on the host and reused for every scene that
shares it, so that another scene compiles nothing.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ar1_jax import actions, images
from ar1_jax.core import errors, scenes
from ar1_jax.core.types import Scene
from ar1_jax.models.alpamayo import Prompt
from ar1_jax.policy.config import PolicyConfig
from ar1_jax.text import prompt as text
from ar1_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """One prompt's layout. ids int32 [S]; positions int32 [3, S]; next_position; image_index int32 [S], -1 elsewhere;
    history: bool [S], where history ids go; grids: (rows, columns) in patches of each image."""

    ids: np.ndarray
    positions: np.ndarray
    next_position: int
    image_index: np.ndarray
    history: np.ndarray
    grids: tuple[tuple[int, int], ...]


def mrope_index(ids: np.ndarray, image_pad: int, grids: Sequence[tuple[int, int]], merge: int = 2):
    """3-D positions int32 [3, S] of one unpadded prompt and the position after it (inference.md section 3.3)."""
    positions, at, image = np.zeros((3, len(ids)), np.int32), 0, 0
    is_image = ids == image_pad
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_image.astype(np.int8), [0]])))
    start = 0
    for first, last in edges.reshape(-1, 2):  # one block an image, on the host, once a layout
        positions[:, start:first] = at + np.arange(first - start)
        at += first - start
        rows, columns = grids[image][0] // merge, grids[image][1] // merge
        block = np.indices((1, rows, columns)).reshape(3, -1)
        positions[:, first:last] = at + block
        at, start, image = at + max(rows, columns), last, image + 1
    positions[:, start:] = at + np.arange(len(ids) - start)
    return positions, int(at + len(ids) - start)


def make_template(config: PolicyConfig, vocabulary: Vocabulary, segments, grids) -> Template:
    """The layout of a prompt given as (text, is the user's) pieces, with one image placeholder a grid."""
    merge = config.model.vision.spatial_merge_size
    pieces = [vocabulary.encode_user(part) if user else vocabulary.encode(part) for part, user in segments]
    ids = np.asarray([token for piece in pieces for token in piece], np.int64)
    counts = np.ones(len(ids), np.int64)
    counts[ids == config.ids.image_pad] = [rows * columns // merge**2 for rows, columns in grids]
    ids = np.repeat(ids, counts).astype(np.int32)
    is_image = ids == config.ids.image_pad
    positions, following = mrope_index(ids, config.ids.image_pad, grids, merge)
    index = np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32)
    return Template(ids, positions, following, index, ids == config.ids.history, tuple(grids))


class Templates:
    """Makes and keeps the layouts of one policy's prompts."""

    def __init__(self, config: PolicyConfig, vocabulary: Vocabulary):
        self.config, self.vocabulary = config, vocabulary
        self.plan = functools.lru_cache(maxsize=256)(self._plan)
        self.answer = functools.lru_cache(maxsize=256)(self._answer)

    def _plan(self, camera_ids, frames, grids, route):
        pieces = text.plan_segments(
            self.config.family, camera_ids, frames, self.config.tokens_per_history, route
        )
        return make_template(self.config, self.vocabulary, pieces, grids)

    def _answer(self, camera_ids, frames, grids, question):
        pieces = text.answer_segments(self.config.family, camera_ids, frames, question)
        return make_template(self.config, self.vocabulary, pieces, grids)


def history_tokens(config: PolicyConfig, history_xyz, history_rot):
    """Ego history [B, 16, 3], [B, 16, 3, 3] -> vocabulary ids int32 [B, tokens_per_history]."""
    return config.history_start + actions.history_ids(history_xyz, history_rot, config.history)


def encode_batch(config: PolicyConfig, template: Template, pictures, history_xyz, history_rot) -> Prompt:
    """B scenes of one layout: pictures uint8 [B, C, T, H, W, 3] at the policy's size -> Prompt. Traceable by jit
    (template and config are constants)."""
    batch = pictures.shape[0]
    merge = config.model.vision.spatial_merge_size
    per_scene = sum(rows * columns for rows, columns in template.grids) // merge**2
    pixels = images.patchify(pictures.reshape(-1, *pictures.shape[3:]))
    ids = jnp.broadcast_to(jnp.asarray(template.ids), (batch, len(template.ids)))
    if template.history.any():
        filled = history_tokens(config, history_xyz, history_rot)
        ids = ids.at[:, np.flatnonzero(template.history)].set(filled.astype(ids.dtype))
    offset = jnp.arange(batch, dtype=jnp.int32)[:, None] * per_scene
    index = jnp.where(template.image_index >= 0, template.image_index + offset, -1)
    return Prompt(
        input_ids=ids, length=jnp.full((batch,), len(template.ids), jnp.int32),
        position_ids=jnp.broadcast_to(jnp.asarray(template.positions)[:, None], (3, batch, len(template.ids))),
        next_position=jnp.full((batch,), template.next_position, jnp.int32),
        image_index=index, pixels=(pixels,), grids=(template.grids[0],),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """One scene's template and pixels [I, P, values], before batching."""

    template: Template
    pixels: np.ndarray
    history: np.ndarray


def encode_scene(
    config: PolicyConfig, templates: Templates, scene: Scene, *, question: bool = False, where: str = "scene"
) -> Encoded:
    """Resize, patchify and lay out one scene; question=True for its question instead of a plan.

    SceneError with all that is wrong with the scene (core/scenes.py; under 1 ms), `where` its first word."""
    scenes.check(scene, where)
    pictures = np.asarray(scene.images)
    cameras, frames = pictures.shape[:2]
    pixels, grid = images.preprocess(
        pictures.reshape(-1, *pictures.shape[2:]), config.min_pixels, config.max_pixels
    )
    grids = tuple((int(rows), int(columns)) for _, rows, columns in np.asarray(grid))
    names = tuple(int(i) for i in scene.camera_ids)
    make = templates.answer if question else templates.plan
    template = make(names, frames, grids, scene.question if question else scene.route)
    history = np.zeros((0,), np.int32)
    if template.history.any():
        history = np.asarray(
            history_tokens(config, scene.ego_history_xyz[None], scene.ego_history_rot[None])
        )[0]
    return Encoded(template, np.asarray(pixels).reshape(cameras * frames, -1, pixels.shape[-1]), history)


def drop_route(config: PolicyConfig, template: Template) -> Template:
    """The layout without everything from <|route_start|> to <|route_end|>; SceneError where there is no route."""
    ids = template.ids
    start, end = np.flatnonzero(ids == config.ids.route_start), np.flatnonzero(ids == config.ids.route_end)
    if not len(start) or not len(end):
        raise errors.SceneError("guidance: the scene has no route to leave out; pass Scene(route=...)")
    keep = np.ones(len(ids), bool)
    keep[start[0] : end[-1] + 1] = False
    positions, following = mrope_index(ids[keep], config.ids.image_pad, template.grids,
                                       config.model.vision.spatial_merge_size)  # fmt: skip
    return Template(
        ids[keep], positions, following, template.image_index[keep], template.history[keep], template.grids
    )


def batch(config: PolicyConfig, encoded: Sequence[Encoded], length: int | None = None) -> Prompt:
    """Scenes of any layouts -> one right-padded Prompt of `length` (the longest by default)."""
    merge = config.model.vision.spatial_merge_size
    longest = max(len(e.template.ids) for e in encoded)
    size = longest if length is None else max(length, longest)
    pad = lambda x, value: np.pad(
        x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])], constant_values=value
    )
    ids = [e.template.ids.copy() for e in encoded]
    for row, e in zip(ids, encoded, strict=True):
        row[e.template.history] = e.history
    grids = sorted({grid for e in encoded for grid in e.template.grids})
    counts = {grid: sum(e.template.grids.count(grid) for e in encoded) for grid in grids}
    first = dict(
        zip(grids, np.cumsum([0] + [counts[g] * g[0] * g[1] // merge**2 for g in grids])[:-1], strict=True)
    )
    index, used = [], dict(first)
    for e in encoded:
        starts = []
        for grid in e.template.grids:
            starts.append(np.arange(grid[0] * grid[1] // merge**2) + used[grid])
            used[grid] += grid[0] * grid[1] // merge**2
        rows = np.concatenate(starts).astype(np.int32)
        index.append(np.where(e.template.image_index >= 0, rows[np.maximum(e.template.image_index, 0)], -1))
    pixels = tuple(
        jnp.asarray(np.concatenate([e.pixels for e in encoded if e.template.grids[0] == grid]))
        for grid in grids
    )
    return Prompt(
        input_ids=jnp.asarray(np.stack([pad(row, config.ids.pad) for row in ids])),
        length=jnp.asarray([len(row) for row in ids], jnp.int32),
        position_ids=jnp.asarray(np.stack([pad(e.template.positions, 0) for e in encoded], axis=1)),
        next_position=jnp.asarray([e.template.next_position for e in encoded], jnp.int32),
        image_index=jnp.asarray(np.stack([pad(i, -1) for i in index])), pixels=pixels, grids=tuple(grids),
    )  # fmt: skip
