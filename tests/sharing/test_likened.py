"""Bags after others like them: exact whatever the other one is, shorter where it is like, calm with hostile streams."""

from __future__ import annotations

import hashlib
from typing import Any

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom
from test_multiset import LEVELS, SEEDS, drawn_bag, set_form

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing.multiset import MultisetModel
from featureloop.sharing.splits import FEW
from featureloop.sharing.urns import MOST, QUICK, TOTAL, UNIT, frequencies_of_each
from featureloop.sharing.walk import EQUAL_AT

# Of all streams of `test_streams_are_what_they_were_when_this_was_written`.
STREAMS = "7d8d13d419cddb7b2a6167177f053d108ec52a66c497781de446da62db0064c4"
MANY = [5, 4, 3, 2, *[3] * (EQUAL_AT + 4)]


def model_of(form: ReleasedForm) -> MultisetModel:
    assert form.bag is not None
    return MultisetModel(form.levels, form.bag.urns, form.frequencies)


def words_of(model: MultisetModel, symbols: UInt8, like: UInt8 | None) -> Any:
    coder = constriction.stream.stack.AnsCoder()
    model.encode(coder, symbols, like)
    return coder.get_compressed()


def back(model: MultisetModel, words: Any, n: int, like: UInt8 | None) -> UInt8:
    coder = constriction.stream.stack.AnsCoder(words)
    found = model.decode(coder, n, like)
    assert coder.is_empty()
    return found


def moved(symbols: UInt8, levels: list[int], seed: int, *, share: float = 0.3) -> UInt8:
    """A bag some of whose rows went on by a level, in order."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-1, 2, symbols.shape) * (rng.random(symbols.shape) < share)
    rows = np.clip(symbols + steps, 0, np.array(levels) - 1).astype(np.uint8)
    return rows[np.lexsort(rows.T[::-1])]


@settings(max_examples=80, deadline=None)
@given(LEVELS, st.integers(0, 300), st.integers(0, 400), SEEDS)
def test_a_bag_comes_back_exactly_after_any_other(levels: list[int], n: int, m: int, seed: int) -> None:
    form = set_form(levels, seed=seed)
    model, symbols = model_of(form), drawn_bag(form, n, seed).symbols
    for like in (drawn_bag(form, m, seed + 1).symbols, moved(symbols, levels, seed), symbols, symbols[:0]):
        words = words_of(model, symbols, like)
        np.testing.assert_array_equal(back(model, words, n, like), symbols)
        np.testing.assert_array_equal(words_of(model, symbols, like), words)


@pytest.mark.parametrize(
    ("levels", "n"), [(MANY, 0), (MANY, 1), (MANY, 2), (MANY, 700), ([69, 2], QUICK + 9), ([256] * 6, 300), ([2], 2500)]
)
def test_large_bags_and_many_channels_come_back_too(levels: list[int], n: int) -> None:
    form = set_form(levels)
    model, symbols = model_of(form), drawn_bag(form, n, 1).symbols
    for like in (moved(symbols, levels, 2), drawn_bag(form, 3 * n + 1, 3).symbols, drawn_bag(form, 1, 4).symbols):
        np.testing.assert_array_equal(back(model, words_of(model, symbols, like), n, like), symbols)


def test_streams_are_what_they_were_when_this_was_written() -> None:
    """Bit for bit: nothing in them depends on a processor or a library."""
    told = hashlib.sha256()
    for i, (levels, n) in enumerate([([69, 11, 9, 5], 400), (MANY, 300), ([256, 2], 1500), ([2], 1)]):
        form = set_form(levels, seed=i)
        symbols = drawn_bag(form, n, i).symbols
        words = words_of(model_of(form), symbols, moved(symbols, levels, i))
        told.update(words.astype("<u4").tobytes())
    assert told.hexdigest() == STREAMS


def test_what_is_like_the_last_takes_fewer_bits() -> None:
    """Of sets that move on a little from frame to frame, against the same by themselves; of others hardly more."""
    levels = [69, 11, 9, 5]
    model = model_of(set_form(levels))
    rng = np.random.default_rng(5)

    def scene() -> UInt8:
        at = rng.normal(np.array(levels) * rng.uniform(0.3, 0.7, 4), np.array(levels) / 9, (400, 4))
        rows = np.clip(np.rint(at), 0, np.array(levels) - 1).astype(np.uint8)
        return rows[np.lexsort(rows.T[::-1])]

    first = scene()
    second, other = moved(first, levels, 6), scene()
    alone, after, unlike = (32 * len(words_of(model, second, like)) for like in (None, first, other))
    assert after < 0.85 * alone
    assert unlike < 1.05 * alone


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_stream_is_refused_or_of_the_declared_shape(data: st.DataObject) -> None:
    levels = data.draw(st.sampled_from([[69, 11, 9, 5], MANY]))
    form = set_form(levels)
    model, symbols = model_of(form), drawn_bag(form, 100, 1).symbols
    like = data.draw(st.sampled_from([moved(symbols, levels, 1), drawn_bag(form, 300, 2).symbols, symbols[:1]]))
    words = words_of(model, symbols, like).copy()
    for _ in range(data.draw(st.integers(1, 4))):
        words[data.draw(st.integers(0, len(words) - 1))] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    words = words[: data.draw(st.integers(1, len(words)))]
    words[-1] |= 1
    try:
        found = model.decode(constriction.stream.stack.AnsCoder(words), 100, like)
    except RecordError:
        return
    assert found.shape == symbols.shape
    assert (found < np.array(levels)).all()
    assert words_of(model, found, like) is not None


def test_rows_that_are_not_in_order_are_refused() -> None:
    rows = np.array([[1, 0], [0, 7]], np.uint8)
    with pytest.raises(RecordError, match="canonical order"):
        words_of(model_of(set_form([8, 8])), rows, rows[:1])


def test_urns_that_are_looked_up_are_the_beta_binomial_distribution() -> None:
    n = np.array([1, 2, FEW, FEW + 1, 400, QUICK, 7])
    light, dark = np.array([1, 8, 16, 4096, 4096, 30, 3]), np.array([1, 200, 16, 3, 4096, 50, MOST])
    tables = frequencies_of_each(n, light, dark)
    assert (tables.sum(axis=1) == TOTAL).all()
    for table, count, a, b in zip(tables, n, light, dark, strict=True):
        own, rest = table[: count + 1], table[count + 1 :]
        assert own.min() >= 1
        assert not rest.any()
        exact = betabinom.pmf(np.arange(count + 1), count, a / UNIT, b / UNIT)
        assert (exact * np.log2(exact / (own / TOTAL))).sum() < 1e-3
