"""SIGTERM as an exception that unwinds like Ctrl-C."""

import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; unwinds like Ctrl-C."""


def terminate_like_interrupt() -> None:
    """Make SIGTERM unwind the program, so that drafts are cleaned up."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
