"""README and docs keep their promises: commands load, links lead somewhere, the example runs, numbers are true."""

import json
import pathlib
import re
import shlex

import pytest

from ar1_jax.core import config as config_lib

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


def test_the_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    scope = {}
    exec(block, scope)
    assert scope["plan"].trajectory_xyz.shape == (6, 64, 3) and "keep lane" in scope["plan"].reasoning[0]


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
