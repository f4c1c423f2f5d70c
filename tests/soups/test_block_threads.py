"""Blocks on several threads: all of them, in order where it counts, and an end when one fails."""

import random
import threading
import time

import pytest

from salsa_cli.soups.block_threads import in_blocks


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_is_worked_on_and_accounted_for_in_order(threads: int) -> None:
    worked: list[int] = []
    accounted: list[tuple[int, int]] = []

    def work(item: int, memory: list[int]) -> None:
        time.sleep(random.random() / 1000)
        memory[0] = item
        worked.append(item)

    def then(item: int, memory: list[int]) -> None:
        accounted.append((item, memory[0]))

    in_blocks(list(range(60)), [[-1] for _ in range(threads)], work, then)
    assert sorted(worked) == list(range(60))
    assert accounted == [(item, item) for item in range(60)]


def test_threads_overlap() -> None:
    both = threading.Barrier(2, timeout=30)
    in_blocks([0, 1], [None, None], lambda item, memory: (both.wait(), None)[1], lambda i, m: None)


@pytest.mark.parametrize("where", ["work", "then"])
def test_the_first_failure_stops_all(where: str) -> None:
    done: list[int] = []

    def fail(item: int, memory: None) -> None:
        if item == 5:
            raise RuntimeError("the fifth")
        time.sleep(0.001)

    def count(item: int, memory: None) -> None:
        done.append(item)

    work, then = (fail, count) if where == "work" else (count, fail)
    with pytest.raises(RuntimeError, match="the fifth"):
        in_blocks(range(10_000), [None] * 3, work, then)
    assert len(done) < 100
    assert threading.active_count() < 20


def test_nothing_to_do() -> None:
    in_blocks([], [None], lambda item, memory: None, lambda item, memory: None)
