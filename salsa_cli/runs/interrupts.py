"""Ctrl-C and SIGTERM, held back until the work in hand is at a good place to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from salsa_cli.devices.runtime import Runtime
from salsa_cli.runs.events import Note, Report
from salsa_cli.runs.signals import Terminated

_KINDS = (None, KeyboardInterrupt, Terminated)


class Interrupts:
    """Ctrl-C or SIGTERM that arrived while work was under way that is better finished.

    It counts from the moment on at which all processes of the run know of it: one that acted on
    what it alone has heard would leave the others in the middle of a step.
    """

    def __init__(self) -> None:
        self._heard: type[KeyboardInterrupt] | None = None
        self._agreed: type[KeyboardInterrupt] | None = None

    @property
    def arrived(self) -> bool:
        """Whether the work is to end at this good moment, by the newest agreement."""
        return self._agreed is not None

    @property
    def unanswered(self) -> type[KeyboardInterrupt] | None:
        """What this process has heard, and no agreement has taken up."""
        return self._heard if self._agreed is None else None

    def note(self, kind: type[KeyboardInterrupt]) -> None:
        """Remember one; a second one is not to wait."""
        if self._heard is not None:
            raise kind
        self._heard = kind

    def agree(self, runtime: Runtime) -> None:
        """Take up what arrived in any process of the run, so that all stop at the same step."""
        self._agreed = _KINDS[int(runtime.most(_KINDS.index(self._heard)))]

    def obey(self) -> None:
        """Raise what was agreed on, if anything was."""
        if self._agreed is not None:
            raise self._agreed


@contextmanager
def held_back(report: Report) -> Iterator[Interrupts]:
    """Hold Ctrl-C and SIGTERM back until the block asks for them; a second one is not held back.

    One that came too late for the block's last agreement is raised when the block has ended. Where
    a signal is ignored, as in a shell's background, it stays so.
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
    if held.unanswered is not None:
        raise held.unanswered
