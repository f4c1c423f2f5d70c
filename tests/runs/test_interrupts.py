"""Interrupts that wait for a good moment."""

import os
import signal
import threading
from types import SimpleNamespace
from typing import cast

import pytest

from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.runs import interrupts
from salsa_cli.runs.events import Event, Note, silent
from salsa_cli.runs.signals import EXCEPTIONS, HungUp, Terminated


@pytest.mark.parametrize(
    ("sent", "kind", "again"),
    [
        (signal.SIGINT, KeyboardInterrupt, "press Ctrl-C again"),
        (signal.SIGTERM, Terminated, "send SIGTERM again"),
    ],
)
def test_the_first_waits_and_the_second_does_not(
    sent: signal.Signals, kind: type[KeyboardInterrupt], again: str
) -> None:
    heard: list[Event] = []
    runtime = start_runtime("cpu")
    before = signal.signal(sent, signal.default_int_handler)
    try:
        with interrupts.deferred_interrupts(heard.append) as held:
            held.agree(runtime)
            assert not held.pending
            held.raise_pending()
            os.kill(os.getpid(), sent)
            held.agree(runtime)
            assert held.pending
            assert heard == [Note(f"finishing this step, then stopping; {again} to stop at once")]
            with pytest.raises(kind):
                held.raise_pending()
            with pytest.raises(kind):
                os.kill(os.getpid(), sent)
                signal.pause()
        assert signal.getsignal(sent) is signal.default_int_handler
    finally:
        signal.signal(sent, before)


def test_a_closed_terminal_may_send_several_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel, the shell and the session manager each may; none of them is an impatient user."""
    for sent in (signal.SIGTERM, signal.SIGHUP):
        monkeypatch.setattr(signal, "getsignal", lambda one: signal.SIG_DFL)
        with pytest.raises(EXCEPTIONS[sent]), interrupts.deferred_interrupts(silent):
            for one in (sent, signal.SIGHUP, signal.SIGHUP):
                os.kill(os.getpid(), one)
    with pytest.raises(HungUp), interrupts.deferred_interrupts(silent):
        for one in (signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), one)


def test_what_arrives_while_processes_agree_waits_for_the_next_agreement() -> None:
    """The others have said by then that they go on: to stop alone would leave them alone."""

    def most(value: float) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return value

    device = cast("Runtime", SimpleNamespace(most=most))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(Terminated), interrupts.deferred_interrupts(silent) as held:
            held.agree(device)
            assert not held.pending
            held.raise_pending()
            # The block ends without another agreement: the signal is not lost.
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_another_process_heard_counts_here_too() -> None:
    with interrupts.deferred_interrupts(silent) as held:
        held.agree(cast("Runtime", SimpleNamespace(most=lambda value: max(value, 2))))
        with pytest.raises(Terminated):
            held.raise_pending()


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.deferred_interrupts(silent) as held:
            os.kill(os.getpid(), signal.SIGINT)
            assert held.unanswered is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_hold_nothing_back() -> None:
    """Only the main thread may set handlers; elsewhere the block runs all the same."""
    done: list[bool] = []

    def work() -> None:
        with interrupts.deferred_interrupts(silent) as held:
            done.append(held.pending)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [False]
