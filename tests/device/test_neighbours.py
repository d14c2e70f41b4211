"""The window: every result once, in order, with its neighbours of the same film and of no other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureloop.core.types import Frame, Recognition, Task
from featureloop.device.neighbours import Recognized, Window

PIXELS = np.zeros((2, 2, 3), np.uint8)
VECTORS = np.zeros((1, 1), np.float32)


def result(name: str, index: int, task: Task = Task.SEGMENTATION, group: str | None = None) -> Recognized:
    found = Recognition(task, np.zeros((1, 1), np.float32))
    return Recognized(Frame(PIXELS, name, index, group), VECTORS, found, b"key")


def run(results: list[Recognized], count: int) -> list[tuple[Recognized, tuple[Recognized, ...]]]:
    window = Window(count)
    given = [s for r in results for s in window.put(r)]
    return [(s.result, s.around) for s in (*given, *window.flush())]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.sampled_from([Task.SEGMENTATION, Task.DETECTION])),
        max_size=40,
    ),
    st.integers(0, 4),
)
def test_every_result_is_given_once_in_order_with_those_near_it(steps: list[tuple[str, int, Task]], count: int) -> None:
    at, results = {"a": 0, "b": 0}, []
    for name, gap, task in steps:
        at[name] += gap
        results.append(result(name, at[name], task))
    found = run(results, count)
    for task in (Task.SEGMENTATION, Task.DETECTION):
        own = [r for r in results if r.recognition.task is task]
        assert [r for r, _ in found if r.recognition.task is task] == own
    for mine, around in found:
        assert mine not in around
        assert len(set(map(id, around))) == len(around) <= 2 * count
        for other in around:
            assert other.recognition.task is mine.recognition.task
            assert other.frame.name == mine.frame.name
            assert 0 < abs(other.frame.index - mine.frame.index) <= count


def test_of_a_film_every_frame_has_as_many_neighbours_as_there_are() -> None:
    film = [result("film", i) for i in range(7)]
    around = {mine.frame.index: [o.frame.index for o in others] for mine, others in run(film, 2)}
    assert around == {i: [j for j in range(7) if 0 < abs(i - j) <= 2] for i in range(7)}


def test_a_frame_waits_for_its_followers_and_no_longer() -> None:
    window = Window(2)
    given = [[s.result.frame.index for s in window.put(result("film", i))] for i in range(5)]
    assert given == [[], [], [0], [1], [2]]
    # Another film begins: nothing of the first one follows.
    assert [s.result.frame.index for s in window.put(result("other", 0))] == [3, 4]
    assert [s.result.frame.name for s in window.flush()] == ["other"]
    assert list(window.flush()) == []


def test_stills_of_one_group_are_neighbours_in_their_order_and_stills_of_no_group_are_none() -> None:
    stills = [result(f"{i}.png", 0, group="patient 7") for i in range(3)]
    assert [[o.frame.name for o in around] for _, around in run(stills, 1)] == [
        ["1.png"],
        ["0.png", "2.png"],
        ["1.png"],
    ]
    alone = [result(f"{i}.png", 0) for i in range(3)]
    assert all(not around for _, around in run(alone, 1))


@pytest.mark.parametrize("count", [1, 5, 16])
def test_no_more_is_kept_than_neighbours_need(count: int) -> None:
    window = Window(count)
    for one, other in pairwise(range(100)):
        assert other == one + 1
        list(window.put(result("film", one)))
        assert len(window._open[Task.SEGMENTATION]) <= 2 * count + 1
