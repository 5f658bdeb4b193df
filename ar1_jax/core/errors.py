"""Errors a user can cause, one type per room, each with the exit code of the command line.

An error says who, what came, what was expected, where and what to do; all problems of one file at once. `raise_all`
joins a list of findings into one error, `nearest` names the closest known word. Exit codes: 0 done, 1 a check failed,
2 bad input or configuration, 143 stopped by SIGTERM without a checkpoint."""

import difflib
from collections.abc import Iterable

DONE, FAILED, BAD_INPUT, TERMINATED = 0, 1, 2, 143


class Ar1Error(Exception):
    """Base of all errors that are the input's fault: shown as one message, without a traceback."""

    exit_code = BAD_INPUT


class ConfigError(Ar1Error):
    """A configuration file, an override or a run folder is wrong."""


class SceneError(Ar1Error):
    """A scene (images, camera ids, ego history, calibration) is not what the policy expects."""


class ImageError(Ar1Error):
    """An image file or array cannot be used."""


class DataError(Ar1Error):
    """A data set, shard or sample cannot be read or written."""


class CheckpointError(Ar1Error):
    """A checkpoint is missing, torn, corrupt or does not fit the model."""


class ShardingError(Ar1Error):
    """Parameters, tables and mesh do not fit each other."""


class CheckFailed(Ar1Error):
    """A check or comparison was made and did not hold."""

    exit_code = FAILED


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the closest of `known`, else '' where nothing comes close."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not close:  # a key given without its section: compare last parts
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        close = [tails[t] for t in difflib.get_close_matches(word.rsplit(".", 1)[-1], tails, n=1, cutoff=0.7)]
    return f' (did you mean "{close[0]}"?)' if close else ""


def one_of(value: str, known: Iterable[str], what: str, error: type[Ar1Error] = ConfigError) -> str:
    """`value` if it is one of `known`; else `error` that names the nearest and lists all."""
    known = [str(k) for k in known]
    if value in known:
        return value
    raise error(f"{what}: unknown {value!r}{nearest(value, known)}; known: {', '.join(known)}")


def raise_all(problems: list[str], where: str, error: type[Ar1Error]) -> None:
    """Raises `error` with every finding on a line of its own; returns when there is none."""
    if not problems:
        return
    if len(problems) == 1:
        raise error(f"{where}: {problems[0]}")
    raise error("\n  ".join([f"{where}: {len(problems)} problems", *problems]))
