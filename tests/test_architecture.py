"""The house rules, read from the source: floors, sizes, docstrings, imports, and what may not be named.

The reference is the table of floors below; every check also runs on a made-up violation, so that it is known to see."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ar1_jax"
FLOORS = {
    0: ("core", "geometry"),
    1: ("text", "images", "actions", "models", "figures"),
    2: ("metrics", "checkpoints"),
    3: ("policy", "world"),
    4: ("data",),
    5: ("train", "evaluate"),
    6: ("rl", "export"),
    7: ("verbs", "configs"),
    8: ("main",),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
HEAVY = (
    "torch",
    "transformers",
    "tensorflow",
    "tensorflow_datasets",
    "matplotlib",
    "grain",
    "array_record",
    "av",
)
# What the model, policy, rl and kernels may not pull in: they run where only the light dependencies exist.
LIGHT_ROOMS = (
    "core",
    "geometry",
    "text",
    "images",
    "actions",
    "models",
    "metrics",
    "checkpoints",
    "policy",
    "rl",
)
LONGEST_FILE, LONGEST_FUNCTION = 500, 60
ALLOWED_FILES = {
    "tests/goldens/weights.py": "makes the weights behind the goldens; kept as the goldens were made"
}
ALLOWED_FUNCTIONS = {  # path:function -> reason
    "ar1_jax/policy/tracing.py:trace": "one row for each named intermediate, in the order of the model",
    **{
        f"tests/goldens/weights.py:{f}": "as above"
        for f in ("tensor_shapes", "write_tokenizer", "write_folder")
    },
}
FORBIDDEN = [
    r"\bpy" + r"pi\.org",
    r"files\.python" + r"hosted",
    r"registry\.npm" + r"js",
    r"deb\.deb" + r"ian\.org",
    r"index-" + r"url",
    r"find-" + r"links",
    r"(?<![\w.])/wo" + r"rk/",
    r"\.\./sha" + r"red",
    r"\bthis iss" + r"ue\b",
    r"Co-auth" + r"ored",
]
TEXT_SUFFIXES = (".py", ".md", ".toml", ".txt", ".sh", ".cfg", ".yml", ".yaml", ".ipynb", ".html", "")


def sources(*folders):
    """Python files below `folders` of the repository."""
    return sorted(
        f for folder in folders for f in (ROOT / folder).rglob("*.py") if "__pycache__" not in f.parts
    )


def relative(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    """'ar1_jax/models/x.py' -> 'models'; files beside the rooms stand for themselves."""
    if path.is_relative_to(ROOT / "configs"):
        return "configs"
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(tree):
    """(line, dotted name) of everything a file imports, at the top or inside functions; `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def wrong_imports(room, tree):
    """Lines that import from the same floor's other rooms, from above, or relatively."""
    for line, name in imported(tree):
        parts = name.split(".")
        if name.startswith("."):
            yield f"{line}: relative import {name}"
        if parts[0] != "ar1_jax" or len(parts) < 2 or parts[1] == room:
            continue
        other = parts[1]
        if other in FLOOR and FLOOR[other] >= FLOOR[room] and not (room == "main" and other == "main"):
            yield f"{line}: {room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


def test_every_room_has_a_floor_and_is_a_package():
    for path in sources("ar1_jax"):
        if path.parent != PACKAGE:
            assert room_of(path) in FLOOR, f"{relative(path)}: a room that has no floor"
            assert (path.parent / "__init__.py").exists(), (
                f"{relative(path.parent)}: no __init__.py, wheels lose it"
            )


def test_rooms_import_only_from_lower_floors():
    found = []
    for path in sources("ar1_jax", "configs"):
        if path == PACKAGE / "__init__.py":
            continue
        found += [f"{relative(path)}:{w}" for w in wrong_imports(room_of(path), ast.parse(path.read_text()))]
    assert not found, "\n".join(found)


def test_kernels_know_nothing_of_the_package():
    for path in sources("kernels"):
        names = [name for _, name in imported(ast.parse(path.read_text())) if name.split(".")[0] == "ar1_jax"]
        assert not names, f"{relative(path)}: imports {names}"


@pytest.mark.parametrize(
    ("room", "line", "bad"),
    [
        ("models", "from ar1_jax.policy import api", True),
        ("models", "def f():\n    import ar1_jax.world.render", True),
        ("world", "from ar1_jax import policy", True),
        ("train", "from ar1_jax.evaluate import tables", True),
        ("models", "from . import rotary", True),
        ("models", "from ar1_jax.models import rotary", False),
        ("rl", "from ar1_jax.train import step", False),
        ("rl", "import jax", False),
    ],
)
def test_the_floor_rule_sees_violations(room, line, bad):
    assert bool(list(wrong_imports(room, ast.parse(line)))) is bad


def too_long(path, text):
    """Findings about the size of one file and its functions (docstrings count, decorators do not)."""
    name, lines = relative(path), text.count("\n")
    if lines > LONGEST_FILE and name not in ALLOWED_FILES:
        yield f"{name}: {lines} lines, at most {LONGEST_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION and f"{name}:{node.name}" not in ALLOWED_FUNCTIONS:
                yield f"{name}:{node.lineno} {node.name}: {length} lines, at most {LONGEST_FUNCTION}"


def test_files_and_functions_stay_short():
    found = [
        line
        for path in sources("ar1_jax", "kernels", "configs", "tests")
        for line in too_long(path, path.read_text())
    ]
    assert not found, "\n".join(found)
    for name in [*ALLOWED_FILES, *(n.split(":")[0] for n in ALLOWED_FUNCTIONS)]:
        assert (ROOT / name).exists(), f"{name} is allowed to be long but does not exist"


def test_the_size_rule_sees_violations():
    path = PACKAGE / "made_up.py"
    long_function = "def f():\n" + "    x = 1\n" * 60
    assert [w.split()[1] for w in too_long(path, long_function)] == ["f:"]
    assert list(too_long(path, "x = 1\n" * 501)) and not list(too_long(path, "x = 1\n" * 500))


def without_docstring(tree):
    """Public functions, classes and methods of public classes at module level without docstring, and the module.

    Methods that Python or flax names (__call__, setup) and properties of one line need none."""
    if tree.body and not ast.get_docstring(tree):
        yield 1, "module"
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not is_obvious(node):
            yield node.lineno, node.name


def is_obvious(node):
    """At most eight lines of body whose names say all, such as sync(path) or a container of three fields."""
    return node.end_lineno - node.body[0].lineno < 8


def test_what_is_public_says_what_it_does():
    found = []
    for path in sources("ar1_jax", "kernels", "configs"):
        found += [
            f"{relative(path)}:{line} {name}" for line, name in without_docstring(ast.parse(path.read_text()))
        ]
    assert not found, "no docstring:\n" + "\n".join(found)


def test_the_docstring_rule_sees_violations():
    assert list(without_docstring(ast.parse("x = 1"))) == [(1, "module")]
    body = "    x = 1\n" * 9
    assert list(without_docstring(ast.parse(f'"""M."""\ndef f():\n{body}'))) == [(2, "f")]
    assert list(without_docstring(ast.parse(f'"""M."""\nclass C:\n{body}'))) == [(2, "C")]
    assert not list(without_docstring(ast.parse(f'"""M."""\ndef _f():\n{body}')))


def texts():
    """Text files of the repository that git would commit."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    if not any(names):  # no git: an unpacked archive
        names = [
            relative(f)
            for folder in ("ar1_jax", "kernels", "configs", "tests")
            for f in (ROOT / folder).rglob("*")
        ]
    paths = [ROOT / name for name in names if name]
    return [p for p in paths if p.is_file() and p.suffix in TEXT_SUFFIXES and p.stat().st_size < 2**20]


def forbidden(text):
    return [p for p in FORBIDDEN if re.search(p, text, re.IGNORECASE)]


def test_the_repository_stands_alone():
    found = {relative(path): forbidden(path.read_text(errors="replace")) for path in texts()}
    assert not any(found.values()), {name: words for name, words in found.items() if words}
    assert (
        forbidden("pip install --index-" + "url x")
        and forbidden("see ../sha" + "red/x")
        and not forbidden("network/x")
    )


PROBE = """
import importlib, json, sys, time
import jax
import jax.numpy
start, before = time.perf_counter(), set(sys.modules)
import ar1_jax
dir(ar1_jax), ar1_jax.__version__
seconds = time.perf_counter() - start
pulled = sorted(set(sys.modules) - before)
from jax._src import xla_bridge
touched, failed, light = [], {}, []
heavy, light_rooms = json.loads(sys.argv[2]), json.loads(sys.argv[3])
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except Exception as e:
        failed[name] = repr(e)
    if xla_bridge.backends_are_initialized():
        touched.append(name)
        break
    if name.split(".")[1] in light_rooms:
        light += [f"{name}: {h}" for h in heavy if h in sys.modules]
print(json.dumps({"seconds": seconds, "pulled": pulled, "touched": touched, "failed": failed, "light": light}))
"""


@pytest.fixture(scope="module")
def probe():
    """Imports everything in a fresh interpreter, light rooms first, and reports what happened."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources("ar1_jax")]
    modules = sorted(
        (m.removesuffix(".__init__") for m in modules if m != "ar1_jax.__init__"), key=import_order
    )
    words = [sys.executable, "-c", PROBE, json.dumps(modules), json.dumps(HEAVY), json.dumps(LIGHT_ROOMS)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def import_order(module):
    room = module.split(".")[1]
    return room not in LIGHT_ROOMS, FLOOR.get(room, 9), module


def test_importing_the_package_costs_next_to_nothing(probe):
    assert probe["seconds"] < 1.0
    heavy = [
        name for name in probe["pulled"] if name.split(".")[0] in (*HEAVY, "orbax", "tokenizers", "jinja2")
    ]
    assert not heavy


def test_every_module_imports_and_none_works_at_import(probe):
    assert not probe["failed"]
    assert not probe["touched"], f"{probe['touched'][0]} starts a JAX backend when it is imported"


def test_model_policy_and_rl_run_without_the_heavy_packages(probe):
    assert not probe["light"], probe["light"][0]
