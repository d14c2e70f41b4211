"""The codec `uniform/2`: per-channel quantization and entropy coding with static tables, padded to a few sizes.

Values are quantized uniformly between a channel's exact bounds (beyond them
is an error, never a silent clip) and coded by an asymmetric numeral system
(Duda 2013, arXiv:1311.2540; the constriction library) under integer frequency
tables that the package carries, so that decoding is bit-exact on every
machine. Every payload ends in a CRC-32.

How long a coded mask is tells how large the lesion is, so payloads are padded
with zero words to a size of a ladder. A code stream never ends in a
zero word, so the padding needs no length field, holds nothing, and has one
form; the CRC covers it. `uniform/1` is the same without padding: it is still
read, and no longer written.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import constriction
import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Float32, UInt8
from featureloop.model.manifest import ReleasedForm

Int32 = NDArray[np.int32]
NAME, PLAIN = "uniform/2", "uniform/1"
LEAST_SIZE = 16
"""Bytes of the shortest padded payload."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The sizes that payloads are padded to: `LEAST_SIZE * ratio**k` bytes, rounded up to whole words.

    Attributes
    ----------
    ratio
        Of one size to the next.
    each
        Bytes that every vector or row is given at least, whatever it takes.
    """

    ratio: float
    each: float = 0.0

    def rung(self, size: int, n: int = 0) -> int:
        """The smallest size that holds so many bytes of n vectors or rows."""
        size = max(size, int(self.each * n), LEAST_SIZE)
        k = math.floor(math.log(size / LEAST_SIZE, self.ratio))
        # The logarithm may be off in its last bit; a size that is on the ladder stays.
        return next(s for s in map(self._step, range(k - 1, k + 3)) if s >= size)

    def _step(self, k: int) -> int:
        return 4 * math.ceil(LEAST_SIZE * self.ratio**k / 4 - 1e-6)


FEATURES = Ladder(2**0.25)
ROWS = Ladder(2.0, each=0.5)
"""Rows of targets are short and tell most: nearly all of a grid's are given the same size."""
TOTAL = 4096
"""Every frequency table sums to this; exact in float64, so models are the same everywhere."""
_HEADER = struct.Struct("<I")
_CHECK = struct.Struct("<I")
BOUND_SLACK = 1e-4
"""A value may exceed its bound by this share of the range: rounding of float32 arithmetic."""


def quantize(values: Float32, form: ReleasedForm) -> UInt8:
    """Float32 (N, C) to symbols uint8 (N, C); the error is at most half a step.

    Raises
    ------
    RecordError
        A value is not finite or outside its channel's bounds.
    """
    low, span, top = _bounds(form)
    if values.ndim != 2 or values.shape[1] != form.channels:
        raise RecordError(f"expected (N, {form.channels}) values, not {values.shape}")
    if not np.isfinite(values).all():
        raise RecordError("the feature values hold NaN or infinity; the frame can't be shared")
    unit = (values.astype(np.float64) - low) / span
    if values.size and (unit.min() < -BOUND_SLACK or unit.max() > 1 + BOUND_SLACK):
        raise RecordError(f"a feature value is outside its channel's bounds by {max(-unit.min(), unit.max() - 1):.3g}")
    symbols: UInt8 = np.clip(np.rint(unit * top), 0, top).astype(np.uint8)
    return symbols


def dequantize(symbols: UInt8, form: ReleasedForm) -> Float32:
    """Symbols uint8 (N, C) to the values they stand for, float32 (N, C)."""
    low, span, top = _bounds(form)
    values: Float32 = (low + symbols * (span / top)).astype(np.float32)
    return values


def encode_features(symbols: UInt8, form: ReleasedForm, *, name: str = NAME) -> bytes:
    """Symbols uint8 (N, C) to a payload of the codec of this name."""
    coder = constriction.stream.stack.AnsCoder()
    columns = symbols.astype(np.int32)
    for c in reversed(range(form.channels)):
        coder.encode_reverse(np.ascontiguousarray(columns[:, c]), _model(form.frequencies[c]))
    return _seal(len(symbols), coder, FEATURES if name == NAME else None)


def decode_features(payload: bytes, form: ReleasedForm, *, max_vectors: int) -> UInt8:
    """The symbols uint8 (N, C) of a payload.

    Raises
    ------
    RecordError
        The payload is truncated or damaged, or holds over `max_vectors` vectors.
    """
    n, coder = _open(payload, max_vectors, FEATURES)
    out = np.empty((n, form.channels), np.uint8)
    for c in range(form.channels):
        out[:, c] = coder.decode(_model(form.frequencies[c]), n)
    _finish(coder)
    return out


def row_kinds(rows: UInt8, flags: int) -> Int32:
    """0 where all flags of a row are 0, 1 where all are 1, else 2: uint8 (N, T) to int32 (N,)."""
    ones = rows[:, :flags].sum(axis=1)
    return np.where(ones == 0, 0, np.where(ones == flags, 1, 2)).astype(np.int32)


