"""The record: everything that may leave a site, and nothing else.

One Arrow schema is the wire format (an Arrow IPC stream) and the table in the
store. It is an allow-list: no field can hold a name, a UID, a date, a file
name, a pixel or free text. Names are enrolled ids of a narrow alphabet, words
come from fixed lists or (the released form) a strict grammar, the date is a quarter of a year, the group a keyed
pseudonym of 16 bytes.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

import pyarrow as pa

from featureloop.core.errors import InputError, RecordError
from featureloop.core.types import ChangedBy, Task
from featureloop.model.forms import POOL, Form, parse_form
from featureloop.model.score_words import METHODS
from featureloop.sharing.stream import check_stream, check_words

SCHEMA_VERSION = 1
MAX_VECTORS = 65_536
MAX_CHANNELS = 4_096
MAX_PAYLOAD = 1 << 20
MAX_RECORDS_PER_BODY = 4_096
MAX_BODY = 64 << 20
MAX_WORDS = 128

ENROLLED_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
TASKS = tuple(str(t) for t in Task)
CODECS = ("uniform/1", "uniform/2", "bag/1", "map/1", "pool/1")
CHANGED_BY = tuple(str(c) for c in ChangedBy)


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bytes": (bytes,),
    "int": (int,),
    "str | None": (str, type(None)),
    "bytes | None": (bytes, type(None)),
    "int | None": (int, type(None)),
    "float | None": (float, type(None)),
}


def _word() -> pa.DataType:
    return pa.dictionary(pa.int8(), pa.string())


def _digest() -> pa.DataType:
    return pa.dictionary(pa.int8(), pa.binary(32))


SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(32), nullable=False),
        pa.field("site", _word(), nullable=False),
        pa.field("device", _word(), nullable=False),
        pa.field("package", _digest(), nullable=False),
        pa.field("extractor", _digest(), nullable=False),
        pa.field("task", _word(), nullable=False),
        pa.field("anonymizer", _word(), nullable=False),
        pa.field("vectors", pa.int32(), nullable=False),
        pa.field("channels", pa.int16(), nullable=False),
        pa.field("codec", _word(), nullable=False),
        pa.field("features", pa.binary(), nullable=False),
        pa.field("recognition", pa.binary()),
        pa.field("reliability", pa.float32()),
        pa.field("reliability_method", _word()),
        pa.field("changed", pa.binary()),
        pa.field("changed_by", _word()),
        pa.field("changed_when", pa.int16()),
        pa.field("group", pa.binary(16)),
        pa.field("period", pa.int16(), nullable=False),
    ],
    metadata={"featureloop.record": str(SCHEMA_VERSION)},
)


def quarter_of(day: date) -> int:
    """The quarter of the year as one number, `4 * year + quarter - 1`."""
    return 4 * day.year + (day.month - 1) // 3


def quarter_text(quarter: int) -> str:
    """For people: `2026 Q4`."""
    return f"{quarter // 4} Q{quarter % 4 + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a device provides of one frame.

    Attributes
    ----------
    site, device
        Enrolled ids: lower-case letters, digits and hyphens, at most 32.
    package, extractor
        SHA-256 of the package that recognized and of its extractor.
    task
        What was recognized.
    anonymizer
        The text of the released form (`model.forms`): `pool` (one vector, N = 1), `set` (N vectors whose order
        carries nothing), or another one with its parameters. A text of any other kind is refused.
    vectors, channels
        N in [0, 65536] and C in [1, 4096].
    codec
        Name and version of the coding of `features`, `recognition`, `changed`.
    features
        The coded position vectors.
    recognition
        The coded rows of targets as the device recognized them; None where
        the site's policy provides only the reliability.
    reliability, reliability_method
        In [0, 1], and how it was calculated.
    changed, changed_by, changed_when
        The coded rows of targets that replaced the recognition, who or what
        replaced it, and in which quarter. All three or none.
    group
        Keyed pseudonym (16 bytes) of one patient or examination.
    period
        Quarter of the acquisition, `4 * year + quarter - 1`.

    Raises
    ------
    RecordError
        A value is outside its range or no word of its list.
    """

    site: str
    device: str
    package: bytes
    extractor: bytes
    task: str
    anonymizer: str
    vectors: int
    channels: int
    codec: str
    features: bytes
    recognition: bytes | None
    reliability: float | None
    reliability_method: str | None
    changed: bytes | None
    changed_by: str | None
    changed_when: int | None
    group: bytes | None
    period: int

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            _require(isinstance(value, _TYPES[str(f.type)]) and not isinstance(value, bool), f.name, self)
        for name in ("site", "device"):
            _require(ENROLLED_ID.fullmatch(getattr(self, name)) is not None, name, self)
        for name in ("package", "extractor"):
            _require(len(getattr(self, name)) == 32, name, self)
        _require(self.task in TASKS, "task", self)
        form = _form_of(self.anonymizer)
        _require(form is not None and bool(form.noise) == bool(form.clip), "anonymizer", self)
        _require(self.codec in CODECS, "codec", self)
        _require(0 <= self.vectors <= MAX_VECTORS, "vectors", self)
        _require(form is None or form.base != POOL or self.vectors == 1, "vectors", self)
        _require(1 <= self.channels <= MAX_CHANNELS, "channels", self)
        for name in ("features", "recognition", "changed"):
            _require(len(getattr(self, name) or b"") <= MAX_PAYLOAD, name, self)
        reliability = self.reliability
        _require(reliability is None or 0.0 <= reliability <= 1.0, "reliability", self)
        _require((reliability is None) == (self.reliability_method is None), "reliability_method", self)
        _require(self.reliability_method in (None, *METHODS), "reliability_method", self)
        _require(self.changed_by in (None, *CHANGED_BY), "changed_by", self)
        unchanged = self.changed is None
        _require((self.changed_by is None) == unchanged, "changed_by", self)
        _require((self.changed_when is None) == unchanged, "changed_when", self)
        _require(self.group is None or len(self.group) == 16, "group", self)
        for name in ("period", "changed_when"):
            value = getattr(self, name)
            _require(value is None or 4 * 1900 <= value < 4 * 2200, name, self)

    @property
    def id(self) -> bytes:
        """SHA-256 (32 bytes) of the content, so that a repeat is harmless."""
        return content_id(self)


