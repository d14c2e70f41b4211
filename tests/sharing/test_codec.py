"""The codec: exact for every symbol, bounded in its error, and calm with hostile payloads."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing import codec
from featureloop.sharing.payload import Ladder
from featureloop.sharing.record import MAX_PAYLOAD

SEEDS = st.integers(0, 2**32 - 1)
FLAGS = ReleasedForm("set", 0, (), (), (), (), (3072, 512, 512))


def form(levels: list[int], *, seed: int = 0, low: float = -1.0, high: float = 1.0) -> ReleasedForm:
    rng = np.random.default_rng(seed)
    c = len(levels)
    tables = tuple(codec.frequency_table(np.floor(rng.exponential(50.0, n))) for n in levels)
    return ReleasedForm("set", c, (low,) * c, (high,) * c, tuple(levels), tables)


def symbols_of(released: ReleasedForm, n: int, seed: int) -> UInt8:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, k, n) for k in released.levels], axis=1).astype(np.uint8)


def sealed(n: int, words: bytes) -> bytes:
    """A payload with a valid checksum, whatever it holds."""
    body = struct.pack("<I", n) + words
    return body + struct.pack("<I", zlib.crc32(body))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 256), min_size=1, max_size=6), st.integers(0, 300), SEEDS)
def test_symbols_come_back_exactly(levels: list[int], n: int, seed: int) -> None:
    released = form(levels, seed=seed)
    symbols = symbols_of(released, n, seed)
    payload = codec.encode_features(symbols, released)
    decoded = codec.decode_features(payload, released, max_vectors=n)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, symbols)
    assert codec.encode_features(symbols, released) == payload


def test_a_whole_grid_of_rare_symbols_comes_back_exactly() -> None:
    levels = 256
    table = codec.frequency_table(np.eye(levels)[0] * 1e9)
    released = ReleasedForm("set", 2, (-1.0,) * 2, (1.0,) * 2, (levels,) * 2, (table,) * 2)
    symbols = np.full((4096, 2), 255, np.uint8)
    decoded = codec.decode_features(codec.encode_features(symbols, released), released, max_vectors=4096)
    np.testing.assert_array_equal(decoded, symbols)


def test_likely_symbols_cost_about_their_entropy() -> None:
    table = codec.frequency_table(np.array([900.0, 60.0, 30.0, 10.0]))
    p = np.array(table) / 4096
    released = ReleasedForm("set", 1, (-1.0,), (1.0,), (4,), (table,))
    symbols = np.random.default_rng(0).choice(4, (20_000, 1), p=p).astype(np.uint8)
    ideal = -np.log2(p[symbols]).sum() / 8
    assert len(codec.encode_features(symbols, released, padded=False)) == pytest.approx(ideal, rel=0.01)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8), elements=st.floats(0, 1, width=32)
    ),
    st.integers(2, 256),
    st.floats(-10, 10),
    st.floats(0.01, 100),
)
def test_dequantized_values_are_at_most_half_a_step_off(unit: Any, levels: int, low: float, span: float) -> None:
    released = form([levels] * unit.shape[1], low=low, high=low + span)
    values = (low + unit.astype(np.float64) * span).astype(np.float32)
    error = np.abs(codec.dequantize(codec.quantize(values, released), released) - values)
    half = span / (levels - 1) / 2
    assert error.max() <= half + 4 * np.spacing(np.float32(abs(low) + span))


def test_quantizing_what_was_dequantized_changes_nothing() -> None:
    released = form([2, 3, 8, 256])
    symbols = symbols_of(released, 100, 1)
    np.testing.assert_array_equal(codec.quantize(codec.dequantize(symbols, released), released), symbols)


def test_the_exact_bounds_are_the_first_and_the_last_symbol() -> None:
    released = form([8, 256])
    edges = np.array([[-1, -1], [1, 1]], np.float32)
    np.testing.assert_array_equal(codec.quantize(edges, released), [[0, 0], [7, 255]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.01, -1.01, 3e38])
def test_a_value_that_is_not_finite_or_out_of_bounds_is_refused(bad: float) -> None:
    values = np.zeros((5, 3), np.float32)
    values[3, 1] = bad
    with pytest.raises(RecordError, match=r"NaN|outside"):
        codec.quantize(values, form([8, 8, 8]))


@pytest.mark.parametrize("shape", [(5, 2), (5, 4), (3,), (1, 5, 3)])
def test_values_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RecordError, match="expected"):
        codec.quantize(np.zeros(shape, np.float32), form([8, 8, 8]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 200), SEEDS)
def test_rows_of_any_width_come_back_exactly(width: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.random((n, width)) < rng.choice([0.0, 0.5, 1.0], (n, 1))).astype(np.uint8)
    payload = codec.encode_rows(rows, FLAGS)
    decoded = codec.decode_rows(payload, FLAGS, width=width, max_vectors=n)
    assert decoded.shape == (n, width)
    np.testing.assert_array_equal(decoded, rows)
    assert codec.encode_rows(rows, FLAGS) == payload


@given(
    hnp.arrays(
        np.int64, st.integers(2, 256), elements=st.one_of(st.just(0), st.integers(0, 10), st.integers(0, 10**12))
    ),
)
def test_a_frequency_table_sums_to_4096_with_every_entry_positive(counts: Any) -> None:
    table = codec.frequency_table(counts)
    assert sum(table) == codec.TOTAL == 4096
    assert min(table) >= 1
    assert len(table) == len(counts)


@pytest.mark.parametrize("levels", [2, 3, 8, 255, 256])
def test_a_dominating_symbol_leaves_room_for_all_others(levels: int) -> None:
    counts = np.zeros(levels)
    counts[1] = 1e15
    table = codec.frequency_table(counts)
    assert sum(table) == 4096
    assert min(table) >= 1
    assert max(table) == table[1] >= 4096 - 2 * levels


def test_a_payload_of_more_vectors_than_the_grid_has_is_refused() -> None:
    released = form([8, 8])
    payload = codec.encode_features(symbols_of(released, 17, 0), released)
    with pytest.raises(RecordError, match="17 vectors"):
        codec.decode_features(payload, released, max_vectors=16)
    with pytest.raises(RecordError, match="4294967295 vectors"):
        codec.decode_features(sealed(2**32 - 1, b""), released, max_vectors=16)


def test_words_beyond_what_is_declared_are_refused() -> None:
    released = form([8, 8])
    words = codec.encode_features(symbols_of(released, 16, 0), released)[4:-4]
    with pytest.raises(RecordError, match="more than it declares"):
        codec.decode_features(sealed(8, words), released, max_vectors=16)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), SEEDS)
def test_every_payload_has_a_size_of_its_ladder_and_one_without_padding_is_still_read(n: int, seed: int) -> None:
    released = form([8, 3, 256], seed=seed)
    symbols = symbols_of(released, n, seed)
    rows = (np.random.default_rng(seed).random((n, 16)) < 0.3).astype(np.uint8)
    for ladder, encode, values, decode in (
        (codec.FEATURES, codec.encode_features, symbols, lambda p: codec.decode_features(p, released, max_vectors=n)),
        (
            codec.ROWS,
            codec.encode_rows,
            rows,
            lambda p: codec.decode_rows(p, released, width=16, max_vectors=n),
        ),
    ):
        plain, padded = encode(values, released, padded=False), encode(values, released)
        assert len(padded) == ladder.rung(len(plain), n) == ladder.rung(len(padded), n)
        np.testing.assert_array_equal(decode(plain), values)
        np.testing.assert_array_equal(decode(padded), values)


@pytest.mark.parametrize("ladder", [codec.FEATURES, codec.ROWS, Ladder(2**0.5, least=140)])
def test_the_ladder_costs_at_most_its_ratio_and_has_few_sizes(ladder: Ladder) -> None:
    found = [ladder.rung(n) for n in range(1, 1 << 16)]
    for n, size in enumerate(found, start=1):
        assert size % 4 == 0
        assert n <= size < max(ladder.least + 1, ladder.ratio * n + 4)
    assert found == sorted(found)
    assert len(set(found)) <= 1 + np.ceil(np.log(2**16 / ladder.least) / np.log(ladder.ratio))


@pytest.mark.parametrize("ladder", [codec.FEATURES, codec.ROWS])
def test_the_largest_payload_is_on_the_ladder(ladder: Ladder) -> None:
    assert ladder.rung(MAX_PAYLOAD) == MAX_PAYLOAD


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_padding_that_holds_something_is_refused(where: str) -> None:
    """Under a right checksum too: nothing can be hidden in it."""
    released = form([8, 8])
    symbols = symbols_of(released, 100, 1)
    plain, padded = (codec.encode_features(symbols, released, padded=p) for p in (False, True))
    room = range(len(plain) - 4, len(padded) - 4)
    assert len(room) >= 8
    body = bytearray(padded[4:-4])
    body[{"first": room[0], "middle": room[len(room) // 2], "last": room[-1]}[where] - 4] = 1
    with pytest.raises(RecordError):
        codec.decode_features(sealed(100, bytes(body)), released, max_vectors=100)


@pytest.mark.parametrize("words", [1, -1, 100])
def test_padding_to_another_size_is_refused(words: int) -> None:
    released = form([8, 8])
    padded = codec.encode_features(symbols_of(released, 100, 1), released)
    body = padded[4:-4] + bytes(4 * words) if words > 0 else padded[4 : -4 + 4 * words]
    with pytest.raises(RecordError, match="padded to"):
        codec.decode_features(sealed(100, body), released, max_vectors=100)


FORM = form([8, 3, 256], seed=3)
FEATURES = codec.encode_features(symbols_of(FORM, 16, 5), FORM)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 60), st.integers(1, 11))
def test_rows_with_coded_values_come_back_where_a_flag_is_set(seed: int, n: int, flags: int) -> None:
    rng = np.random.default_rng(seed)
    table = codec.frequency_table(rng.integers(0, 50, 256))
    coded_form = replace(FLAGS, coded_frequencies=table, flags=flags)
    rows = (rng.random((n, flags + 4)) < 0.3).astype(np.uint8)
    rows[:, flags:] = rng.integers(0, 256, (n, 4)) * rows[:, :flags].any(axis=1, keepdims=True)
    payload = codec.encode_rows(rows, coded_form)
    decoded = codec.decode_rows(payload, coded_form, width=flags + 4, max_vectors=n)
    np.testing.assert_array_equal(decoded, rows)
    assert codec.encode_rows(decoded, coded_form) == payload


def test_a_flag_that_is_none_is_refused() -> None:
    with pytest.raises(RecordError, match="neither 0 nor 1"):
        codec.encode_rows(np.array([[0, 2]], np.uint8), FLAGS)


SOME_ROWS = codec.encode_rows((np.random.default_rng(2).random((16, 16)) < 0.5).astype(np.uint8), FLAGS)


@given(st.data())
def test_truncated_and_bit_flipped_payloads_are_refused(data: st.DataObject) -> None:
    payload = data.draw(st.sampled_from([FEATURES, SOME_ROWS]))
    damaged = bytearray(payload)
    if data.draw(st.booleans()):
        damaged[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del damaged[data.draw(st.integers(0, len(payload) - 1)) :]
    with pytest.raises(RecordError):
        codec.decode_features(bytes(damaged), FORM, max_vectors=16)
    with pytest.raises(RecordError):
        codec.decode_rows(bytes(damaged), FLAGS, width=16, max_vectors=16)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20), st.binary(max_size=200))
def test_random_words_under_a_valid_checksum_are_refused_or_give_symbols_within_their_levels(
    n: int, words: bytes
) -> None:
    payload = sealed(n, words)
    try:
        symbols = codec.decode_features(payload, FORM, max_vectors=16)
        assert symbols.shape == (n, 3)
        assert (symbols < np.array(FORM.levels)).all()
    except RecordError:
        pass
    try:
        rows = codec.decode_rows(payload, FLAGS, width=13, max_vectors=16)
        assert rows.shape == (n, 13)
        assert rows.max(initial=0) <= 1
    except RecordError:
        pass
