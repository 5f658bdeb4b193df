"""Configuration files and overrides. The reference: values written by hand next to what a user types."""

import ml_collections
import pytest
from ml_collections import config_dict

from ar1_jax.core import config, errors

FILE = """
import ml_collections
from ml_collections import config_dict
def get_config(argument=None):
    c = ml_collections.ConfigDict()
    c.steps = 200
    c.rate = 1e-3
    c.name = argument or "full"
    c.resume = True
    c.cameras = (0, 1, 2, 6)
    c.tags = []
    c.out = None
    c.seed = config_dict.placeholder(int)
    c.optimizer = ml_collections.ConfigDict({"warmup": 10, "betas": (0.9, 0.95)})
    return c
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "job.py"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "7", 7),
        ("steps", "1e3", 1000),
        ("steps", "1_000", 1000),
        ("rate", "3", 3.0),
        ("rate", "1e-4", 1e-4),
        ("rate", "inf", float("inf")),
        ("name", "3", "3"),
        ("name", "", ""),
        ("resume", "false", False),
        ("resume", "1", True),
        ("cameras", "(1, 6)", (1, 6)),
        ("cameras", "1,6", (1, 6)),
        ("cameras", "1", (1,)),
        ("tags", "a,b", ["a", "b"]),
        ("out", "runs/x", "runs/x"),
        ("out", "none", None),
        ("seed", "3", 3),
        ("seed", "none", None),
        ("optimizer.warmup", "0", 0),
        ("optimizer.betas", "0.8,1", (0.8, 1.0)),
    ],
)
def test_text_is_read_by_the_type_of_the_default(file, key, text, value):
    found = config.flatten(config.load(file, {key: text}))[key]
    assert found == value and type(found) is type(value)


def test_python_values_are_taken_and_the_rest_is_as_in_the_file(file):
    found = config.flatten(
        config.load(file + ":quick", {"steps": 3, "rate": 2, "optimizer.betas": [0.1, 0.2]})
    )
    assert found["steps"] == 3 and found["name"] == "quick" and found["cameras"] == (0, 1, 2, 6)
    assert found["rate"] == 2.0 and type(found["rate"]) is float and found["optimizer.betas"] == (0.1, 0.2)


def test_all_problems_are_named_at_once_with_the_nearest_key(file):
    overrides = {
        "stepz": "3",
        "warmup": "3",
        "steps": "many",
        "steps.more": "1",
        "rate": "fast",
        "resume": "perhaps",
        "cameras": "1,left",
        "optimizer": "adam",
        "seed": "1.5",
    }
    with pytest.raises(errors.ConfigError) as caught:
        config.load(file, overrides)
    lines = str(caught.value).splitlines()
    assert len(lines) == 10 and "9 problems" in lines[0]
    expected = [
        '--config.stepz: unknown key (did you mean "steps"?)',
        '--config.warmup: unknown key (did you mean "optimizer.warmup"?)',
        "--config.steps=many: expected int (default 200), got str 'many'",
        '--config.steps.more: unknown key (did you mean "steps"?)',
        "--config.rate=fast: expected float (default 0.001)",
        "--config.resume=perhaps: expected true or false (default True)",
        "--config.cameras=1,left: expected int (default 0), got str 'left'",
        "--config.optimizer=adam: is a section; its keys are betas, warmup",
        "--config.seed=1.5: expected int, got float 1.5",
    ]
    for line, text in zip(lines[1:], expected):
        assert line.strip().startswith(text), line


def test_a_whole_float_is_no_int_and_a_bool_is_no_number(file):
    for key, value in (("steps", 3.0), ("steps", True), ("rate", True), ("steps", "3.5"), ("resume", 1)):
        with pytest.raises(errors.ConfigError, match="expected"):
            config.load(file, {key: value})


def test_the_result_is_locked(file):
    found = config.load(file)
    with pytest.raises((AttributeError, KeyError)):
        found.stepz = 3


def test_files_that_are_none_say_so(tmp_path, file):
    cases = {
        "absent.py": (None, "no such file"),
        "broken.py": ("def get_config(:\n", "line 1"),
        "empty.py": ("x = 1\n", "has no function get_config"),
        "plain.py": ("def get_config(argument=None):\n    return {}\n", "expected ConfigDict"),
    }
    for name, (text, message) in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(errors.ConfigError, match=message):
            config.load(str(tmp_path / name))
    (tmp_path / "fixed.py").write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )
    with pytest.raises(errors.ConfigError, match="takes no argument, got 'quick'"):
        config.load(str(tmp_path / "fixed.py") + ":quick")
    with pytest.raises(errors.ConfigError, match="unknown 'no_such_verb'"):
        config.load("no_such_verb")


def test_every_packaged_file_loads_and_stays_small():
    for name in config.packaged():
        found = config.load(name)
        assert isinstance(found, ml_collections.ConfigDict)
        assert name == "models" or len(config.flatten(found)) <= 45, f"configs/{name}.py"


def test_placeholder_keeps_its_type():
    c = ml_collections.ConfigDict({"seed": config_dict.placeholder(int)})
    config.apply_overrides(c, {"seed": "4"}, where="here")
    assert c.seed == 4
