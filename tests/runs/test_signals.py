"""SIGTERM as an exception that unwinds the program like Ctrl-C."""

import os
import signal

import pytest

from salsa_cli.runs.signals import Terminated, terminate_like_interrupt


def test_sigterm_raises_what_ctrl_c_raises() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        terminate_like_interrupt()
        cleaned = []
        with pytest.raises(KeyboardInterrupt) as found:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                pytest.fail("the signal was not heard")
            finally:
                cleaned.append(True)
        assert found.type is Terminated and cleaned
    finally:
        signal.signal(signal.SIGTERM, before)
