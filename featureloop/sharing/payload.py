"""A payload: a code stream with how many rows it holds, padded to a few sizes, under a checksum.

How long a coded mask is tells how large the lesion is, so payloads are padded
with zero words to a size of a ladder. A code stream never ends in a
zero word, so the padding needs no length field, holds nothing, and has one
form; the CRC-32 at the end covers it.
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
_HEADER = struct.Struct("<I")
_CHECK = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Ladder:
    """The sizes that payloads are padded to: `least * ratio**k` bytes, rounded up to whole words.

    Attributes
    ----------
    ratio
        Of one size to the next.
    each
        Bytes that every vector or row is given at least, whatever it takes.
    least
        Bytes of the shortest payload, 16 or more.
    """

    ratio: float
    each: float = 0.0
    least: int = LEAST_SIZE

    def rung(self, size: int, n: int = 0) -> int:
        """The smallest size that holds so many bytes of n vectors or rows."""
        size = max(size, int(self.each * n), self.least)
        k = math.floor(math.log(size / self.least, self.ratio))
        # The logarithm may be off in its last bit; a size that is on the ladder stays.
        return next(s for s in map(self._step, range(max(0, k - 1), k + 3)) if s >= size)

    def _step(self, k: int) -> int:
        return 4 * math.ceil(self.least * self.ratio**k / 4 - 1e-6)


def seal(n: int, coder: Any, ladder: Ladder | None = None) -> bytes:
    """What a stack coder holds of n rows, as a payload; padded where a ladder is given."""
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    body = _HEADER.pack(n) + words
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
    try:
        return n, constriction.stream.stack.AnsCoder(padded[:held])
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
