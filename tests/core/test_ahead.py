"""Work ahead of its consumer: in order, bounded, and ended with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from featureloop.core.ahead import work_ahead


def endless(taken: list[int]) -> Iterator[int]:
    for i in range(100_000):
        taken.append(i)
        yield i


def broken_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise OSError("the disk was pulled out")


def left() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("decode", "recognize"))]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_results_come_in_the_source_s_order(at_once: int) -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 if i % at_once == 0 else 0)
        return i * i

    assert list(work_ahead(range(20), slow_first, at_once=at_once, ahead=4)) == [i * i for i in range(20)]
    assert not left()


def test_as_many_are_worked_on_at_once_as_said() -> None:
    together = threading.Barrier(3, timeout=10)
    # With fewer at once, nobody would ever get past the barrier.
    assert sorted(work_ahead(range(6), lambda _: int(together.wait()), at_once=3, ahead=2)) == [0, 0, 1, 1, 2, 2]


def test_no_more_is_taken_than_may_wait() -> None:
    taken: list[int] = []
    results = work_ahead(endless(taken), lambda i: i, at_once=3, ahead=2)
    next(results)
    time.sleep(0.05)
    results.close()
    # One was given, three are in work and two wait.
    assert len(taken) <= 6
    assert not left()


def test_a_live_source_is_asked_only_when_there_is_room() -> None:
    """What is asked for later is newer."""
    taken: list[int] = []
    results = work_ahead(endless(taken), lambda i: i, at_once=1, ahead=0)
    for i in range(5):
        assert next(results) == i
        time.sleep(0.02)
        assert len(taken) <= i + 2
    results.close()


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_slow_source_holds_no_result_back(at_once: int) -> None:
    seen = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        assert seen.wait(10), "the first result is to come before the second item is there"
        yield 1

    got = []
    for i in work_ahead(source(), lambda i: i, at_once=at_once, ahead=4):
        got.append(i)
        seen.set()
    assert got == [0, 1]


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_exception_of_source_or_work_is_raised_after_what_came_before(at_once: int) -> None:
    def work(i: int) -> float:
        return 6 / (3 - i)

    got: list[float] = []
    with pytest.raises(OSError, match="pulled out"):
        got.extend(work_ahead(broken_after(2), work, at_once=at_once, ahead=4))
    with pytest.raises(ZeroDivisionError):
        got.extend(work_ahead(range(100), work, at_once=at_once, ahead=4))
    assert got[-3:] == [2.0, 3.0, 6.0]
    assert not left()
