"""A random-weight 0p5b folder both ways: bit-equal, and its cost beside plain safetensors on the same bytes.

The reference: the files themselves, and safetensors.numpy's load_file and save_file in a process of its own. Prints
time, and the peak of what is allocated (anonymous pages) apart from that of mapped files, which the system may drop at
any time; only the first is bounded."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ar1_jax.checkpoints import huggingface, tensor_files
from ar1_jax.policy import config, loading, sizes
from ar1_jax.text import vocabulary

MEASURE = """
import json, sys, threading, time
peaks, done = [0, 0], threading.Event()
def watch():
    while not done.wait(0.005):
        lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
        for i, key in enumerate(("RssAnon", "RssFile")):
            peaks[i] = max(peaks[i], int(lines[key].split()[0]) * 1024)
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
{body}
done.set()
print(json.dumps([time.perf_counter() - start, *peaks]))
"""
PLAIN = """
import pathlib
import ml_dtypes, safetensors.numpy, sys
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    pathlib.Path(sys.argv[2]).mkdir(exist_ok=True)
    safetensors.numpy.save_file(safetensors.numpy.load_file(file), pathlib.Path(sys.argv[2]) / file.name)
"""
CONVERT = """
from ar1_jax import main
source, target, form = sys.argv[1:]
assert main.main(["--config=convert:" + form, "--config.source=" + source, "--config.target=" + target]) == 0
"""
IDLE = """
import orbax.checkpoint
from ar1_jax.policy import sources
assert sources.open_folder(sys.argv[1])[0]
"""
FIRST = 151_669  # of the trajectory ids in the releases: the base tokenizer has that many


def tokenizer():
    """A tokenizer of the released size; its words mean nothing."""
    controls = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
    ]
    words = [*controls, *(f"w{i}" for i in range(FIRST - len(controls)))]
    entry = lambda i, w: {"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}  # fmt: skip
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
        "added_tokens": [entry(i, w) for i, w in enumerate(controls)],
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "w0"},
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A 0p5b folder in the layout of Alpamayo 1.5, random bfloat16 bits, files of at most 1 GB."""
    path = tmp_path_factory.mktemp("sizes") / "0p5b"
    (path / "vlm").mkdir(parents=True)
    raw, vlm = sizes.policy_config("0p5b"), sizes.vlm_config(sizes.size("0p5b"))
    (path / "config.json").write_text(json.dumps(raw))
    (path / "vlm/config.json").write_text(json.dumps(vlm))
    (path / "vlm/tokenizer.json").write_text(tokenizer())
    ids = vocabulary.Vocabulary(tokenizer(), "alpamayo1_5", raw["traj_vocab_size"]).ids
    wanted = loading.wanted(config.build(raw, vlm, ids, "alpamayo1_5", path / "config.json").model)
    layout = tensor_files.plan(
        [(name, "BF16", shape) for name, (_, _, shape) in wanted.items()], 1_000_000_000
    )
    rng, kind = np.random.default_rng(0), tensor_files.DTYPES["BF16"]
    values = lambda name: [np.frombuffer(rng.bytes(2 * int(np.prod(wanted[name][2]))), kind)]
    index = tensor_files.index(layout, huggingface.count(wanted))
    huggingface.write_weights(path, layout, index, values)
    return path


def measured(body, *words):
    """Seconds and peak bytes, allocated and of mapped files, of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(body=body), *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="memory is read from /proc: Linux only"
)
def test_0p5b_both_ways_is_bit_equal_and_holds_one_leaf_at_a_time(folder, tmp_path, capsys):
    """A conversion allocates at most three times the largest leaf beyond what opening the source takes: the leaf, what
    tensorstore makes of it, and room for allocators. That is half of the weights; all of them at once would fail."""
    bytes_of = {f.name: f.stat().st_size for f in folder.glob("*.safetensors")}
    total, largest = sum(bytes_of.values()), 2 * 155_697 * 1024
    rows = {
        "plain safetensors, read and write": measured(PLAIN, folder, tmp_path / "plain"),
        "opening the folder": measured(IDLE, folder),
        "convert to orbax": measured(CONVERT, folder, tmp_path / "ours", "orbax"),
        "convert to Hugging Face": measured(CONVERT, tmp_path / "ours", tmp_path / "again", "huggingface"),
    }
    (plain, _, _), (_, idle, _) = list(rows.values())[:2]
    with capsys.disabled():
        print(f"\n{total:,} bytes of weights, {largest:,} of the largest leaf")
        for name, (seconds, anonymous, mapped) in rows.items():
            print(f"{name:36} {seconds:6.1f} s ({seconds / plain:.2f}) allocated {anonymous / 1e9:5.2f} GB "
                  f"({anonymous / total:.2f} of the weights), mapped files {mapped / 1e9:5.2f} GB")  # fmt: skip
    for name in ("convert to orbax", "convert to Hugging Face"):
        assert rows[name][1] - idle <= 3 * largest, name
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        again = tmp_path / "again" / path.relative_to(folder)
        assert subprocess.run(["cmp", path, again]).returncode == 0, path.name