def encode_rows(rows: UInt8, form: ReleasedForm, *, name: str = NAME) -> bytes:
    """Rows of targets uint8 (N, T) to a payload of the codec of this name.

    A row's flags are all 0, all 1, or mixed with their bits; its coded values follow where a flag is 1.

    Raises
    ------
    RecordError
        A flag is not 0 or 1.
    """
    width = rows.shape[1]
    flags = width if form.flags is None else form.flags
    if rows[:, :flags].max(initial=0) > 1:
        raise RecordError("a flag in a row of targets is neither 0 nor 1; the frame can't be shared")
    kinds = row_kinds(rows, flags)
    mixed = np.packbits(rows[kinds == 2, :flags], axis=1).reshape(-1).astype(np.int32)
    coder = constriction.stream.stack.AnsCoder()
    if flags < width:
        coder.encode_reverse(rows[kinds > 0, flags:].reshape(-1).astype(np.int32), _model(form.coded_frequencies))
    coder.encode_reverse(mixed, _BYTE)
    coder.encode_reverse(kinds, _model(form.target_frequencies))
    return _seal(len(rows), coder, ROWS if name == NAME else None)


def decode_rows(payload: bytes, form: ReleasedForm, *, width: int, max_vectors: int) -> UInt8:
    """The rows uint8 (N, width) of a payload.

    Raises
    ------
    RecordError
        The payload is truncated or damaged.
    """
    n, coder = _open(payload, max_vectors, ROWS)
    flags = width if form.flags is None else form.flags
    kinds = coder.decode(_model(form.target_frequencies), n)
    mixed, told = int((kinds == 2).sum()), int((kinds > 0).sum())
    bytes_each = -(-flags // 8)
    bits = coder.decode(_BYTE, mixed * bytes_each).astype(np.uint8).reshape(mixed, bytes_each)
    rows = np.zeros((n, width), np.uint8)
    rows[:, :flags] = (kinds == 1)[:, None]
    rows[kinds == 2, :flags] = np.unpackbits(bits, axis=1, count=flags)
    if flags < width:
        coded = coder.decode(_model(form.coded_frequencies), told * (width - flags))
        rows[kinds > 0, flags:] = coded.reshape(told, width - flags)
    _finish(coder)
    return rows


def frequency_table(counts: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Counts of symbols to integer frequencies, each at least 1, summing to `TOTAL`."""
    share = (counts.astype(np.float64) + 0.5) / (counts.sum() + 0.5 * len(counts))
    table = np.maximum(1, np.floor(share * (TOTAL - len(counts))).astype(np.int64) + 1)
    table[int(table.argmax())] += TOTAL - int(table.sum())
    return tuple(int(x) for x in table)


_BYTE = constriction.stream.model.Uniform(256)


@lru_cache(maxsize=4096)
def _model(frequencies: tuple[int, ...]) -> Any:
    return constriction.stream.model.Categorical(np.asarray(frequencies, np.float64) / TOTAL, perfect=False)


def _bounds(form: ReleasedForm) -> tuple[Any, Any, Any]:
    low, high = np.asarray(form.low), np.asarray(form.high)
    return low, high - low, np.asarray(form.levels, np.float64) - 1


def _seal(n: int, coder: Any, ladder: Ladder | None = None) -> bytes:
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    body = _HEADER.pack(n) + words
    if ladder is not None:
        body += bytes(ladder.rung(len(body) + _CHECK.size, n) - len(body) - _CHECK.size)
    return body + _CHECK.pack(zlib.crc32(body))


def _open(payload: bytes, max_vectors: int, ladder: Ladder) -> tuple[int, Any]:
    if len(payload) < _HEADER.size + _CHECK.size or len(payload) % 4:
        raise RecordError(f"a payload of {len(payload)} bytes is truncated")
    body, check = payload[:-4], _CHECK.unpack(payload[-4:])[0]
    if zlib.crc32(body) != check:
        raise RecordError("a payload's checksum doesn't match; it was damaged on its way")
    n = _HEADER.unpack(body[:4])[0]
    if n > max_vectors:
        raise RecordError(f"a payload claims {n} vectors, its package's grid has {max_vectors}")
    padded = np.frombuffer(body[4:], "<u4").astype(np.uint32)
    held = int(padded.nonzero()[0].max(initial=-1)) + 1
    plain = _HEADER.size + 4 * held + _CHECK.size
    if len(payload) not in (plain, ladder.rung(plain, n)):
        raise RecordError(f"a payload of {plain} bytes is padded to {len(payload)}, not to {ladder.rung(plain, n)}")
    try:
        return n, constriction.stream.stack.AnsCoder(padded[:held])
    except ValueError as error:
        raise RecordError("a payload is no valid code stream") from error


def _finish(coder: Any) -> None:
    if not cast(bool, coder.is_empty()):
        raise RecordError("a payload holds more than it declares")
