"""Near-duplicates: what counts as one, and what is remembered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureloop.core.types import Float32, Recognition, Task
from featureloop.learner.assembly import plain_form
from featureloop.model.forms import parse_form
from featureloop.sharing.near import (
    GROUPS,
    KEPT,
    Look,
    NearDuplicates,
    look_of,
    steps_apart,
    usually_apart,
    values_of,
)

SET = plain_form(parse_form("set"), (9, 5), (), flags=None)
POOL = plain_form(parse_form("pool"), (9, 5), ("mean",), flags=None)
USUALLY = 4.0


def vectors(n: int, at: float, seed: int = 0) -> Float32:
    """Vectors (n, 2) around a value."""
    return np.clip(np.random.default_rng(seed).normal(at, 0.1, (n, 2)), -1, 1).astype(np.float32)


def lesion(n: int, positive: int) -> Recognition:
    """A segmentation of n positions, the first of which show a lesion."""
    p = np.zeros((n, 16), np.float32)
    p[:positive] = 0.9
    return Recognition(Task.SEGMENTATION, p)


def look(at: float, positive: int = 10, n: int = 100, seed: int = 0) -> Look:
    return look_of(vectors(n, at, seed), lesion(n, positive), SET)


@given(st.permutations(range(40)))
def test_where_a_vector_stands_has_no_part_in_it(order: list[int]) -> None:
    x = vectors(40, 0.0)
    np.testing.assert_array_equal(values_of(x, SET), values_of(x[order], SET))


def test_a_frame_is_no_step_from_itself_and_as_many_steps_as_it_is_moved_by() -> None:
    x = np.linspace(-1, 0, 100, dtype=np.float32)[:, None].repeat(2, axis=1)
    own = values_of(x, SET)
    assert own.shape == (64, 2)
    assert steps_apart(own, own) == 0
    # A half is two of the first channel's steps of a quarter, and one of the second's.
    assert steps_apart(own, values_of(x + np.float32(0.5), SET)) == pytest.approx(3, abs=0.01)


def test_a_pooled_vector_is_compared_value_by_value() -> None:
    one = np.array([[0.1, 0.5]], np.float32)
    assert values_of(one, POOL).shape == (1, 2)
    assert steps_apart(values_of(one, POOL), values_of(one[:, ::-1], POOL)) > 0


def test_what_is_usual_is_the_median_between_groups_only() -> None:
    steps = [np.full((1, 1), v, np.float32) for v in (0, 1, 10, 13)]
    assert usually_apart(steps, ["a", "a", "b", "b"]) == 11  # of 10, 13, 9 and 12
    assert usually_apart(steps, ["a"] * 4) == 0
    assert usually_apart([], []) == 0


def test_a_frame_like_one_of_its_group_is_a_near_duplicate_and_of_another_group_not() -> None:
    near = NearDuplicates(0.5, USUALLY)
    assert not near.is_near(look(0.0), "a")
    near.keep(look(0.0), "a")
    assert near.is_near(look(0.05, seed=1), "a")
    assert not near.is_near(look(0.05, seed=1), "b")
    assert not near.is_near(look(0.9), "a")


@pytest.mark.parametrize("shown", [0, 4, 25])
def test_another_result_is_never_a_near_duplicate(shown: int) -> None:
    near = NearDuplicates(0.5, USUALLY)
    near.keep(look(0.0, positive=10), "a")
    assert near.is_near(look(0.0, positive=8), "a")
    assert not near.is_near(look(0.0, positive=shown), "a")


def test_a_lesion_of_one_position_that_appears_is_news() -> None:
    near = NearDuplicates(0.5, USUALLY)
    near.keep(look(0.0, positive=0), "a")
    assert near.is_near(look(0.0, positive=0), "a")
    assert not near.is_near(look(0.0, positive=1), "a")


@pytest.mark.parametrize(
    ("task", "one", "other", "alike"),
    [
        (Task.CLASSIFICATION, [0.4, 0.3, 0.3], [0.45, 0.3, 0.25], True),
        (Task.CLASSIFICATION, [0.4, 0.3, 0.3], [0.3, 0.4, 0.3], False),
        (Task.MULTILABEL, [0.9, 0.8, 0.1], [0.7, 0.9, 0.2], True),
        (Task.MULTILABEL, [0.9, 0.8, 0.1], [0.9, 0.2, 0.1], False),
    ],
)
def test_frames_of_which_something_else_is_said_differ(
    task: Task, one: list[float], other: list[float], *, alike: bool
) -> None:
    x = np.zeros((1, 2), np.float32)
    first, second = (look_of(x, Recognition(task, np.array([p], np.float32)), POOL) for p in (one, other))
    near = NearDuplicates(0.5, USUALLY)
    near.keep(first, "a")
    assert near.is_near(second, "a") is alike


@pytest.mark.parametrize(("share", "usually"), [(0.0, USUALLY), (0.5, 0.0)])
def test_without_a_share_or_without_knowing_what_is_usual_none_is_near(share: float, usually: float) -> None:
    near = NearDuplicates(share, usually)
    near.keep(look(0.0), "a")
    assert not near.is_near(look(0.0), "a")


def test_memory_is_bounded_and_the_latest_is_kept() -> None:
    near = NearDuplicates(0.5, USUALLY)
    near.keep(look(-0.9), "old")
    for i in range(GROUPS - 1):
        near.keep(look(0.0), i)
    near.keep(look(0.9), "old")  # Seen again, so another one goes first.
    near.keep(look(0.0), "new")
    assert near.is_near(look(-0.9), "old")
    assert not near.is_near(look(0.0), 0)
    for _ in range(KEPT):
        near.keep(look(0.9), "old")
    assert not near.is_near(look(-0.9), "old")
