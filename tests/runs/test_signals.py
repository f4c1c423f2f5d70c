"""Signals that unwind the program like Ctrl-C."""

import os
import signal
from collections.abc import Iterator

import pytest

from salsa_cli.runs import signals
from salsa_cli.runs.signals import HungUp, Terminated, terminate_like_interrupt

ASKED = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in ASKED}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize(("sent", "kind"), [(ASKED[0], Terminated), (ASKED[1], HungUp)])
def test_a_signal_raises_what_ctrl_c_raises(
    sent: signal.Signals, kind: type[KeyboardInterrupt]
) -> None:
    terminate_like_interrupt()
    cleaned = []
    with pytest.raises(KeyboardInterrupt) as found:
        try:
            os.kill(os.getpid(), sent)
            pytest.fail("the signal was not heard")
        finally:
            cleaned.append(True)
    assert found.type is kind and cleaned
    assert signals.EXIT_CODES[kind] == 128 + sent
    assert sent.name in signals.described(kind)


def test_nohup_is_obeyed() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    terminate_like_interrupt()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
