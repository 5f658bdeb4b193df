"""What a benchmark times: a model of a size or of a folder, one prompt with images, fixed numbers of ids and steps.

S prompt ids, K samples. Weights of a size are random but scaled as trained ones are, made leaf by leaf from a seed,
so that another process, or another library through an exported folder, has the same.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from ar1_jax.checkpoints import huggingface, tensor_files
from ar1_jax.core import trees
from ar1_jax.models import alpamayo, costs
from ar1_jax.models.config import ExpertConfig, ModelConfig
from ar1_jax.models.grammar import Grammar
from ar1_jax.policy import config as configs
from ar1_jax.policy import loading, prompts, sizes

STAGES = ("vision", "prefill", "decode", "flow")


@dataclasses.dataclass(frozen=True)
class Workload:
    """One plan. size: a name of `policy.sizes`, or policy: a checkpoint folder. images of rows x columns patches, text:
    other prompt ids, samples K, tokens a sample (neither more nor fewer), flow steps. room: ids that a sample's cache
    has place for, as in `policy.plan` (256), whose programs read all of it. kernels: as in ModelConfig. threads 0: all
    processors."""

    size: str
    policy: str = ""
    images: int = 16
    rows: int = 20
    columns: int = 36
    text: int = 160
    samples: int = 1
    tokens: int = 40
    room: int = 256
    steps: int = 10
    dtype: str = "float32"
    kernels: str = "auto"
    threads: int = 0
    repeats: int = 3
    seed: int = 0

    @property
    def image_tokens(self) -> int:
        """Ids that an image takes, without its two marks."""
        return self.rows * self.columns // 4

    @property
    def prompt(self) -> int:
        """S, ids of the prompt."""
        return self.images * (self.image_tokens + 2) + self.text

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return np.dtype(jnp.dtype(self.dtype)).itemsize

    def costs(self, model: ModelConfig) -> dict[str, costs.Cost]:
        """Stage -> FLOPs and bytes, from shapes alone (`models.costs`); of the room only the ids said so far."""
        k, s, n, w = self.samples, self.prompt, self.tokens, self.width
        said = costs.costs.total(costs.decode(model, 1, k, s, i, width=w) for i in range(n))
        moved = self.steps * costs.flow(model, 1, k, s, n, width=w) if model.expert else costs.Cost()
        return {
            "vision": costs.vision(model, self.images, self.rows * self.columns, width=w),
            "prefill": costs.prefill(model, 1, s, width=w), "decode": said, "flow": moved,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Marks:
    """Ids of a vocabulary that stand for images: placeholder, start and end."""

    image: int
    start: int
    end: int


def model_of(load: Workload) -> tuple[ModelConfig, Marks]:
    """The networks and image marks of a size or of a folder."""
    if load.policy:
        folder = loading.ASSETS / load.policy if load.policy == "nano" else pathlib.Path(load.policy)
        found = loading.with_kernels(configs.read(folder)[0], load.kernels)
        return found.model, Marks(found.ids.image_pad, found.ids.vision_start, found.ids.vision_end)
    shape, raw = sizes.size(load.size), sizes.policy_config(load.size)
    vocabulary = shape.vocab or sizes.nano_vocabulary_size()
    marks = Marks(vocabulary - 1, vocabulary - 2, vocabulary - 3)
    plain = configs.read_vlm(vlm_config(load, vocabulary, marks), load.size)
    waypoints = raw["action_space_cfg"]["n_waypoints"]
    expert = ExpertConfig(shape.x_width, shape.x_f, shape.x_heads, shape.x_in, in_layers=2)
    model = dataclasses.replace(plain, expert=expert, actions=waypoints, kernels=load.kernels)
    return model, marks


def vlm_config(load: Workload, vocabulary: int, marks: Marks) -> dict:
    """config.json of the vision-language part, for a folder that transformers reads."""
    if load.policy:
        out = json.loads(json.dumps(loading.load(load.policy).vlm))
    else:
        out = sizes.vlm_config(sizes.size(load.size))
    out["text_config"]["vocab_size"] = vocabulary
    named = {
        "image_token_id": marks.image,
        "vision_start_token_id": marks.start,
        "vision_end_token_id": marks.end,
    }
    return out | named | {"architectures": ["Qwen3VLForConditionalGeneration"], "tie_word_embeddings": False}


def params_of(load: Workload, model: ModelConfig):
    """The folder's weights, or random ones, in the workload's dtype."""
    dtype = np.dtype(jnp.dtype(load.dtype))
    if load.policy:
        return loading.load(load.policy, dtype=dtype).params
    rng = np.random.default_rng(load.seed)
    flat = trees.flatten(loading.shapes(model))
    return trees.nest(
        {path: jnp.asarray(_draw(rng, path, leaf.shape).astype(dtype)) for path, leaf in flat.items()}
    )


def shapes_of(load: Workload, model: ModelConfig):
    """`params_of` without numbers."""
    of = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(load.dtype))
    return jax.tree.map(of, loading.shapes(model))


def _draw(rng, path: str, shape) -> np.ndarray:
    name = path.rsplit("/", 1)[-1]
    if name in ("weight", "bias"):
        return np.full(shape, name == "weight", np.float32)
    scale = 0.02 if name in ("embedding", "pos_embed") else shape[-2] ** -0.5
    x = rng.standard_normal(shape, np.float32)
    x *= scale
    return x


def prompt_of(load: Workload, model: ModelConfig, marks: Marks) -> alpamayo.Prompt:
    """One prompt of S random ids: half of the text, the images one after the other, the other half."""
    rng = np.random.default_rng(load.seed + 1)
    words = np.setdiff1d(np.arange(model.text.vocab_size), dataclasses.astuple(marks))
    text = rng.choice(words, load.text)
    image = [marks.start, *[marks.image] * load.image_tokens, marks.end]
    half = load.text // 2
    ids = np.concatenate([text[:half], np.tile(image, load.images), text[half:]]).astype(np.int32)
    grids = ((load.rows, load.columns),) * load.images
    positions, following = prompts.mrope_index(ids, marks.image, grids)
    here = ids == marks.image
    v = model.vision
    values = v.in_channels * v.temporal_patch_size * v.patch_size**2
    pixels = rng.uniform(-1, 1, (load.images, load.rows * load.columns, values)).astype(np.float32)
    return alpamayo.Prompt(
        input_ids=jnp.asarray(ids[None]), length=jnp.array([len(ids)], jnp.int32),
        position_ids=jnp.asarray(positions[:, None]), next_position=jnp.array([following], jnp.int32),
        image_index=jnp.asarray(np.where(here, np.cumsum(here) - 1, -1)[None].astype(np.int32)),
        pixels=(jnp.asarray(pixels),), grids=(grids[0],),
    )  # fmt: skip


def endless(model: ModelConfig) -> Grammar:
    """A grammar in which every id is allowed and none ends the completion: the limit alone does."""
    return Grammar((0, model.text.vocab_size), -1, -1, -1, -1, 0, strict=False)


def export(load: Workload, folder: pathlib.Path) -> None:
    """The vision-language part as a folder that transformers' Qwen3VLForConditionalGeneration reads."""
    model, marks = model_of(load)
    plain = dataclasses.replace(model, expert=None)
    params = {"vlm": params_of(load, model)["vlm"]}
    wanted = loading.wanted(plain, bare=True)
    code = {"float32": "F32", "bfloat16": "BF16"}[load.dtype]
    headers = tensor_files.plan([(name, code, shape) for name, (_, _, shape) in wanted.items()], 2**32)
    index = tensor_files.index(headers, trees.count(params)) if len(headers) > 1 else ""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(jnp.dtype(load.dtype))
    huggingface.write_weights(folder, headers, index, huggingface.blocks(params, wanted, {}, dtype))
    text = json.dumps(vlm_config(load, model.text.vocab_size, marks), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
