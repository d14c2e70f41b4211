"""Values as symbols, and symbols and rows of targets as bytes.

Values are quantized uniformly between a channel's exact bounds (beyond them
is an error, never a silent clip; of one pooled vector what it has along the
directions that the package names, as far as their bounds) and coded by an asymmetric numeral system
(Duda 2013, arXiv:1311.2540; the constriction library) under integer frequency
tables that the package carries, so that decoding is bit-exact on every
machine. Every payload is padded to a size of a ladder and ends in a CRC-32.

The package decides on the codec. `bag/1`: a set without an order, coded as how many there are of each row
(`sharing.multiset`), its targets by what its rows say (`sharing.rows`). `map/1`: windows and maps, which keep an order,
by what neighbours let expect (`sharing.ordered`). `pool/1`: one pooled vector and its row, value after value, in whole
bytes. `uniform/2`: channel after channel, of packages made before there were these. `uniform/1` is the same without
padding: it is still read, and no longer written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import constriction
import numpy as np

from featureloop.core.errors import RecordError
from featureloop.core.types import Float32, UInt8
from featureloop.model.manifest import ReleasedForm
from featureloop.model.pooling import turned, turned_back
from featureloop.sharing.coding import (
    TOTAL,
    Same,
    put_features,
    put_rows,
    put_soft_rows,
    take_features,
    take_rows,
    take_soft_rows,
)
from featureloop.sharing.payload import (
    Ladder,
    finish,
    finish_single,
    opened,
    opened_single,
    seal,
    seal_single,
    single_coder,
)

BAG, MAP, POOLED, UNIFORM, PLAIN = CODECS = ("bag/1", "map/1", "pool/1", "uniform/2", "uniform/1")
FEATURES = Ladder(2**0.25)
ROWS = Ladder(2.0, each=0.5)
"""Rows of targets are short and tell most: nearly all of a grid's are given the same size."""
BAG_RATIO = 2**0.5
"""Of a set's payload sizes; the first holds nearly all frames, as the package says."""
BOUND_SLACK = 1e-4
"""A value may exceed its bound by this share of the range: rounding of float32 arithmetic."""


def codec_of(form: ReleasedForm) -> str:
    """The codec that a package's records are written in."""
    if form.pooled is not None:
        return POOLED
    return UNIFORM if form.bag is None else BAG if form.ordered is None else MAP


def codecs_of(form: ReleasedForm) -> tuple[str, ...]:
    """The codecs that a package's records are read in."""
    written = codec_of(form)
    return (UNIFORM, PLAIN) if written == UNIFORM else (written,)


def quantize(values: Float32, form: ReleasedForm) -> UInt8:
    """Float32 (N, C) to symbols uint8 (N, C); the error is at most half a step.

    Where the form has directions, symbols are of what vectors have along each, at most as far as the bounds.

    Raises
    ------
    RecordError
        A value is not finite, or outside its channel's bounds.
    """
    low, span, top = _bounds(form)
    if values.ndim != 2 or values.shape[1] != form.channels:
        raise RecordError(f"expected (N, {form.channels}) values, not {values.shape}")
    if not np.isfinite(values).all():
        raise RecordError("the feature values hold NaN or infinity; the frame can't be shared")
    unit = (turned(values, form.directions) - low) / span
    if values.size and not form.directions and (unit.min() < -BOUND_SLACK or unit.max() > 1 + BOUND_SLACK):
        raise RecordError(f"a feature value is outside its channel's bounds by {max(-unit.min(), unit.max() - 1):.3g}")
    symbols: UInt8 = np.clip(np.rint(unit * top), 0, top).astype(np.uint8)
    return symbols


def dequantize(symbols: UInt8, form: ReleasedForm) -> Float32:
    """Symbols uint8 (N, C) to the values they stand for, float32 (N, C): levels' middles; of a pooled vector centroids.

    The error is at most half a step, with centroids at most a step.
    """
    if form.pooled is not None:
        known = _centroids(Same(form))
        return turned_back(known[np.arange(form.channels), symbols], form.directions)
    low, span, top = _bounds(form)
    return turned_back(low + symbols * (span / top), form.directions)


def ladders_of(form: ReleasedForm) -> tuple[Ladder, Ladder]:
    """The sizes that payloads of features, and of rows of targets, are padded to."""
    if form.pooled is not None:
        features, rows = (Ladder(BAG_RATIO, least=size, grain=1) for size in form.pooled.usual)
        return features, rows
    if form.bag is None:
        return FEATURES, ROWS
    features, rows = (Ladder(BAG_RATIO, least=size) for size in form.bag.usual)
    return features, rows


def encode_features(symbols: UInt8, form: ReleasedForm, *, padded: bool = True) -> bytes:
    """Symbols uint8 (N, C) to a payload.

    Raises
    ------
    RecordError
        A set's rows are not in canonical order, or a pooled form is to hold more than one vector.
    """
    coder = _coder_of(symbols, form)
    put_features(coder, symbols, form)
    return _sealed(coder, form, len(symbols), ladders_of(form)[0] if padded else None)