def _form_of(text: str) -> Form | None:
    try:
        return parse_form(text)
    except InputError:
        return None


def _require(ok: bool, name: str, record: Record) -> None:
    if not ok:
        value = getattr(record, name)
        shown = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)[:60]
        raise RecordError(f"record field '{name}' can't be {shown}; it was not produced by a featureloop device")


def content_id(record: Record) -> bytes:
    """SHA-256 over all fields, each with its name's place, type and length."""
    digest = hashlib.sha256(b"featureloop.record/%d" % SCHEMA_VERSION)
    for f in fields(Record):
        value = getattr(record, f.name)
        if value is None:
            digest.update(b"-")
            continue
        if isinstance(value, str):
            kind, raw = b"s", value.encode()
        elif isinstance(value, bytes):
            kind, raw = b"b", value
        elif isinstance(value, int):
            kind, raw = b"i", struct.pack("<q", value)
        else:
            # The reliability is float32 in the schema, so the id is of that value.
            kind, raw = b"f", struct.pack("<f", value)
        digest.update(kind + struct.pack("<I", len(raw)) + raw)
    return digest.digest()


def to_table(records: Sequence[Record]) -> pa.Table:
    """Records as an Arrow table with `SCHEMA`.

    Raises
    ------
    RecordError
        A field of words has more different values than its index can tell apart.
    """
    columns = []
    for f in SCHEMA:
        values: list[Any] = [getattr(r, f.name) for r in records]
        if pa.types.is_dictionary(f.type):
            words = pa.array(values, f.type.value_type).dictionary_encode()
            if len(words.dictionary) > MAX_WORDS:
                raise RecordError(f"over {MAX_WORDS} different values of '{f.name}' in one table; use fewer records")
            columns.append(words.cast(f.type))
        else:
            columns.append(pa.array(values, f.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def from_table(table: pa.Table) -> list[Record]:
    """Records from an Arrow table; columns beyond the schema's are refused.

    Raises
    ------
    RecordError
        The columns differ from `SCHEMA`, a field is invalid, or an id is not
        the hash of its record's content.
    """
    if table.schema.names != SCHEMA.names:
        extra = sorted(set(table.schema.names) ^ set(SCHEMA.names))
        raise RecordError(f"a record has exactly the fields of the schema; these differ: {', '.join(extra)[:200]}")
    names = [f.name for f in fields(Record)]
    out = []
    for row in table.to_pylist():
        try:
            record = Record(**{name: row[name] for name in names})
        except TypeError as error:
            raise RecordError(f"a record field has a wrong type: {error}") from error
        if record.id != row["id"]:
            raise RecordError(f"record {record.id.hex()[:12]} is damaged: its id is not the hash of its content")
        out.append(record)
    return out


def to_wire(records: Sequence[Record]) -> bytes:
    """Records as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    table = to_table(records)
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_wire(body: bytes) -> list[Record]:
    """Read an Arrow IPC stream of records.

    Raises
    ------
    RecordError
        The body is over 64 MiB, not an Arrow stream, compressed, of another
        schema, or a record in it is invalid.
    """
    if len(body) > MAX_BODY:
        raise RecordError(f"a body of {len(body)} bytes is over the limit of {MAX_BODY}; send fewer records at once")
    try:
        check_stream(pa.py_buffer(body))
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            if not reader.schema.equals(SCHEMA, check_metadata=True):
                raise RecordError("the body's schema is not the record schema of this version; update the device")
            rows, batches = 0, []
            for batch in reader:
                rows += batch.num_rows
                if rows > MAX_RECORDS_PER_BODY:
                    raise RecordError(f"more than {MAX_RECORDS_PER_BODY} records in one body; send fewer at once")
                batch.validate(full=True)
                check_words(batch)
                batches.append(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordError(f"the body is no Arrow stream of records: {str(error)[:200]}") from error
    return from_table(pa.Table.from_batches(batches, SCHEMA))


def wire_bytes(records: Iterable[Record]) -> int:
    """Bytes of these records on the wire, all in one body."""
    return len(to_wire(list(records)))
