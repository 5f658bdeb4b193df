"""The exported vision-language part in the reference's own classes: the same logits, from the same folder.

The reference: Qwen3VLForConditionalGeneration of transformers. Skips where torch or transformers is absent; the slow
stage installs both."""

import numpy as np
import pytest

from ar1_jax.core import config
from ar1_jax.models import alpamayo
from ar1_jax.policy import prompts
from ar1_jax.verbs import convert
from tests.goldens import compare
from tests.policy import folders

torch = pytest.importorskip("torch", reason="torch is absent: pip install -e '.[torch]'")
transformers = pytest.importorskip("transformers", reason="transformers is absent: pip install -e '.[torch]'")
BOUND = 1e-3


def scene(name):
    """The golden's first scene and its ego history."""
    call = next(c for c, spec in folders.spec(name)["calls"].items() if spec["kind"] == "trace")
    data = compare.arrays(name)
    history = [data[f"{call}/in/{key}"][0] for key in ("ego_history_xyz", "ego_history_rot")]
    return folders.scene(name, folders.spec(name)["calls"][call]["scenes"][0], history)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r1_small", "v15_small"])
def test_qwen3_vl_loads_the_export_and_says_the_same(tmp_path, name):
    target = tmp_path / "alone"
    settings = {
        "source": str(folders.folder(name)),
        "target": str(target),
        "layout": "vlm",
        "dtype": "float32",
    }
    assert convert.run(config.load("configs/convert.py:huggingface", settings)) == 0
    model, info = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        target,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
        local_files_only=True,
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))

    policy = folders.policy(name)
    encoded = prompts.encode_scene(policy.config, policy.templates, scene(name))
    prompt = prompts.batch(policy.config, [encoded])
    hidden, _, _ = alpamayo.read(policy.config.model, policy.params, prompt)
    length = int(prompt.length[0])
    ours = np.asarray(alpamayo.logits(policy.params, hidden[0, :length]))

    pixels = encoded.pixels.reshape(-1, encoded.pixels.shape[-1])
    with torch.no_grad():
        theirs = model.eval()(
            input_ids=torch.tensor(np.asarray(prompt.input_ids)[:, :length].astype(np.int64)),
            pixel_values=torch.tensor(np.asarray(pixels)),
            image_grid_thw=torch.tensor([(1, *grid) for grid in encoded.template.grids]),
        ).logits[0].numpy()  # fmt: skip
    assert np.abs(theirs).max() > 1.0
    np.testing.assert_allclose(ours, theirs, atol=BOUND, rtol=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(target, local_files_only=True)
    assert tokenizer.convert_tokens_to_ids("<|traj_future_start|>") == policy.config.ids.future_start