def decode_features(payload: bytes, form: ReleasedForm, *, max_vectors: int) -> UInt8:
    """The symbols uint8 (N, C) of a payload.

    Raises
    ------
    RecordError
        The payload is truncated or damaged, or holds over `max_vectors` vectors.
    """
    n, coder = _opened(payload, form, max_vectors, ladders_of(form)[0])
    symbols = take_features(coder, n, form)
    _finish(coder, form, symbols)
    return symbols


def encode_rows(
    rows: UInt8,
    form: ReleasedForm,
    *,
    symbols: UInt8 | None = None,
    before: UInt8 | None = None,
    padded: bool = True,
) -> bytes:
    """Rows of targets uint8 (N, T) to a payload; the parameters are those of `RowsModel.encode`.

    Raises
    ------
    RecordError
        A flag is not 0 or 1, or there is not one row where the form is pooled.
    """
    coder = _coder_of(rows, form)
    put_rows(coder, rows, form, symbols=symbols, before=before)
    return _sealed(coder, form, len(rows), ladders_of(form)[1] if padded else None)


def decode_rows(
    payload: bytes,
    form: ReleasedForm,
    *,
    width: int,
    max_vectors: int,
    symbols: UInt8 | None = None,
    before: UInt8 | None = None,
) -> UInt8:
    """The rows uint8 (N, width) of a payload, which was encoded with the same `symbols` and `before`.

    Raises
    ------
    RecordError
        The payload is truncated or damaged, or of another number of rows than `before`.
    """
    n, coder = _opened(payload, form, max_vectors, ladders_of(form)[1])
    if before is not None and n != len(before):
        raise RecordError(f"{n} rows of targets are said to have been changed, {len(before)} were recognized")
    rows = take_rows(coder, n, form, width=width, symbols=symbols, before=before)
    _finish(coder, form, rows)
    return rows


def encode_soft_rows(rows: UInt8, form: ReleasedForm, *, before: UInt8, padded: bool = True) -> bytes:
    """Rows of probabilities uint8 (N, T), 0 to 255, to a payload; for the rest see `SoftRowsModel.encode`."""
    coder = _coder_of(rows, form)
    put_soft_rows(coder, rows, form, before=before)
    return _sealed(coder, form, len(rows), ladders_of(form)[1] if padded else None)


def decode_soft_rows(payload: bytes, form: ReleasedForm, *, before: UInt8) -> UInt8:
    """The rows of probabilities uint8 (N, T) of a payload, which was encoded with the same `before`.

    Raises
    ------
    RecordError
        The payload is truncated or damaged, or of another number of rows than `before`.
    """
    n, coder = _opened(payload, form, len(before), ladders_of(form)[1])
    if n != len(before):
        raise RecordError(f"{n} rows of targets are said to have been softened, {len(before)} were recognized")
    rows = take_soft_rows(coder, form, before=before)
    _finish(coder, form, rows)
    return rows


def frequency_table(counts: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Counts of symbols to integer frequencies, each at least 1, summing to `TOTAL`."""
    share = (counts.astype(np.float64) + 0.5) / (counts.sum() + 0.5 * len(counts))
    table = np.maximum(1, np.floor(share * (TOTAL - len(counts))).astype(np.int64) + 1)
    table[int(table.argmax())] += TOTAL - int(table.sum())
    return tuple(int(x) for x in table)


def flat_tables(levels: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Frequencies of channels with so many levels, as if all symbols were as frequent."""
    return tuple(frequency_table(np.zeros(n)) for n in levels)


def _coder_of(rows: UInt8, form: ReleasedForm) -> Any:
    """A stack coder to put rows uint8 (N, T) on.

    Raises
    ------
    RecordError
        There is more than one row, or none, and the codec is for one.
    """
    if form.pooled is None:
        return constriction.stream.stack.AnsCoder()
    if len(rows) != 1:
        raise RecordError(f"a record in the form '{form.form}' holds one vector and one row, not {len(rows)}")
    return single_coder(rows.tobytes())


def _sealed(coder: Any, form: ReleasedForm, n: int, ladder: Ladder | None) -> bytes:
    return seal(n, coder, ladder) if form.pooled is None else seal_single(coder, ladder)


def _opened(payload: bytes, form: ReleasedForm, most: int, ladder: Ladder) -> tuple[int, Any]:
    if form.pooled is None:
        return opened(payload, most, ladder, plain=form.bag is None)
    return 1, opened_single(payload, ladder)


def _finish(coder: Any, form: ReleasedForm, rows: UInt8) -> None:
    if form.pooled is None:
        finish(coder)
    else:
        finish_single(coder, rows.tobytes())


@lru_cache(maxsize=32)
def _centroids(same: Same) -> Float32:
    """What levels stand for, float32 (C, L), L the most levels of a channel."""
    form = same.form
    assert form.pooled is not None  # noqa: S101 - whoever asks has looked
    table = np.zeros((form.channels, max(form.levels, default=0)), np.float32)
    for own, values in zip(table, form.pooled.centroids, strict=True):
        own[: len(values)] = values
    return table


def _bounds(form: ReleasedForm) -> tuple[Any, Any, Any]:
    low, high = np.asarray(form.low), np.asarray(form.high)
    return low, high - low, np.asarray(form.levels, np.float64) - 1
