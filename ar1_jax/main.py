"""`python -m ar1_jax.main --config=VERB[:argument] [--config.key=value ...] [--debug] [--help]`

Reads the configuration, finds ar1_jax.verbs.VERB (the stem of the file) and returns what its run(config) returns.
Exit codes: 0 done, 1 a check failed, 2 bad input or configuration, 143 stopped by SIGTERM without a checkpoint."""

import ast
import importlib
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence

from ar1_jax.core import compile_cache, distributed, errors
from ar1_jax.core import config as config_lib

USAGE = """usage: python -m ar1_jax.main --config=FILE_OR_VERB[:argument] [--config.key=value ...] [--debug] [--help]

  --config=configs/rl.py       a configuration file of yours
  --config=rl:quick            the one shipped with the package, with an argument for its get_config
  --config.key=value           changes one of its keys; --config=rl --help lists them
  --debug                      shows the traceback of an error

verbs:"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        return run(argv)
    except errors.Ar1Error as e:
        if debug:
            raise
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except OSError as e:  # a disk that is full, a file that may not be read
        if debug:
            raise
        print(f"error: {e}", file=sys.stderr)
        return errors.BAD_INPUT
    except ValueError as e:
        from ar1_kernels import backend

        # A config.kernels that this machine, dtype or shape cannot have is known while a program is traced only.
        if debug or not isinstance(e, backend.Refused):
            raise
        print(f"error: config.kernels: {e}", file=sys.stderr)
        return errors.BAD_INPUT


def run(argv: Sequence[str]) -> int:
    """`main` without the translation of errors."""
    spec, overrides, wants_help = parse_arguments(argv)
    if spec is None:
        print("\n".join([USAGE, *(f"  {name:<18} {line}" for name, line in verbs().items())]))
        return errors.DONE if wants_help else errors.BAD_INPUT
    config = config_lib.load(spec, overrides)
    if wants_help:
        print(describe(spec, config))
        return errors.DONE
    name = config_lib.locate(spec)[0].stem
    if importlib.util.find_spec(f"ar1_jax.verbs.{name}") is None:
        raise errors.ConfigError(
            f"--config={spec}: no verb {name}{errors.nearest(name, verbs())}; verbs: {', '.join(verbs())}"
        )
    prepare()
    code = importlib.import_module(f"ar1_jax.verbs.{name}").run(config)
    return errors.DONE if code is None else int(code)


def parse_arguments(argv: Sequence[str]) -> tuple[str | None, dict[str, str], bool]:
    """argv -> (config or None, {"a.b": text}, help wanted); ConfigError for words that mean nothing here."""
    spec, overrides, wants_help, problems = None, {}, False, []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in ("--help", "-h"):
            wants_help = True
        elif name == "--config" or name.startswith("--config."):
            if not equals and not words:
                problems.append(f"{word}: a value is missing")
                continue
            value = value if equals else words.pop(0)
            if name == "--config":
                spec = value
            else:
                overrides[name.removeprefix("--config.")] = value
        elif word != "--debug":
            known = ("--config", "--debug", "--help")
            problems.append(
                f"{word}: unknown{errors.nearest(name, known)}; keys are changed by --config.key=value"
            )
    if overrides and spec is None and not wants_help:
        problems.append("--config=FILE_OR_VERB is missing")
    errors.raise_all(problems, "command line", errors.ConfigError)
    return spec, overrides, wants_help


def verbs() -> dict[str, str]:
    """Name -> first line of the docstring of every file in ar1_jax/verbs, read without importing it."""
    out = {}
    for path in sorted((pathlib.Path(__file__).parent / "verbs").glob("[a-z]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        out[path.stem] = doc.split("\n", 1)[0]
    return out


def describe(spec: str, config) -> str:
    """Keys and defaults of a configuration, one a line as they are typed."""
    keys = config_lib.flatten(config)
    width = max(map(len, keys), default=0)
    return "\n".join(
        [
            f"keys of --config={spec}",
            *(f"  --config.{key:<{width}} = {value!r}" for key, value in keys.items()),
        ]
    )


def prepare() -> None:
    """What every verb needs once: other processes, the compile cache, absl flags that grain's workers look at."""
    import absl.flags

    absl.flags.FLAGS.mark_as_parsed()
    distributed.initialize()
    use_compile_cache()


def use_compile_cache() -> pathlib.Path | None:
    """Keeps compiled programs in the user's cache folder (AR1_JAX_CACHE=folder moves it, =off disables it)."""
    import jax

    chosen = os.environ.get("AR1_JAX_CACHE", "")
    if chosen.lower() in ("off", "0", "none") or (not chosen and jax.config.jax_compilation_cache_dir):
        return None
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(chosen or pathlib.Path(home) / "ar1_jax")
    try:
        return compile_cache.use(folder)
    except OSError as e:
        print(f"compile cache off: {folder}: {e}", file=sys.stderr)
        return None


def command() -> None:
    """The process: `main` and its exit code. One of several that failed leaves at once, since the way out of JAX
    waits for all the others, which may wait for this one."""
    try:
        code = main()
    except Exception:
        if not distributed.joined():
            raise
        traceback.print_exc()
        code = errors.FAILED
    if code != errors.DONE and distributed.joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
