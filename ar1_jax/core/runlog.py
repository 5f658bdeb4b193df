"""The run folder runs/<name>/ and its log: one aligned console line with the time left, one JSON line per step.

Files: config.json (the whole configuration), metrics.jsonl (every logged step), log.txt (what the console showed),
figures/, checkpoints/. Opening a log at a resumed step drops the lines from that step on, so that a restarted run
writes the same file as one that was never stopped. In several processes only process 0 writes and prints."""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import ml_collections

from ar1_jax.core import errors


def open_run(
    root: str | os.PathLike, name: str, config: ml_collections.ConfigDict | None = None
) -> pathlib.Path:
    """Makes runs/<name>/ (or opens it again), saves `config` in it and returns its path.

    Raises ConfigError where the folder cannot be written, before any work was done."""
    folder = pathlib.Path(root) / name
    if jax.process_index() != 0:
        return folder
    try:
        for part in ("figures", "checkpoints"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        if config is not None:
            write_text(folder / "config.json", config.to_json_best_effort(indent=2, sort_keys=True) + "\n")
        else:
            write_text(folder / ".writable", "")
            (folder / ".writable").unlink()
    except OSError as e:
        raise errors.ConfigError(f"run folder {folder}: cannot be written ({e.strerror or e})") from e
    return folder


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file so that a reader sees the old one or the whole new one, never a half."""
    sibling = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    sibling.write_text(text)
    os.replace(sibling, path)


class RunLog:
    """Log of one run of `total_steps` steps in `folder`, continuing at `start_step` (0 = fresh, nothing kept)."""

    def __init__(
        self, folder: str | os.PathLike, total_steps: int, start_step: int = 0, stream: TextIO | None = None
    ) -> None:
        self.folder = pathlib.Path(folder)
        self.total_steps = total_steps
        self.stream = stream or sys.stdout
        self.writes = jax.process_index() == 0
        self._start_step = self._step = start_step
        self._start_time = time.monotonic()
        self._widths: dict[str, int] = {}
        if not self.writes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            keep = lines_before(self.folder / "metrics.jsonl", start_step)
            write_text(self.folder / "metrics.jsonl", "".join(keep))
            self._metrics = open(self.folder / "metrics.jsonl", "a")
            self._text = open(self.folder / "log.txt", "a" if start_step else "w")
        except OSError as e:
            raise errors.ConfigError(f"run log {self.folder}: cannot be written ({e.strerror or e})") from e

    def log(self, step: int, values: Mapping[str, Any], show: bool = True) -> None:
        """Appends step and scalars (numbers, 0-d arrays; not finite -> null) to metrics.jsonl and prints them.

        `step` counts finished steps (1 after the first) and is compared with `total_steps` for the time left."""
        self._step = step
        if not self.writes:
            return
        numbers = {name: float(value) for name, value in values.items()}
        record = {"step": int(step)} | {n: v if math.isfinite(v) else None for n, v in numbers.items()}
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()
        if show:
            self.say(self.line(step, numbers))

    def line(self, step: int, numbers: Mapping[str, float]) -> str:
        """'step   40/2000   2%  loss 1.234  reward 0.51  left 3:12', columns as wide as the widest so far."""
        width = len(str(self.total_steps))
        cells = [f"step {step:>{width}}/{self.total_steps} {100 * step / max(1, self.total_steps):3.0f}%"]
        for name, value in numbers.items():
            text = f"{value:.4g}"
            self._widths[name] = max(self._widths.get(name, 0), len(text))
            cells.append(f"{name} {text:>{self._widths[name]}}")
        return "  ".join([*cells, f"left {clock(self.seconds_left(step))}"])

    def seconds_left(self, step: int) -> float:
        """Time to the last step at this process's mean speed; NaN before its first step."""
        done = step - self._start_step
        if done <= 0:
            return math.nan
        return (time.monotonic() - self._start_time) / done * max(0, self.total_steps - step)

    def say(self, text: str) -> None:
        """One line to the console and to log.txt."""
        if not self.writes:
            return
        print(text, file=self.stream, flush=True)
        self._text.write(text + "\n")
        self._text.flush()

    def figure(self, name: str) -> pathlib.Path:
        """Path for a figure of this run; its folder exists."""
        path = self.folder / "figures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        if self.writes:
            self._metrics.close()
            self._text.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lines_before(path: pathlib.Path, step: int) -> list[str]:
    """The whole JSON lines of `path` whose step is at most `step`; a torn last line and later steps are dropped."""
    kept = []
    for line in path.read_text().splitlines(keepends=True) if step and path.exists() else []:
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """All records of a run's metrics.jsonl in order; [] where there is none, a torn last line left out."""
    path = pathlib.Path(folder) / "metrics.jsonl"
    return [json.loads(line) for line in lines_before(path, sys.maxsize)]


def clock(seconds: float) -> str:
    """12.3 -> '0:12', 4000 -> '1:06:40', NaN -> '-:--'."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
