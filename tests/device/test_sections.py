"""Sources in sections, and the backlog that is worked off in them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from featureloop.core.types import Frame
from featureloop.device.sections import Backlog, Pausable

PIXELS = np.zeros((4, 4, 3), np.uint8)


def frames(n: int) -> Iterator[Frame]:
    return (Frame(PIXELS, "video", index=i) for i in range(n))


def indices(source: Pausable) -> list[int]:
    return [f.index for f in source if isinstance(f, Frame)]


def test_each_section_goes_on_where_the_last_one_ended() -> None:
    pause = threading.Event()
    source = Pausable(frames(5), until=pause.is_set)
    pause.set()
    assert (indices(source), source.ended) == ([0], False)
    assert (indices(source), source.taken) == ([1], 2)
    pause.clear()
    assert (indices(source), source.ended) == ([2, 3, 4], True)


def test_a_backlog_is_worked_off_piece_by_piece_and_oldest_first() -> None:
    backlog, stop, shared = Backlog(), threading.Event(), list[int]()
    assert not backlog
    backlog.add(frames(2), stop=stop)
    backlog.add(frames(1), stop=stop)
    for left in (True, True, True, True, False):  # that a source has ended shows when it is asked once more
        assert backlog
        backlog.work(lambda source: shared.extend(indices(source)), seconds=0.0)
        assert bool(backlog) is left
    assert shared == [0, 1, 0]


def test_a_source_that_nobody_takes_from_is_given_up() -> None:
    backlog = Backlog()
    backlog.add(frames(2), stop=threading.Event())
    backlog.work(lambda _source: None, seconds=1.0)
    assert not backlog
