"""What the records of one body say besides what is coded: kinds of records and groups once, by record only the rest.

A kind is what many records have in common: site, device, package, form, who changed them. All of it becomes records
again, which check every field as they do anywhere.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.sharing.record import Record

MOST_BYTES = 1 << 26
"""Of a sheet, unpacked: as many as a body of records may have."""
PAYLOADS = ("features", "recognition", "changed")
_OWN = (*PAYLOADS, "reliability", "group")
_COMMON = tuple(f.name for f in fields(Record) if f.name not in _OWN)
_DIGESTS = ("package", "extractor")
_LENGTH = struct.Struct("<I")
_MOST_KINDS = 1 << 16
_MOST_HEAD = 1 << 20
_NO_PAYLOAD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a sheet.

    Attributes
    ----------
    values
        Its fields but for the payloads, by name.
    recognized
        Whether it has a recognition.
    payloads
        Its payloads by name, where they are not coded; None where they are.
    """

    values: Mapping[str, Any]
    recognized: bool
    payloads: Mapping[str, bytes | None] | None

    def record(self, payloads: Mapping[str, bytes | None]) -> Record:
        """The record with these payloads."""
        return Record(**{**self.values, **payloads})


def entry_of(record: Record, *, coded: bool) -> Entry:
    """A record as a sheet has it; `coded`: its payloads are elsewhere."""
    values = {name: getattr(record, name) for name in (*_COMMON, "reliability", "group")}
    payloads = None if coded else {name: getattr(record, name) for name in PAYLOADS}
    return Entry(values, record.recognition is not None, payloads)


def write_sheet(entries: Sequence[Entry]) -> bytes:
    """Entries as bytes, compressed.

    Raises
    ------
    RecordError
        They are of too many kinds or groups.
    """
    kinds: dict[tuple[Any, ...], int] = {}
    groups: dict[bytes, int] = {}
    of_kind = [_number(kinds, _kind(e)) for e in entries]
    of_group = [0 if g is None else 1 + _number(groups, g) for g in (e.values["group"] for e in entries)]
    if max(len(kinds), len(groups) + 1) > _MOST_KINDS:
        raise RecordError(f"records of {len(kinds)} kinds and {len(groups)} groups in one body; use fewer records")
    head = json.dumps({"records": len(entries), "groups": len(groups), "kinds": list(kinds)}).encode()
    reliability = [e.values["reliability"] for e in entries if e.values["reliability_method"] is not None]
    parts = [
        _LENGTH.pack(len(head)), head,
        np.array(of_kind, "<u2").tobytes(), np.array(of_group, "<u2").tobytes(), *groups,
        np.array(reliability, "<f4").tobytes(),
    ]  # fmt: skip
    for payloads in (e.payloads for e in entries if e.payloads is not None):
        for name in PAYLOADS:
            payload = payloads[name]
            parts.append(_LENGTH.pack(_NO_PAYLOAD if payload is None else len(payload)))
            parts.append(payload or b"")
    return zlib.compress(b"".join(parts), 9)


def read_sheet(data: bytes, *, most: int) -> list[Entry]:
    """The entries of a sheet.

    Raises
    ------
    RecordError
        It is damaged, or longer than it may be, or of over `most` records.
    """
    rest = _Rest(_unpacked(data))
    head = json.loads(rest.take(min(rest.length(), _MOST_HEAD)))
    n, known = head["records"], [_common(kind) for kind in head["kinds"]]
    if not 0 <= n <= most:
        raise RecordError(f"a body of {n} records that are coded together, the most are {most}")
    kinds = [known[i] for i in rest.numbers("<u2", n)]
    of_group = rest.numbers("<u2", n)
    groups = [None, *(rest.take(16) for _ in range(head["groups"]))]
    told = [common["reliability_method"] is not None for common, _, _ in kinds]
    reliability = iter(rest.numbers("<f4", sum(told)))
    entries = []
    for (common, recognized, coded), group, has in zip(kinds, of_group, told, strict=True):
        own = {"reliability": next(reliability) if has else None, "group": groups[group]}
        payloads = None if coded else {name: rest.payload() for name in PAYLOADS}
        entries.append(Entry({**common, **own}, recognized, payloads))
    rest.finish()
    return entries


def _number(known: dict[Any, int], key: Any) -> int:
    return known.setdefault(key, len(known))


def _kind(entry: Entry) -> tuple[Any, ...]:
    values = [entry.values[name] for name in _COMMON]
    shown = [v.hex() if isinstance(v, bytes) else v for v in values]
    return (*shown, entry.recognized, entry.payloads is None)


def _common(kind: Sequence[Any]) -> tuple[dict[str, Any], bool, bool]:
    *values, recognized, coded = kind
    found = dict(zip(_COMMON, values, strict=True))
    return found | {name: bytes.fromhex(found[name]) for name in _DIGESTS}, bool(recognized), bool(coded)


def _unpacked(data: bytes) -> bytes:
    packed = zlib.decompressobj()
    out = packed.decompress(data, MOST_BYTES)
    if not packed.eof or packed.unused_data:
        raise RecordError("a body's sheet is damaged, or longer than a body may be")
    return out


class _Rest:
    """What is still to be read."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise RecordError("a body's sheet is truncated")
        self._at += count
        return found

    def length(self) -> int:
        """The next number of 32 bits."""
        return int(_LENGTH.unpack(self.take(_LENGTH.size))[0])

    def numbers(self, kind: str, count: int) -> list[Any]:
        """The next numbers of a numpy type."""
        found: NDArray[Any] = np.frombuffer(self.take(count * np.dtype(kind).itemsize), kind)
        return list(found.tolist())

    def payload(self) -> bytes | None:
        """The next payload, or that there is none."""
        count = self.length()
        return None if count == _NO_PAYLOAD else self.take(count)

    def finish(self) -> None:
        """Refuse what is left."""
        if self._at != len(self._data):
            raise RecordError("a body's sheet holds more than it declares")
