"""Ctrl-C, SIGTERM and SIGHUP, deferred until the end of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from salsa_cli.devices.runtime import Runtime
from salsa_cli.runs.events import Note, Report
from salsa_cli.runs.signals import EXCEPTIONS, HungUp

_KINDS = (None, *EXCEPTIONS.values())


class Interrupts:
    """A Ctrl-C, SIGTERM or SIGHUP received in the middle of a step.

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
        """Remember a signal; a second one is raised at once.

        SIGHUP never counts as the second, nor what follows it: the kernel, the shell and the
        session manager may each send a signal when a terminal is closed.
        """
        if self._received not in (None, HungUp) and kind is not HungUp:
            raise kind
        self._received = self._received or kind

    def agree(self, runtime: Runtime) -> None:
        """Share what any process has received, so that all stop after the same step."""
        self._agreed = _KINDS[int(runtime.most(_KINDS.index(self._received)))]

    def raise_pending(self) -> None:
        """Raise the signal that all processes have agreed on, if there is one."""
        if self._agreed is not None:
            raise self._agreed


@contextmanager
def deferred_interrupts(report: Report) -> Iterator[Interrupts]:
    """Defer Ctrl-C, SIGTERM and SIGHUP until the block asks for them.

    A second Ctrl-C or SIGTERM is raised at once.

    A signal that arrives after the block's last agreement is raised at the end of the block. A
    signal that is ignored, as in a background job of a shell, stays ignored.
    """
    held = Interrupts()
    again = {
        signal.SIGINT: "; press Ctrl-C again to stop at once",
        signal.SIGTERM: "; send SIGTERM again to stop at once",
    }

    def receive(signum: int, frame: FrameType | None) -> None:
        held.note(EXCEPTIONS[signal.Signals(signum)])
        with suppress(RuntimeError):  # raised if the signal interrupts a line being written
            how = again.get(signal.Signals(signum), "")
            report(Note(f"finishing this step, then stopping{how}"))

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.getsignal(one) for one in EXCEPTIONS}
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
