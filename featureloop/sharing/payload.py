"""A payload: a code stream with how many rows it holds, padded to a few sizes, under a checksum.

How long a coded mask is tells how large the lesion is, so payloads are padded
with zeros to a size of a ladder. A code stream never ends in a
zero, so the padding needs no length field, holds nothing, and has one
form; the checksum at the end covers it.

A single row, of a codec that has no other, would be shorter than what is around it: number of rows, checksum, and what
the coder's state takes before its first symbol. So the state begins with 24 bits of the row's checksum, which cost
nothing there and must be left when the row was taken; and the payload is of whole bytes. Damage that this doesn't see
(one in 16 million), the record's own SHA-256 does.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, cast

import constriction
import numpy as np

from featureloop.core.errors import RecordError

LEAST_SIZE = 16
"""Bytes of the shortest padded payload."""
LEAST_SINGLE = 4
"""The same of a single row's."""
_HEADER = struct.Struct("<I")
_CHECK = struct.Struct("<I")
_CHECK_BITS = 24


@dataclass(frozen=True, slots=True)
class Ladder:
    """The sizes that payloads are padded to: `least * ratio**k` bytes, rounded up to whole words, or to `grain`.

    Attributes
    ----------
    ratio
        Of one size to the next.
    each
        Bytes that every vector or row is given at least, whatever it takes.
    least
        Bytes of the shortest payload, 16 or more; of a single row's any.
    grain
        Sizes are multiples of it, in bytes.
    """

    ratio: float
    each: float = 0.0
    least: int = LEAST_SIZE
    grain: int = 4

    def rung(self, size: int, n: int = 0) -> int:
        """The smallest size that holds so many bytes of n vectors or rows."""
        size = max(size, int(self.each * n), self.least)
        k = math.floor(math.log(size / self.least, self.ratio))
        # The logarithm may be off in its last bit; a size that is on the ladder stays.
        return next(s for s in map(self._step, range(max(0, k - 1), k + 3)) if s >= size)

    def _step(self, k: int) -> int:
        return self.grain * math.ceil(self.least * self.ratio**k / self.grain - 1e-6)


def seal(n: int, coder: Any, ladder: Ladder | None = None) -> bytes:
    """What a stack coder holds of n rows, as a payload; padded where a ladder is given."""
    body = _HEADER.pack(n) + _words(coder)
    if ladder is not None:
        body += bytes(ladder.rung(len(body) + _CHECK.size, n) - len(body) - _CHECK.size)
    return body + _CHECK.pack(zlib.crc32(body))


def opened(payload: bytes, max_vectors: int, ladder: Ladder, *, plain: bool = False) -> tuple[int, Any]:
    """How many rows a payload holds, and the stack coder to take them from.

    Parameters
    ----------
    plain
        Whether it may be without padding as well.

    Raises
    ------
    RecordError
        It is truncated, damaged, padded to another size, or of more than `max_vectors` rows.
    """
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
    bare = _HEADER.size + 4 * held + _CHECK.size
    if len(payload) != ladder.rung(bare, n) and not (plain and len(payload) == bare):
        raise RecordError(f"a payload of {bare} bytes is padded to {len(payload)}, not to {ladder.rung(bare, n)}")
    return n, _coder(padded[:held])


def single_coder(row: bytes) -> Any:
    """A stack coder to put a single row on, which these bytes stand for."""
    return _coder(np.array([_single_check(row)], np.uint32))


def seal_single(coder: Any, ladder: Ladder | None = None) -> bytes:
    """What a `single_coder` holds, as a payload; padded where a ladder is given."""
    body = _words(coder).rstrip(b"\0")
    return body if ladder is None else body + bytes(ladder.rung(len(body)) - len(body))


def opened_single(payload: bytes, ladder: Ladder) -> Any:
    """The stack coder to take a single row from.

    Raises
    ------
    RecordError
        The payload is truncated, or padded to another size.
    """
    held = payload.rstrip(b"\0")
    if not held:
        raise RecordError(f"a payload of {len(payload)} bytes is truncated")
    if len(payload) != ladder.rung(len(held)):
        raise RecordError(f"a payload of {len(held)} bytes is padded to {len(payload)}, not {ladder.rung(len(held))}")
    return _coder(np.frombuffer(held + bytes(-len(held) % 4), "<u4").astype(np.uint32))


def finish_single(coder: Any, row: bytes) -> None:
    """Refuse a payload of which something else is left than the checksum of the row that was taken.

    Raises
    ------
    RecordError
        It was damaged.
    """
    if _words(coder) != _words(single_coder(row)):
        raise RecordError("a payload's checksum doesn't match; it was damaged on its way")


def _single_check(row: bytes) -> int:
    """What the coder's state is before the row: 24 bits of its CRC-32 under a one."""
    return 1 << _CHECK_BITS | zlib.crc32(row) & ((1 << _CHECK_BITS) - 1)


def _words(coder: Any) -> bytes:
    return cast(bytes, coder.get_compressed().astype("<u4").tobytes())


def _coder(words: np.ndarray[Any, Any]) -> Any:
    try:
        return constriction.stream.stack.AnsCoder(words)
    except ValueError as error:
        raise RecordError("a payload is no valid code stream") from error


def finish(coder: Any) -> None:
    """Refuse what is left after all rows were taken.

    Raises
    ------
    RecordError
        Something is.
    """
    if not cast(bool, coder.is_empty()):
        raise RecordError("a payload holds more than it declares")
