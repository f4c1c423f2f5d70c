"""SIGTERM as an exception."""

import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; unwinds the program like Ctrl-C."""


def terminate_like_interrupt() -> None:
    """Raise `Terminated` at SIGTERM, so that partial results are cleaned up."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
