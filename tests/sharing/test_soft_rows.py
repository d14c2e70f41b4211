"""Rows of probabilities: every byte comes back, in few bytes where they are those of a recognizer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.boxes import Box, boxes_to_rows
from featureloop.core.errors import RecordError
from featureloop.core.types import Recognition, Task, UInt8
from featureloop.sharing import codec, soft_rows
from tests.sharing.test_multiset import set_form

SEEDS = st.integers(0, 2**32 - 1)


def rows_like(kind: str, shape: tuple[int, int], flags: int, seed: int) -> tuple[UInt8, UInt8]:
    """Rows of probabilities, and what was recognized, which need not agree with them."""
    rng = np.random.default_rng(seed)
    soft = {
        "any": rng.integers(0, 256, shape),
        "sure": rng.choice([0, 255], shape),
        "none": np.zeros(shape),
        "smooth": np.clip(rng.normal(size=(shape[0], 1)) * 60 + rng.normal(size=shape) * 4, 0, 255),
    }[kind].astype(np.uint8)
    soft[:, flags:] *= soft[:, :flags].any(axis=1, keepdims=True)
    return soft, (rng.random(shape) < 0.5).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["any", "sure", "none", "smooth"]),
    st.integers(0, 60),
    st.sampled_from([(16, 16), (1, 5), (5, 5), (19, 19), (2, 6), (9, 9)]),
    st.booleans(),
    SEEDS,
)
def test_they_come_back_exactly(kind: str, n: int, widths: tuple[int, int], bagged: bool, seed: int) -> None:
    flags, width = widths
    form = set_form([5, 3], flags=flags, seed=1)
    form = form if bagged else replace(form, bag=None)
    soft, hard = rows_like(kind, (n, width), flags, seed)
    payload = codec.encode_soft_rows(soft, form, before=hard)
    back = codec.decode_soft_rows(payload, form, before=hard)
    np.testing.assert_array_equal(back, soft)
    assert codec.encode_soft_rows(back, form, before=hard) == payload
    assert len(payload) <= 2 * (16 + 2 * soft.size) + 2 * max(16, *(codec.ladders_of(form)[1].least,))


@pytest.mark.parametrize("hard", [False, True])
def test_every_table_is_of_whole_numbers_that_sum_to_4096_with_none_left_out(*, hard: bool) -> None:
    for near in range(soft_rows.LEVELS + 1):
        table = soft_rows._table(hard, near)
        assert (sum(table), len(table)) == (4096, 256)
        assert min(table) >= 1


def test_probabilities_of_a_smooth_map_take_less_than_half_a_byte_each() -> None:
    grid, centers = 20, np.linspace(0.05, 0.95, 80)
    far = np.hypot(*np.meshgrid(centers - 0.4, centers - 0.6)) - 0.2
    cells = 1 / (1 + np.exp(far * 25))
    rows = cells.reshape(grid, 4, grid, 4).transpose(0, 2, 1, 3).reshape(grid * grid, 16)
    found = Recognition(Task.SEGMENTATION, rows.astype(np.float32))
    soft, form = found.soft_targets(), set_form([5, 3], flags=16, seed=1)
    payload = codec.encode_soft_rows(soft, form, before=found.targets(), padded=False)
    assert len(payload) < 0.4 * soft.size
    assert np.abs(soft / 255 - found.probabilities).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(soft >= 128, found.targets())


def test_a_softened_detection_keeps_its_boxes_and_holds_no_distance_where_there_probably_is_none() -> None:
    boxes = (Box(0.5, 0.4, 0.3, 0.2, 1), Box(0.2, 0.8, 0.2, 0.2, 0))
    rows = boxes_to_rows(boxes, labels=2, grid=10)
    scores = np.where(rows[:, :2] == 1, np.float32(0.4), np.float32(0.02))
    found = Recognition(Task.DETECTION, scores, (rows[:, 2:] / 255).astype(np.float32))
    soft = found.soft_targets()
    np.testing.assert_array_equal(soft[:, :2], 102 * rows[:, :2])
    np.testing.assert_array_equal(soft[:, 2:], rows[:, 2:])
    assert found.targets().sum() == 0


def test_rows_of_another_number_and_distances_without_a_probability_are_refused() -> None:
    form = set_form([5, 3], flags=2, seed=1)
    soft, hard = rows_like("any", (10, 6), 2, 1)
    payload = codec.encode_soft_rows(soft, form, before=hard)
    with pytest.raises(RecordError):
        codec.decode_soft_rows(payload, form, before=hard[1:])
    with pytest.raises(RecordError, match="10 rows"):
        codec.decode_soft_rows(payload, form, before=np.concatenate([hard, hard]))
    with pytest.raises(RecordError, match="for what was recognized"):
        codec.encode_soft_rows(soft, form, before=hard[1:])
    soft[0] = [0, 0, 1, 2, 3, 4]
    with pytest.raises(RecordError, match="without a probability"):
        codec.encode_soft_rows(soft, form, before=hard)
