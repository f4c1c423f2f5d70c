"""Ctrl-C and SIGTERM, held back until the work in hand is at a good place to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from salsa_cli.reports import Note, Report
from salsa_cli.runs import Terminated
from salsa_cli.runtime import Runtime

_KINDS = (None, KeyboardInterrupt, Terminated)


class Interrupts:
    """Whether Ctrl-C or SIGTERM arrived while work was under way that is better finished."""

    def __init__(self) -> None:
        self._kind: type[KeyboardInterrupt] | None = None

    @property
    def arrived(self) -> bool:
        """Whether the work should end at the next good moment."""
        return self._kind is not None

    def note(self, kind: type[KeyboardInterrupt]) -> None:
        """Remember one; a second one is not to wait."""
        if self._kind is not None:
            raise kind
        self._kind = kind

    def agree(self, device: Runtime) -> None:
        """Take over what arrived in any process of the run, so that all stop at the same step."""
        if kind := int(device.most(_KINDS.index(self._kind))):
            self._kind = _KINDS[kind]

    def obey(self) -> None:
        """Raise what arrived, if anything did."""
        if self._kind is not None:
            raise self._kind


@contextmanager
def held_back(report: Report) -> Iterator[Interrupts]:
    """Hold Ctrl-C and SIGTERM back until the block asks for them; a second one is not held back.

    Where a signal is ignored, as in a shell's background, it stays so.
    """
    held = Interrupts()
    kinds = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

    def hear(signum: int, frame: FrameType | None) -> None:
        held.note(kinds[signal.Signals(signum)])
        with suppress(RuntimeError):  # raised where the signal falls into a line being written
            report(Note("finishing this step, then stopping; again to stop at once"))

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in kinds}
    try:
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, hear)
        yield held
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
