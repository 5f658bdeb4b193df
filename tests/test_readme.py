"""README and docs keep their promises: commands load, links lead somewhere, the example runs, numbers are true."""

import dataclasses
import json
import pathlib
import re
import shlex

import pytest

from ar1_jax.checkpoints import layouts
from ar1_jax.core import config as config_lib
from ar1_jax.core import trees
from ar1_jax.policy import config as policy_config
from ar1_jax.policy import loading, sizes
from ar1_jax.text import vocabulary

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
COMMAND = re.compile(r"python -m ar1_jax\.main ([^`\n|#]*)")


def commands():
    """(page, arguments) of every command of ours in the pages."""
    for page in PAGES:
        for match in COMMAND.finditer(page.read_text().replace("\\\n", " ")):
            arguments = shlex.split(match.group(1))
            if arguments and "VERB" not in arguments[0]:
                yield pytest.param(arguments, id=f"{page.name}: {' '.join(arguments)[:60]}")


@pytest.mark.parametrize("arguments", list(commands()))
def test_every_command_has_its_verb_and_keys(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    (spec,) = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    rest = [a for a in arguments if a.startswith("--config.")]
    config_lib.load(spec, dict(a.removeprefix("--config.").split("=", 1) for a in rest))
    assert (ROOT / "ar1_jax" / "verbs" / f"{pathlib.Path(spec.split(':')[0]).stem}.py").is_file()
    assert len(rest) + 1 == len(arguments)


def test_a_wrong_key_would_be_seen(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(Exception, match="unknown key"):
        config_lib.load("configs/predict.py", {"scenes": "x"})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_named_files_are_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    linked = [link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    missing = [link for link in linked if not (page.parent / link).exists()]
    named = re.findall(r"`((?:ar1_jax|configs|tests|docs|notebooks|launch)/[\w./]+\w)`", text)
    assert missing + [name for name in named if not (ROOT / name).exists()] == []


def test_every_verb_is_in_the_table():
    verbs = {p.stem for p in (ROOT / "ar1_jax" / "verbs").glob("[a-z]*.py")}
    assert {v for v in verbs if f"| `{v}` |" in README} == verbs


def test_the_examples_run_and_the_influence_is_the_one_written():
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(block, scope)
    assert scope["plan"].trajectory_xyz.shape == (6, 64, 3) and "keep lane" in scope["plan"].reasoning[0]
    assert set(scope["own"].reasoning) == {"Stop, keep lane: red light within 60 m."}
    (written,) = re.findall(r"own\.influence\(told\)\) +# ([\d.]+) times", README)
    assert abs(scope["own"].influence(scope["told"]) - float(written)) < 0.1


def test_results_are_those_of_the_bundled_policy():
    table = json.loads((ROOT / "ar1_jax" / "assets" / "nano" / "metrics.json").read_text())["tables"]["all"]
    policy = table["policy, true images"]
    for name, unit, digits in (
        ("decision", "%", 1),
        ("text", "%", 1),
        ("ade_flow", "m", 2),
        ("ade_tokens", "m", 2),
    ):
        low, value, high = (f"{policy[name][k]:.{digits}f}" for k in ("low", "value", "high"))
        assert f"{value} {unit} ({low} to {high})" in README, name
    blind = {mode: table[f"policy, {mode} images"]["decision"]["value"] for mode in ("shuffled", "none")}
    assert f"shuffled pictures {blind['shuffled']:.1f} %, none {blind['none']:.1f} %" in README


CACHED = {"nano": 128}  # tokens of a prompt; the others as the releases at four cameras
SIZES = ("nano", "0p5b", "3b", "7b", "10b")


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_shapes(name):
    """Parameters by eval_shape, bytes by hand: of weights, keys and values of a prompt, and four float32 copies."""
    (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", README, flags=re.MULTILINE)
    parameters, weights, cache, state, licence, _ = row.split(" | ")
    size = sizes.size(name)
    ids = vocabulary.TokenIds(**{f.name: -1 for f in dataclasses.fields(vocabulary.TokenIds)})
    ids = dataclasses.replace(ids, size=size.vocab or sizes.nano_vocabulary_size())
    raw, vlm = sizes.policy_config(name), sizes.vlm_config(size)
    model = policy_config.build(raw, vlm, ids, raw["model_type"], ROOT / "config.json").model
    count, width = trees.count(loading.shapes(model)), 4 if name == "nano" else 2
    held = 2 * size.layers * size.j * size.e * CACHED.get(name, 3_086) * width
    if name == "nano":
        assert parameters == f"{count:,}" and weights == f"{count * width / 1e6:.1f} MB (float32)"
        assert (cache, state) == (f"{held / 1e6:.1f} MB", f"{16 * count / 1e6:.0f} MB")
    else:
        assert parameters == f"{count / 1e9:.2f} B" and weights == f"{count * width / 1e9:.1f} GB"
        assert (cache, state) == (f"{held / 1e9:.2f} GB", f"{16 * count / 1e9:.0f} GB")
    families = {"nano": ("alpamayo_nano",), "10b": ("alpamayo_r1", "alpamayo1_5")}.get(name, ())
    assert all(licence.split(" (")[0] in layouts.LICENCES[family] for family in families)


def test_every_size_is_in_the_table():
    assert set(SIZES) == set(sizes.SIZES)
