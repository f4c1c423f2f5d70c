"""Blocks of work on a few threads, each with memory of its own.

Reading, computing and writing overlap because the threads are at different blocks. What has an
order (digests, progress) is done block after block, however the threads overtake one another.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Memory = TypeVar("Memory")


class _Stopped(Exception):
    """Another thread has failed; this one gives up without a word."""


class _Turns:
    """Hands out items, and lets their threads go on one by one in the items' order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._turn = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """The next item's number; None where there is none, or no need."""
        with self._changed:
            if self._stopped or self._taken == self._count:
                return None
            self._taken += 1
            return self._taken - 1

    def in_turn(self, number: int, act: Callable[[], None]) -> None:
        """Run `act` when those of all smaller numbers have run."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._turn == number)
            if self._stopped:
                raise _Stopped
            act()
            self._turn += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake everybody up to give up."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def in_blocks(
    items: Sequence[Item],
    memories: Sequence[Memory],
    work: Callable[[Item, Memory], None],
    then: Callable[[Item, Memory], None],
) -> None:
    """`work` on every item, as many at a time as there are memories; `then` in their order.

    The first exception of any thread, or an interrupt, stops all of them and is raised.
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
