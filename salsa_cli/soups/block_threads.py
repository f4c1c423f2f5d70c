"""Process blocks on a few threads, each with its own buffers.

Reading, computing and writing overlap because the threads work on different blocks. Ordered work
(digests, progress) runs in block order no matter which thread finishes first.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Memory = TypeVar("Memory")


class _Stopped(Exception):
    """Another thread has failed; this one stops silently."""


class _Turns:
    """Hands out item numbers and serialises the threads in item order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._turn = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """The number of the next item; None if there is none or the work was stopped."""
        with self._changed:
            if self._stopped or self._taken == self._count:
                return None
            self._taken += 1
            return self._taken - 1

    def in_turn(self, number: int, act: Callable[[], None]) -> None:
        """Run `act` after the acts of all smaller numbers."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._turn == number)
            if self._stopped:
                raise _Stopped
            act()
            self._turn += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake up all threads and make them stop."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def in_blocks(
    items: Sequence[Item],
    memories: Sequence[Memory],
    work: Callable[[Item, Memory], None],
    then: Callable[[Item, Memory], None],
) -> None:
    """Run `work` on every item, one thread per memory, and `then` in item order.

    The first exception in any thread, or an interrupt, stops all of them and is raised.
    """
    turns = _Turns(len(items))

    def loop(memory: Memory) -> None:
        try:
            while (number := turns.take()) is not None:
                item = items[number]
                work(item, memory)
                turns.in_turn(number, lambda item=item: then(item, memory))  # type: ignore[misc]
        except BaseException:
            turns.stop()
            raise

    with ThreadPoolExecutor(len(memories)) as pool:
        futures = [pool.submit(loop, memory) for memory in memories]
        try:
            errors = [future.exception() for future in futures]
        except BaseException:
            turns.stop()
            raise
    for error in errors:
        if error is not None and not isinstance(error, _Stopped):
            raise error
