"""Signals that ask a run to stop, as exceptions."""

import signal
from collections.abc import Mapping
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; unwinds the program like Ctrl-C."""


class HungUp(KeyboardInterrupt):
    """SIGHUP was received: the terminal or the ssh session was closed."""


EXCEPTIONS: Mapping[signal.Signals, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: HungUp,
}
"""What each signal raises."""

EXIT_CODES: Mapping[type[KeyboardInterrupt], int] = {
    kind: 128 + one for one, kind in EXCEPTIONS.items()
}
"""Exit code of a program that a signal has ended, as shells report it."""

_DESCRIBED = {
    Terminated: "stopped by SIGTERM",
    HungUp: "stopped by SIGHUP, because its terminal or ssh session was closed",
}


def described(kind: type[KeyboardInterrupt]) -> str:
    """How a run ended, for its user: interrupted, or stopped by a signal."""
    return _DESCRIBED.get(kind, "interrupted")


def terminate_like_interrupt() -> None:
    """Raise `Terminated` at SIGTERM and `HungUp` at SIGHUP, so that partial results are cleaned up.

    SIGHUP stays ignored under `nohup`.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise EXCEPTIONS[signal.Signals(signum)]

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, stop)
