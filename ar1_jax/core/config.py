"""Configuration: `path.py[:argument]` with `get_config(argument=None)` and typed `--config.key=value` overrides.

A configuration is a locked `ml_collections.ConfigDict`. A bare name such as `rl` or `rl:quick` finds the copy
shipped with the package. An override is read by the type of the default it replaces; unknown keys, wrong types and
unreadable values are raised as one ConfigError. Not here: the files (configs/), the command line (main.py)."""

import ast
import importlib.util
import inspect
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from ar1_jax.core import errors

TRUE, FALSE, NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null", "")


def load(spec: str, overrides: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """`configs/rl.py:quick` or `rl:quick`, and {"a.b": value} -> locked ConfigDict.

    Strings among the overrides are parsed by the type of the default. Raises ConfigError with all problems at once."""
    path, argument = locate(spec)
    config = call_get_config(path, argument)
    config.lock()
    apply_overrides(config, overrides or {}, where=spec)
    return config


def locate(spec: str) -> tuple[pathlib.Path, str | None]:
    """'dir/x.py:argument' -> (path, argument or None); a bare name is looked up among the packaged files."""
    name, colon, argument = spec.partition(":")
    argument = argument if colon else None
    path = pathlib.Path(name)
    if path.suffix == ".py":
        if path.is_file():
            return path, argument
        hint = f"; the packaged copy is --config={path.stem}" if path.stem in packaged() else ""
        raise errors.ConfigError(f"--config={spec}: no such file {path}{hint}")
    known = packaged()
    return known[errors.one_of(name, known, "--config")], argument


def packaged() -> dict[str, pathlib.Path]:
    """Name -> path of every configuration file shipped with the package."""
    spec = importlib.util.find_spec("ar1_jax.configs")
    folders = list(spec.submodule_search_locations) if spec else []
    folders.append(str(pathlib.Path(__file__).parents[2] / "configs"))  # a checkout that is not installed
    for folder in folders:
        files = sorted(pathlib.Path(folder).glob("[a-z]*.py"))
        if files:
            return {f.stem: f for f in files if "def get_config" in f.read_text()}
    return {}


def call_get_config(path: pathlib.Path, argument: str | None) -> ml_collections.ConfigDict:
    """Runs the file and returns its get_config(argument); ConfigError if it has none or returns another type."""
    spec = importlib.util.spec_from_file_location(f"ar1_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as e:
        raise errors.ConfigError(f"{path}: line {e.lineno}: {e.msg}") from e
    if not callable(getattr(module, "get_config", None)):
        raise errors.ConfigError(f"{path}: has no function get_config(argument=None)")
    if argument is not None and not inspect.signature(module.get_config).parameters:
        raise errors.ConfigError(f"{path}: takes no argument, got {argument!r} after the colon")
    config = module.get_config() if argument is None else module.get_config(argument)
    if not isinstance(config, ml_collections.ConfigDict):
        raise errors.ConfigError(f"{path}: get_config returned {type(config).__name__}, expected ConfigDict")
    return config


def apply_overrides(config: ml_collections.ConfigDict, overrides: Mapping[str, Any], where: str) -> None:
    """Writes {"a.b": value} into `config` in place; all unknown keys and wrong values in one ConfigError."""
    problems, known = [], flatten(config)
    for key, value in overrides.items():
        try:
            *parents, last = key.split(".")
            section = config
            for name in parents:
                section = section[name]
            if not isinstance(section, ml_collections.ConfigDict) or last not in section:
                raise KeyError(key)
        except (KeyError, TypeError):
            problems.append(f"--config.{key}: unknown key{errors.nearest(key, known)}")
            continue
        try:
            section[last] = parse(value, default_of(section, last))
        except (ValueError, TypeError) as e:
            problems.append(f"--config.{key}={value}: {e}")
    errors.raise_all(problems, where, errors.ConfigError)


def default_of(section: ml_collections.ConfigDict, key: str) -> Any:
    """The default, or the type of a placeholder that has no default yet."""
    value = section[key]
    return section.get_type(key) if value is None and section.get_type(key) is not type(None) else value


def parse(value: Any, default: Any) -> Any:
    """Reads `value` (a string from the command line, or a Python value) as the type of `default`.

    A type stands for a placeholder without value, which may also be none. Raises ValueError saying what is expected."""
    if isinstance(default, ml_collections.ConfigDict):
        raise ValueError(f"is a section; its keys are {', '.join(default)}")
    if isinstance(value, str):
        value = read(value, default)
    if default is None or (isinstance(default, type) and value is None):
        return value
    kind = default if isinstance(default, type) else type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (tuple, list) and isinstance(value, (tuple, list)):
        return kind(elements(value, default))
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        named = "" if isinstance(default, type) else f" (default {default!r})"
        raise ValueError(f"expected {kind.__name__}{named}, got {type(value).__name__} {value!r}")
    return value


def read(text: str, default: Any) -> Any:
    """Command-line text -> the Python value it means next to `default`; text stays text where the default is text."""
    kind = default if isinstance(default, type) else type(default)
    if isinstance(default, type) and text.lower() in NONE:
        return None
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
        raise ValueError(f"expected true or false (default {default!r})")
    if default is None and text.lower() in NONE:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if kind in (tuple, list):
            return kind(part.strip() for part in text.strip("()[]").split(",") if part.strip())
        infinite = kind is float and text.lower().strip("+-") in ("inf", "nan")
        value = float(text) if infinite else text
    if kind in (tuple, list) and not isinstance(value, (tuple, list)):
        value = (value,)
    if kind is int and isinstance(value, float) and value.is_integer() and "e" in text.lower():
        value = int(value)  # 1e6
    return value


def elements(values: tuple | list, default: Any) -> list:
    """The items of a sequence, each as the type of the default's first item where there is one."""
    if isinstance(default, type) or not default:
        return list(values)
    return [parse(v, default[0]) for v in values]


def flatten(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """ConfigDict -> {"a.b": value}, sections left out, in the order of the file."""
    out = {}
    for key in config:
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict):
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
