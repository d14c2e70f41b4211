"""One pooled vector as bytes: exact, short, of a few sizes, and calm with hostile payloads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.model.manifest import PooledTables, ReleasedForm
from featureloop.sharing import codec

SEEDS = st.integers(0, 2**32 - 1)
LEVELS = st.lists(st.integers(2, 255), min_size=1, max_size=120)
CLASSES = 5


def pooled_form(levels: list[int], *, seed: int = 0, usual: tuple[int, int] = (24, 4)) -> ReleasedForm:
    """A pooled form whose levels stand for values within half a step of their middles."""
    rng = np.random.default_rng(seed)
    c = len(levels)
    tables = tuple(codec.frequency_table(np.floor(rng.exponential(50.0, n))) for n in levels)
    means = tuple(
        tuple(np.clip(-1 + 2 * (np.arange(n) + rng.uniform(-0.45, 0.45, n)) / (n - 1), -1, 1).tolist()) for n in levels
    )
    return ReleasedForm(
        "pool", c, (-1.0,) * c, (1.0,) * c, tuple(levels), tables, flags=CLASSES, pooled=PooledTables(means, usual)
    )


@pytest.mark.parametrize("flags", [1, 2, 5, 8, 9, 16, 21])
def test_rows_of_any_number_of_flags_come_back_exactly(flags: int) -> None:
    form = replace(pooled_form([3, 5]), flags=flags)
    rng = np.random.default_rng(flags)
    for _ in range(30):
        row = rng.integers(0, 2, (1, flags)).astype(np.uint8)
        coded = codec.encode_rows(row, form)
        np.testing.assert_array_equal(codec.decode_rows(coded, form, width=flags, max_vectors=1), row)


def drawn(form: ReleasedForm, seed: int) -> tuple[UInt8, UInt8]:
    """A vector's symbols uint8 (1, C), and a row of classes uint8 (1, K)."""
    rng = np.random.default_rng(seed)
    symbols = np.array([[rng.integers(n) for n in form.levels]], np.uint8)
    return symbols, np.eye(CLASSES, dtype=np.uint8)[rng.integers(CLASSES)][None]


@settings(max_examples=60, deadline=None)
@given(LEVELS, SEEDS, st.booleans())
def test_a_vector_and_its_row_come_back_exactly(levels: list[int], seed: int, lowest: bool) -> None:
    form = pooled_form(levels, seed=seed)
    symbols, row = drawn(form, seed)
    if lowest:
        symbols[:] = 0
    payload = codec.encode_features(symbols, form)
    np.testing.assert_array_equal(codec.decode_features(payload, form, max_vectors=1), symbols)
    assert codec.encode_features(symbols, form) == payload
    coded = codec.encode_rows(row, form, symbols=symbols)
    found = codec.decode_rows(coded, form, width=CLASSES, max_vectors=1, symbols=symbols)
    np.testing.assert_array_equal(found, row)
    soft = np.random.default_rng(seed).integers(0, 256, row.shape).astype(np.uint8)
    softened = codec.encode_soft_rows(soft, form, before=row)
    np.testing.assert_array_equal(codec.decode_soft_rows(softened, form, before=row), soft)


def test_a_payload_takes_four_bytes_more_than_its_entropy_at_most() -> None:
    form = pooled_form([3, 5, 9, 17] * 24, seed=2)
    p = [np.array(table) / 4096 for table in form.frequencies]
    rng = np.random.default_rng(3)
    spent = []
    for _ in range(200):
        symbols = np.array([[rng.choice(len(q), p=q) for q in p]], np.uint8)
        ideal = -sum(np.log2(q[s]) for q, s in zip(p, symbols[0], strict=True)) / 8
        spent.append(len(codec.encode_features(symbols, form, padded=False)) - ideal)
    assert np.mean(spent) < 4.0
    assert max(spent) < 4.6


def test_payloads_have_the_usual_size_or_one_of_a_few_larger_ones() -> None:
    form = pooled_form([7] * 60, seed=1, usual=(20, 4))
    sizes = {len(codec.encode_features(drawn(form, i)[0], form)) for i in range(200)}
    assert sizes <= {29, 40, 57}
    assert len(codec.encode_rows(drawn(form, 0)[1], form)) in (4, 6)


@settings(max_examples=60, deadline=None)
@given(LEVELS, SEEDS)
def test_values_are_at_most_a_step_off_and_stay_in_their_level(levels: list[int], seed: int) -> None:
    form = pooled_form(levels, seed=seed)
    values = np.random.default_rng(seed).uniform(-1, 1, (1, len(levels))).astype(np.float32)
    symbols = codec.quantize(values, form)
    found = codec.dequantize(symbols, form)
    assert (np.abs(found - values) <= 2 / (np.array(levels) - 1) + 1e-6).all()
    np.testing.assert_array_equal(codec.quantize(found, form), symbols)


def test_two_vectors_are_refused() -> None:
    form = pooled_form([5, 5])
    with pytest.raises(RecordError, match="one vector and one row, not 2"):
        codec.encode_features(np.zeros((2, 2), np.uint8), form)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "truncated"),
        (bytes(24), "truncated"),
        (b"\x01\x02\x03\x04", "padded to 4"),
        (b"\x01" + bytes(40), "padded to 41"),
        (b"\xff" * 24, "checksum"),
    ],
)
def test_a_payload_that_is_none_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        codec.decode_features(payload, pooled_form([3, 3]), max_vectors=1)


def test_every_flipped_bit_and_every_cut_is_refused() -> None:
    form = pooled_form([9] * 40, seed=5)
    payload = codec.encode_features(drawn(form, 5)[0], form)
    hurt = [payload[:k] for k in range(len(payload))]
    for k in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[k // 8] ^= 1 << k % 8
        hurt.append(bytes(flipped))
    for bad in hurt:
        with pytest.raises(RecordError):
            codec.decode_features(bad, form, max_vectors=1)


def test_a_package_without_pooled_tables_is_read_as_before() -> None:
    form = pooled_form([5] * 6)
    older = replace(form, pooled=None)
    assert codec.codec_of(form) == "pool/1"
    assert codec.codecs_of(form) == ("pool/1",)
    assert codec.codecs_of(older) == ("uniform/2", "uniform/1")
    symbols, _ = drawn(form, 1)
    payload = codec.encode_features(symbols, older)
    np.testing.assert_array_equal(codec.decode_features(payload, older, max_vectors=1), symbols)
    np.testing.assert_allclose(codec.dequantize(symbols, older), -1 + symbols * 0.5)
