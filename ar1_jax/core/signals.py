"""A stop that was asked for: SIGTERM (a scheduler) or the first Ctrl-C sets a flag that loops look at between steps.

The second Ctrl-C interrupts at once. Outside the main thread signals cannot be caught and the flag stays down."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np

from ar1_jax.core import errors


class Stop:
    """`requested` is True once a signal came; `signal_name` says which."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""

    def __call__(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.signal_name = signal.Signals(number).name

    def anywhere(self) -> bool:
        """True once any process was asked to stop, so that all leave the loop at the same step. Collective."""
        if jax.process_count() == 1:
            return self.requested
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.array(self.requested))))

    def exit_code(self, saved: bool) -> int:
        """0 where nothing was lost (no stop, or a checkpoint was saved), else 143."""
        return errors.DONE if saved or not self.requested else errors.TERMINATED


@contextlib.contextmanager
def catch() -> Iterator[Stop]:
    """`with signals.catch() as stop:` installs the handlers and puts the old ones back afterwards."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
