"""Bounds on an Arrow IPC stream from outside, checked before anything in it is unpacked.

A compressed buffer names its own unpacked size, and a dictionary word can be
repeated by every row: a few kilobytes could claim all memory. Records need
neither, so both are refused. Layout: the Arrow columnar format, section
"Encapsulated message format" (Message.fbs, version 5).
"""

from __future__ import annotations

import struct

import pyarrow as pa

from featureloop.core.errors import RecordError

MAX_WORD = 96
"""Bytes of the longest dictionary word: a name, a word of a list, a released form or a digest."""
_HEADER, _DATA, _COMPRESSION = 2, 1, 3
"""Places of the fields Message.header, DictionaryBatch.data and RecordBatch.compression."""


def check_stream(body: pa.Buffer) -> None:
    """Refuse a stream with compressed buffers.

    Raises
    ------
    RecordError
        A message of the stream is compressed or malformed.
    """
    for message in pa.ipc.MessageReader.open_stream(body):
        try:
            compressed = _compressed(message.metadata.to_pybytes(), message.type)
        except struct.error as error:
            raise RecordError(f"the body is no Arrow stream of records: {error}") from error
        if compressed:
            raise RecordError("the body's buffers are compressed; send records uncompressed, their payloads are coded")


def check_words(batch: pa.RecordBatch) -> None:
    """Refuse a batch whose dictionaries hold longer words than any record has.

    Raises
    ------
    RecordError
        A word is longer than `MAX_WORD` bytes.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type) and column.dictionary.nbytes > MAX_WORD * (len(column.dictionary) + 1):
            raise RecordError(f"a word of the field '{name}' is over {MAX_WORD} bytes; no record has such a word")


def _compressed(raw: bytes, kind: str) -> bool:
    table = _follow(raw, 0)
    header = _field(raw, table, _HEADER)
    if header is None or kind not in ("record batch", "dictionary"):
        return False
    batch: int | None = _follow(raw, header)
    if kind == "dictionary" and batch is not None:
        data = _field(raw, batch, _DATA)
        batch = None if data is None else _follow(raw, data)
    return batch is not None and _field(raw, batch, _COMPRESSION) is not None


def _follow(raw: bytes, at: int) -> int:
    """Where the offset at `at` points."""
    return at + int(struct.unpack_from("<I", raw, at)[0])


def _field(raw: bytes, table: int, place: int) -> int | None:
    """Where a table's field is; None where it is left out."""
    vtable = table - int(struct.unpack_from("<i", raw, table)[0])
    size = int(struct.unpack_from("<H", raw, vtable)[0])
    entry = 4 + 2 * place
    offset = int(struct.unpack_from("<H", raw, vtable + entry)[0]) if entry + 2 <= size else 0
    return table + offset if offset else None
