"""Ctrl-C and SIGTERM, deferred until the end of a step."""

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
    """A Ctrl-C or SIGTERM received in the middle of a step.

    It takes effect when all processes of the run know of it: a process that stopped alone would
    leave the others waiting in the middle of a step.
    """

    def __init__(self) -> None:
        self._received: type[KeyboardInterrupt] | None = None
        self._agreed: type[KeyboardInterrupt] | None = None

    @property
    def pending(self) -> bool:
        """Whether all processes have agreed to stop after this step."""
        return self._agreed is not None

    @property
    def unanswered(self) -> type[KeyboardInterrupt] | None:
        """What this process has received since the last agreement."""
        return self._received if self._agreed is None else None

    def note(self, kind: type[KeyboardInterrupt]) -> None:
        """Remember a signal; a second one is raised at once."""
        if self._received is not None:
            raise kind
        self._received = kind

    def agree(self, runtime: Runtime) -> None:
        """Share what any process has received, so that all stop after the same step."""
        self._agreed = _KINDS[int(runtime.most(_KINDS.index(self._received)))]

    def raise_pending(self) -> None:
        """Raise the signal that all processes have agreed on, if there is one."""
        if self._agreed is not None:
            raise self._agreed


@contextmanager
def deferred_interrupts(report: Report) -> Iterator[Interrupts]:
    """Defer Ctrl-C and SIGTERM until the block asks for them; a second one is raised at once.

    A signal that arrives after the block's last agreement is raised at the end of the block. A
    signal that is ignored, as in a background job of a shell, stays ignored.
    """
    held = Interrupts()
    kinds = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
    again = {signal.SIGINT: "press Ctrl-C again", signal.SIGTERM: "send SIGTERM again"}

    def receive(signum: int, frame: FrameType | None) -> None:
        held.note(kinds[signal.Signals(signum)])
        with suppress(RuntimeError):  # raised if the signal interrupts a line being written
            how = again[signal.Signals(signum)]
            report(Note(f"finishing this step, then stopping; {how} to stop at once"))

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in kinds}
    try:
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, receive)
        yield held
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if held.unanswered is not None:
        raise held.unanswered
