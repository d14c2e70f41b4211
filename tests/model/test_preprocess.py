"""From frames and masks to inputs and rows of targets, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featureloop.core.types import Bool
from featureloop.model.manifest import Preprocessing
from featureloop.model.preprocess import (
    cells_to_rows,
    label_to_targets,
    mask_to_targets,
    probability_map,
    resize_frame,
    rows_to_cells,
    to_input,
)

GRIDS = st.integers(1, 12)


@given(GRIDS.flatmap(lambda g: hnp.arrays(np.uint8, (4 * g, 4 * g), elements=st.integers(0, 1))))
def test_cells_and_rows_are_inverses(cells: Any) -> None:
    grid = len(cells) // 4
    rows = cells_to_rows(cells, grid)
    assert rows.shape == (grid**2, 16)
    np.testing.assert_array_equal(rows_to_cells(rows, grid), cells)
    np.testing.assert_array_equal(cells_to_rows(rows_to_cells(rows, grid), grid), rows)


def test_a_row_holds_its_positions_sub_cells_row_by_row() -> None:
    cells = np.arange(64, dtype=np.uint8).reshape(8, 8)
    rows = cells_to_rows(cells, 2)
    np.testing.assert_array_equal(rows[1], cells[:4, 4:].reshape(-1))
    np.testing.assert_array_equal(rows[2], cells[4:, :4].reshape(-1))


def rectangle(shape: tuple[int, int], rows: slice, columns: slice) -> Bool:
    mask = np.zeros(shape, np.bool_)
    mask[rows, columns] = True
    return mask


def test_a_rectangle_on_the_sub_cells_becomes_exactly_its_cells() -> None:
    # A grid of 4 has 16 x 16 sub-cells, here of 10 x 20 pixels.
    rows = mask_to_targets(rectangle((160, 320), slice(40, 90), slice(100, 220)), 4)
    expected = np.zeros((16, 16), np.uint8)
    expected[4:9, 5:11] = 1
    np.testing.assert_array_equal(rows_to_cells(rows, 4), expected)


@pytest.mark.parametrize(("bottom", "cell"), [(4, 0), (5, 1), (6, 1)])
def test_a_sub_cell_is_lesion_from_half_of_its_area(bottom: int, cell: int) -> None:
    rows = mask_to_targets(rectangle((160, 160), slice(bottom), slice(10)), 4)
    assert rows[0, 0] == cell
    assert rows.sum() == cell


@pytest.mark.parametrize("value", [False, True])
def test_a_uniform_mask_of_any_size_gives_uniform_rows(value: bool) -> None:
    rows = mask_to_targets(np.full((97, 131), value), 5)
    np.testing.assert_array_equal(rows, np.full((25, 16), value))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 53), (16, 16), (480, 640)])
def test_a_probability_map_has_the_frames_size_and_stays_in_range(height: int, width: int) -> None:
    rows = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    found = probability_map(rows, 4, height=height, width=width)
    assert found.shape == (height, width)
    assert found.dtype == np.float32
    assert rows.min() - 1e-6 <= found.min() <= found.max() <= rows.max() + 1e-6


def test_a_mask_comes_back_from_its_rows() -> None:
    mask = rectangle((160, 320), slice(40, 90), slice(100, 220))
    found = probability_map(mask_to_targets(mask, 4).astype(np.float32), 4, height=160, width=320) >= 0.5
    assert (found == mask).mean() > 0.99


def test_an_input_is_scaled_and_has_its_channels_first() -> None:
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 255, 127
    x = to_input(pixels, Preprocessing(16))
    assert (x.shape, x.dtype) == ((1, 3, 16, 16), np.float32)
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x[0].mean((1, 2)), [1.0, -127 / 128, 0.0], atol=1e-6)


def test_a_frame_of_the_right_size_is_not_resampled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert resize_frame(pixels, 16) is pixels
    assert resize_frame(pixels, 8).shape == (8, 8, 3)


def test_a_label_is_one_row_with_a_one_at_its_class() -> None:
    np.testing.assert_array_equal(label_to_targets(1, 3), [[0, 1, 0]])
