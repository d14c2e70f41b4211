"""The records of one body, coded together: what they share is said once, and their payloads are one code stream.

    FLT1 | bytes of the sheet | words of the stream | check of the ids | sheet | stream | padding | CRC-32

An Arrow stream says of each record its id, its padded payloads and all of its fields. Here records of one kind share a
line of the sheet (`sharing.sheet`), ids follow from what they are the hash of, payloads are coded without padding one
after the other, a set after those before it where that is shorter, and only the body as a whole is padded to one of a
few sizes. It is a way of the line and of nothing else: whoever reads it has the very records that were written, each of
them whole, padded and readable by itself.

Records stand so that each is like the one before it. That follows from what they hold, so it tells nothing that they
don't: neither time nor which of them belong together.

A record whose payloads aren't coded by its package's tables, as one of an older codec, is carried as it is.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import constriction
import numpy as np

from featureloop.core.errors import RecordError
from featureloop.sharing.in_line import ManifestOf, Told, Views, in_line, item_of, steps, taken
from featureloop.sharing.payload import Ladder
from featureloop.sharing.record import Record, from_wire
from featureloop.sharing.sheet import entry_of, read_sheet, write_sheet

MEDIA_TYPES = ARROW_STREAM, MEDIA_TYPE = "application/vnd.apache.arrow.stream", "application/vnd.featureloop.records"
MOST = 256
"""Records of a body, so that a small one can't claim much time."""
LADDER = Ladder(2**0.125, least=1024)
"""Sizes of bodies: a sum of many payloads tells little of any, and all bodies of a few records have the first size."""
_MAGIC = b"FLT1"
_HEADER = struct.Struct("<4sII16s")
_CHECK = struct.Struct("<I")
_NONSENSE = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, zlib.error, struct.error)
"""What reading a body of nonsense can end in."""


def media_type_of(body: bytes) -> str:
    """What a body of records is sent as."""
    return MEDIA_TYPE if body.startswith(_MAGIC) else ARROW_STREAM


def from_body(body: bytes, manifest_of: ManifestOf) -> list[Record]:
    """The records of a body of either type; errors are those of `from_wire` and `from_together`."""
    return from_together(body, manifest_of) if media_type_of(body) == MEDIA_TYPE else from_wire(body)


def to_together(records: Sequence[Record], manifest_of: ManifestOf, *, across: bool = False) -> bytes:
    """Records as one body of `MEDIA_TYPE`.

    Parameters
    ----------
    across
        Whether a set is coded after those before it where that is shorter: fewer bytes for more time at both ends.

    Raises
    ------
    RecordError
        There are more than `MOST`.
    """
    if len(records) > MOST:
        raise RecordError(f"{len(records)} records are to be coded together, the most are {MOST}")
    views = Views(manifest_of)
    line = in_line([item_of(record, views) for record in records])
    coder = constriction.stream.stack.AnsCoder()
    for put in reversed(steps(line, across=across)):
        put(coder)
    stream: bytes = coder.get_compressed().astype("<u4").tobytes()
    sheet = write_sheet([entry_of(item.record, coded=item.bag is not None) for item in line])
    head = _HEADER.pack(_MAGIC, len(sheet), len(stream) // 4, _check_of(item.record for item in line))
    bare = head + sheet + stream
    body = bare + bytes(LADDER.rung(len(bare) + _CHECK.size) - len(bare) - _CHECK.size)
    return body + _CHECK.pack(zlib.crc32(body))


def from_together(body: bytes, manifest_of: ManifestOf) -> list[Record]:
    """The records of a body of `MEDIA_TYPE`.

    Raises
    ------
    RecordError
        The body is damaged or padded to another size, holds more than it may, is of a package that isn't known, or
        its records are not those that were written.
    """
    try:
        sheet, coder, check = _parted(body)
        views = Views(manifest_of)
        told = Told()
        records = [
            entry.record(taken(coder, entry, views, told) if entry.payloads is None else entry.payloads)
            for entry in read_sheet(sheet, most=MOST)
        ]
    except _NONSENSE as error:
        raise RecordError(f"the body is no valid code: {str(error)[:200]}") from error
    if not coder.is_empty():
        raise RecordError("the body holds more than its records")
    if _check_of(records) != check:
        raise RecordError("the body's records are not those that were written")
    return records


def _parted(body: bytes) -> tuple[bytes, Any, bytes]:
    """The sheet, the coder to take the records' contents from, and the check of their ids."""
    if len(body) < _HEADER.size + _CHECK.size:
        raise RecordError(f"a body of {len(body)} bytes is truncated")
    if zlib.crc32(body[: -_CHECK.size]) != _CHECK.unpack(body[-_CHECK.size :])[0]:
        raise RecordError("the body's checksum doesn't match; it was damaged on its way")
    _, length, words, check = _HEADER.unpack(body[: _HEADER.size])
    start = _HEADER.size + length
    end = start + 4 * words
    padding = body[end : -_CHECK.size]
    if len(body) != LADDER.rung(end + _CHECK.size) or any(padding):
        raise RecordError(f"a body of {end + _CHECK.size} bytes is padded to {len(body)}, or not with zeros")
    stream = np.frombuffer(body[start:end], "<u4").astype(np.uint32)
    return body[_HEADER.size : start], constriction.stream.stack.AnsCoder(stream), check


def _check_of(records: Iterable[Record]) -> bytes:
    """What tells that records are those that were written: half a SHA-256 of their ids."""
    return hashlib.sha256(b"".join(record.id for record in records)).digest()[:16]
