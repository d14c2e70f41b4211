"""Anonymizers: where a vector stood can't be read from what is released."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featureloop.core.errors import PolicyError
from featureloop.core.types import Bag
from featureloop.sharing.anonymize import canonical_order, pool, release_vectors

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def bags(draw: st.DrawFn) -> Bag:
    n = draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(SEEDS))
    # Few levels and channels make equal rows common, with equal and with different targets.
    levels = draw(st.sampled_from([1, 2, 256]))
    symbols = rng.integers(0, levels, (n, draw(st.integers(1, 4)))).astype(np.uint8)
    rows = rng.integers(0, 2, (2, n, draw(st.integers(1, 3)))).astype(np.uint8)
    return Bag(symbols, rows[0], rows[1] if draw(st.booleans()) else None)


def rows_of(bag: Bag) -> list[tuple[int, ...]]:
    parts = [bag.symbols, bag.recognized] + ([] if bag.changed is None else [bag.changed])
    return [tuple(row) for row in np.concatenate(parts, axis=1).tolist()]


def permuted(bag: Bag, order: Any) -> Bag:
    return Bag(bag.symbols[order], bag.recognized[order], None if bag.changed is None else bag.changed[order])


@given(bags(), SEEDS)
def test_permuting_the_positions_leaves_the_canonical_order_bit_identical(bag: Bag, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(bag.symbols))
    one, other = canonical_order(bag), canonical_order(permuted(bag, order))
    assert one.symbols.tobytes() == other.symbols.tobytes()
    assert one.recognized.tobytes() == other.recognized.tobytes()
    assert (one.changed is None) == (other.changed is None) == (bag.changed is None)
    if one.changed is not None and other.changed is not None:
        assert one.changed.tobytes() == other.changed.tobytes()


@given(bags())
def test_rows_of_targets_stay_with_their_vectors_and_the_order_is_that_of_their_values(bag: Bag) -> None:
    assert rows_of(canonical_order(bag)) == sorted(rows_of(bag))


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 5)),
        elements=st.floats(-1, 1, width=32),
    ),
    SEEDS,
)
def test_the_pooled_vector_is_bit_identical_under_permutation(vectors: Any, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(vectors))
    assert pool(vectors).tobytes() == pool(vectors[order]).tobytes()


def test_the_pooled_vector_is_each_channels_mean_and_standard_deviation() -> None:
    vectors = np.random.default_rng(0).uniform(-1, 1, (100, 6)).astype(np.float32)
    expected = np.concatenate([vectors.mean(0), vectors.std(0)])[None]
    assert pool(vectors).dtype == np.float32
    np.testing.assert_allclose(pool(vectors), expected, atol=1e-6)


def test_a_form_is_released_by_name_and_an_unknown_one_is_refused() -> None:
    vectors = np.random.default_rng(0).uniform(-1, 1, (9, 2)).astype(np.float32)
    assert release_vectors(vectors, "pool").shape == (1, 4)
    np.testing.assert_array_equal(release_vectors(vectors, "set"), vectors)
    with pytest.raises(PolicyError, match=r"'grid' is unknown.*pool, set"):
        release_vectors(vectors, "grid")
