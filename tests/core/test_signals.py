"""Stopping. The reference: a process that gets real signals, and the table of exit codes."""

import os
import signal
import threading

import pytest

from ar1_jax.core import signals


def test_sigterm_sets_the_flag_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with signals.catch() as stop:
        assert not stop.requested and not stop.anywhere()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.anywhere() and stop.signal_name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_interrupt_interrupts():
    with signals.catch() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()


@pytest.mark.parametrize(
    ("requested", "saved", "code"), [(False, False, 0), (True, True, 0), (True, False, 143)]
)
def test_exit_codes(requested, saved, code):
    stop = signals.Stop()
    stop.requested = requested
    assert stop.exit_code(saved) == code


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def work():
        with signals.catch() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
