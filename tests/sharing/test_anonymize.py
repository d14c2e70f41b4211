"""Anonymizers: where a vector stood can't be read from what is released."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featureloop.core.errors import InputError
from featureloop.core.types import Bag
from featureloop.model.manifest import ReleasedForm
from featureloop.model.pooling import BOUNDS, pooled_bounds
from featureloop.sharing.anonymize import canonical_order, pool, release_vectors

SEEDS = st.integers(0, 2**32 - 1)
EVERY = tuple(BOUNDS)


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
def test_the_pooled_vector_is_bit_identical_under_permutation_and_within_its_bounds(vectors: Any, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(vectors))
    pooled = pool(vectors, EVERY)
    assert pooled.tobytes() == pool(vectors[order], EVERY).tobytes()
    low, high = pooled_bounds(EVERY, vectors.shape[1])
    assert (pooled >= np.float32(low)).all()
    assert (pooled <= np.float32(high)).all()


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_bounds_are_reached_exactly_enough_to_be_coded(value: float) -> None:
    """Vectors at the bounds, and half of them at each: where float arithmetic could step over."""
    low, high = pooled_bounds(EVERY, 1)
    for vectors in (np.full((7, 1), value, np.float32), np.array([[-1.0], [1.0]] * 9, np.float32)):
        pooled = pool(vectors, EVERY)[0]
        assert (np.float32(low) <= pooled).all()
        assert (pooled <= np.float32(high)).all()


@settings(deadline=None, max_examples=20)
@given(st.permutations(EVERY), st.integers(1, len(EVERY)), SEEDS)
def test_training_in_torch_pools_as_the_device_does(names: list[str], n: int, seed: int) -> None:
    torch = pytest.importorskip("torch")
    from featureloop.model.founding_features import pool_map

    z = np.random.default_rng(seed).uniform(-1, 1, (2, 5, 4, 4)).astype(np.float32)
    learned = pool_map(torch.from_numpy(z), names[:n]).numpy()
    for one, other in zip(z, learned, strict=True):
        np.testing.assert_allclose(pool(one.reshape(5, -1).T, names[:n]), other, atol=1e-5)


def test_a_generalized_mean_is_the_cubes_root_and_lies_above_the_mean() -> None:
    """Oracle: the norm of order 3 of numpy, on values shifted to [0, 1]."""
    vectors = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
    norm = np.linalg.norm((vectors.astype(np.float64) + 1) / 2, ord=3, axis=0) / 50 ** (1 / 3)
    found = pool(vectors, ["generalized-mean"])
    np.testing.assert_allclose(found[0], 2 * norm - 1, atol=1e-6)
    assert (found > pool(vectors, ["mean"])).all()


def test_a_slope_is_finite_where_all_values_are_equal() -> None:
    torch = pytest.importorskip("torch")
    from featureloop.model.founding_features import pool_map

    for value in (-3.0, -1.0, 0.0, 1.0):
        for precision in (torch.float32, torch.float16):
            z = torch.full((1, 2, 3, 3), value, dtype=precision, requires_grad=True)
            pool_map(z, EVERY).sum().backward()
            assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(
    ("pooling", "says"),
    [(("mean", "median"), "'median' is unknown; choose among mean,"), (("mean", "mean"), "'mean' is given twice")],
)
def test_an_unknown_or_repeated_statistic_is_named_with_the_choices(pooling: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        pool(np.zeros((2, 2), np.float32), pooling)


def test_the_pooled_vector_is_each_channels_mean_and_standard_deviation() -> None:
    vectors = np.random.default_rng(0).uniform(-1, 1, (100, 6)).astype(np.float32)
    expected = np.concatenate([vectors.mean(0), vectors.std(0)])[None]
    assert pool(vectors).dtype == np.float32
    np.testing.assert_allclose(pool(vectors), expected, atol=1e-6)


def test_recognition_works_on_what_a_form_pools_or_on_the_map() -> None:
    vectors = np.random.default_rng(0).uniform(-1, 1, (9, 2)).astype(np.float32)
    assert release_vectors(vectors, form("pool")).shape == (1, 4)
    assert release_vectors(vectors, form("pool", "deviation")).shape == (1, 2)
    for name in ("set", "none", "window=3", "set subset=2 mix=2 noise=1.0,clip=1.0"):
        np.testing.assert_array_equal(release_vectors(vectors, form(name)), vectors)
    with pytest.raises(InputError, match="'grid' is no released form"):
        release_vectors(vectors, form("grid"))


def form(anonymizer: str, *pooling: str) -> ReleasedForm:
    return ReleasedForm(anonymizer, 0, (), (), (), (), pooling=pooling)
