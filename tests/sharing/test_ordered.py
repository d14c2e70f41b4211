"""Windows and maps: exact for every map and table, the same bytes everywhere, and small where neighbours are alike."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.errors import PackageError, RecordError
from featureloop.core.types import Bag, UInt8
from featureloop.learner.assembly import counted_form, plain_form
from featureloop.model.forms import parse_form
from featureloop.model.manifest import OrderTables, ReleasedForm
from featureloop.model.manifest_checks import CONTEXTS, ORDER_TOTAL, _check_ordered
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.ordered import lines_of
from tests.sharing.test_multiset import set_form

# Of all payloads of `test_payloads_are_the_same_on_every_machine`.
PAYLOADS = "cd7afb9a6877293ba73d1de464da877e5d00bbbec6f7167296b831a21144e66e"
SEEDS = st.integers(0, 2**32 - 1)
LEVELS = st.lists(st.integers(2, 256), min_size=1, max_size=6)
GRID = 8


def ordered_form(text: str, levels: list[int], *, seed: int = 0) -> ReleasedForm:
    """A form that keeps an order, whose tables are drawn by lot."""
    rng = np.random.default_rng(seed)

    def table(n: int) -> tuple[int, ...]:
        drawn = rng.integers(1, 1 << 10, n) ** 3
        found = 1 + drawn * (ORDER_TOTAL - n) // drawn.sum()
        found[0] += ORDER_TOTAL - found.sum()
        return tuple(found.tolist())

    weights = tuple(map(tuple, rng.integers(-300, 301, (len(levels), 5)).tolist()))
    tables = OrderTables(weights, tuple(tuple(table(n) for _ in range(CONTEXTS)) for n in levels))
    return replace(set_form(levels, seed=seed), anonymizer=text, ordered=tables)


def drawn_maps(form: ReleasedForm, units: int, side: int, seed: int) -> UInt8:
    """Symbols of so many units whose neighbours are alike, in canonical order."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-1, 2, (units, side, side, form.channels)).cumsum(axis=1).cumsum(axis=2)
    values = np.clip(steps + rng.integers(0, 256, (units, 1, 1, form.channels)), 0, np.array(form.levels) - 1)
    bag = Bag(values.reshape(-1, form.channels).astype(np.uint8), np.zeros((units * side**2, 0), np.uint8))
    return canonical_order(bag, unit=max(1, side**2)).symbols


@settings(max_examples=60, deadline=None)
@given(LEVELS, st.integers(0, 9), st.sampled_from([0, 2, 3, 5]), st.integers(1, 3), SEEDS)
def test_windows_and_maps_come_back_exactly(levels: list[int], units: int, window: int, mix: int, seed: int) -> None:
    text = f"window={window}" if window else "none" if mix == 1 else f"none mix={mix}"
    form = ordered_form(text, levels, seed=seed)
    symbols = drawn_maps(form, units if window else mix, window or units, seed)
    payload = codec.encode_features(symbols, form)
    np.testing.assert_array_equal(codec.decode_features(payload, form, max_vectors=len(symbols)), symbols)
    assert codec.encode_features(symbols, form) == payload


@settings(max_examples=30, deadline=None)
@given(LEVELS, st.integers(1, 40), SEEDS)
def test_symbols_without_any_likeness_come_back_too(levels: list[int], units: int, seed: int) -> None:
    form, rng = ordered_form("window=2", levels, seed=seed), np.random.default_rng(seed)
    drawn = np.stack([rng.integers(0, n, 4 * units) for n in levels], axis=1).astype(np.uint8)
    symbols = canonical_order(Bag(drawn, np.zeros((4 * units, 0), np.uint8)), unit=4).symbols
    payload = codec.encode_features(symbols, form)
    np.testing.assert_array_equal(codec.decode_features(payload, form, max_vectors=4 * units), symbols)


def test_payloads_are_the_same_on_every_machine() -> None:
    """Bit for bit what they were when the format was written."""
    told = hashlib.sha256()
    for i, (text, levels) in enumerate(
        [("none", [255, 35, 3, 3]), ("window=2", [69, 11, 9, 5]), ("window=4", [2, 256])]
    ):
        form = ordered_form(text, levels, seed=i)
        side = form.form.window or GRID
        symbols = drawn_maps(form, (GRID // side) ** 2, side, i)
        told.update(codec.encode_features(symbols, form))
    assert told.hexdigest() == PAYLOADS


def smooth(seed: int, levels: tuple[int, ...]) -> UInt8:
    """A map of 16 x 16 whose neighbours are alike, uint8 (256, C)."""
    rng = np.random.default_rng(seed)
    waves = [np.add.outer(*np.sin(np.linspace(0, rng.uniform(1, 4), 16) + rng.uniform(0, 6, (2, 1)))) for _ in levels]
    values = np.stack(waves, axis=-1) + rng.normal(0, 0.05, (16, 16, len(levels)))
    top = np.array(levels) - 1
    return np.clip(np.rint((values + 2) / 4 * top), 0, top).reshape(256, -1).astype(np.uint8)


@pytest.mark.parametrize(("text", "most"), [("none", 0.5), ("window=4", 0.6), ("window=2", 0.7)])
def test_tables_of_founding_frames_make_maps_small_whose_neighbours_are_alike(text: str, most: float) -> None:
    """Against the same symbols coded one by one, under tables of the same frames."""
    plain = plain_form(parse_form(text), (33, 9, 5), (), flags=4)
    side = plain.form.window or 16
    at = np.arange(256).reshape(16 // side, side, 16 // side, side).transpose(0, 2, 1, 3).reshape(-1)
    rows = np.zeros((256, 4), np.uint8)
    bags = [canonical_order(Bag(smooth(i, plain.levels)[at], rows), unit=side**2) for i in range(30)]
    fitted = counted_form(plain, bags[:24], [])
    assert fitted.ordered is not None
    _check_ordered(fitted, fitted.ordered)
    one_by_one = replace(fitted, bag=None, ordered=None)
    small, large = (
        np.mean([len(codec.encode_features(b.symbols, f, padded=False)) for b in bags[24:]])
        for f in (fitted, one_by_one)
    )
    assert small < most * large
    assert codec.codec_of(fitted) == "map/1"
    assert codec.codecs_of(one_by_one) == ("uniform/2", "uniform/1")


@pytest.mark.parametrize(("text", "n"), [("window=2", 10), ("none", 10), ("none mix=2", 9)])
def test_vectors_that_are_no_whole_units_are_refused(text: str, n: int) -> None:
    form = ordered_form(text, [8, 8])
    with pytest.raises(RecordError, match="no whole number of units"):
        codec.encode_features(np.zeros((n, 2), np.uint8), form)


def test_windows_that_are_not_in_order_are_refused() -> None:
    form = ordered_form("window=2", [8, 8])
    symbols = np.repeat(np.array([[3, 0], [1, 7]], np.uint8), 4, axis=0)
    with pytest.raises(RecordError, match="canonical order"):
        codec.encode_features(symbols, form)


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_what_a_row_is_expected_from_was_decoded_before_it(side: int) -> None:
    known = {0}
    for line in lines_of(side):
        assert set(line.beside.reshape(-1).tolist()) <= known
        known |= set(line.at.tolist())
    assert known == set(range(side * side))


TABLES = ordered_form("none", [5, 3]).ordered
assert TABLES is not None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"weights": TABLES.weights[:1]}, "5 weights"),
        ({"weights": (*TABLES.weights[:1], (1 << 21, 0, 0, 0, 0))}, "5 weights"),
        ({"differences": TABLES.differences[:1]}, "10 tables"),
        ({"differences": (TABLES.differences[0], TABLES.differences[0])}, "10 tables"),
        ({"differences": (TABLES.differences[0], ((65_534, 1, 2),) * 10)}, "sum to 65536"),
        ({"differences": (TABLES.differences[0], ((65_536, 0, 0),) * 10)}, "sum to 65536"),
    ],
)
def test_tables_that_do_not_fit_are_refused(given: dict[str, object], reason: str) -> None:
    form = ordered_form("none", [5, 3])
    assert form.ordered is not None
    _check_ordered(form, form.ordered)
    with pytest.raises(PackageError, match=reason):
        _check_ordered(form, replace(form.ordered, **given))  # type: ignore[arg-type]  # Of its own fields.
