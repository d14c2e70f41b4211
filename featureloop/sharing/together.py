"""The records of one body, coded together: what they share is said once, and their payloads are one code stream.

    FLT1 | bytes of the sheet | words of the stream | check of the ids | sheet | stream | padding | CRC-32

An Arrow stream says of each record its id, its padded payloads and all of its fields. Here records of one kind share a
line of the sheet (`sharing.sheet`), ids follow from what they are the hash of, payloads are coded without padding one
after the other, a set after the one before it where that is shorter, and only the body as a whole is padded to one of a
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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import constriction
import numpy as np

from featureloop.core.errors import PackageError, RecordError
from featureloop.core.types import Bag, ChangedBy, Task, UInt8
from featureloop.model.manifest import Manifest, ReleasedForm
from featureloop.sharing import codec
from featureloop.sharing.coding import (
    put_features,
    put_rows,
    put_soft_rows,
    take_features,
    take_rows,
    take_soft_rows,
)
from featureloop.sharing.contents import contents, rows_of
from featureloop.sharing.near import quantiles
from featureloop.sharing.payload import Ladder
from featureloop.sharing.record import Record, from_wire
from featureloop.sharing.release import coded
from featureloop.sharing.sheet import Entry, entry_of, read_sheet, write_sheet

MEDIA_TYPES = ARROW_STREAM, MEDIA_TYPE = "application/vnd.apache.arrow.stream", "application/vnd.featureloop.records"
MOST = 256
"""Records of a body, so that a small one can't claim much time."""
LADDER = Ladder(2**0.125, least=1024)
"""Sizes of bodies: a sum of many payloads tells little of any, and all bodies of a few records have the first size."""
_EVEN = constriction.stream.model.Uniform(2)
_MAGIC = b"FLT1"
_HEADER = struct.Struct("<4sII16s")
_CHECK = struct.Struct("<I")
_NONSENSE = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, zlib.error, struct.error)
"""What reading a body of nonsense can end in."""

ManifestOf = Callable[[bytes], Manifest | None]
"""A package's manifest by the package's digest; None where it isn't known."""


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
        Whether a set is coded after the one before it where that is shorter: fewer bytes for more time at both ends.

    Raises
    ------
    RecordError
        There are more than `MOST`.
    """
    if len(records) > MOST:
        raise RecordError(f"{len(records)} records are to be coded together, the most are {MOST}")
    views = _Views(manifest_of)
    line = _in_line([_Item(record, *_opened(record, views)) for record in records])
    coder = constriction.stream.stack.AnsCoder()
    for before, item in reversed(list(pairwise([_Item(records[0]), *line] if line else []))):
        _put(coder, item, before.told, across=across)
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
        views = _Views(manifest_of)
        records: list[Record] = []
        before: _Before = None
        for entry in read_sheet(sheet, most=MOST):
            payloads, before = _taken(coder, entry, views, before) if entry.payloads is None else (entry.payloads, None)
            records.append(entry.record(payloads))
    except _NONSENSE as error:
        raise RecordError(f"the body is no valid code: {str(error)[:200]}") from error
    if not coder.is_empty():
        raise RecordError("the body holds more than its records")
    if _check_of(records) != check:
        raise RecordError("the body's records are not those that were written")
    return records


@dataclass(frozen=True, slots=True)
class _Item:
    """A record on its way into a body: what its payloads hold, under which tables; without these it is carried."""

    record: Record
    manifest: Manifest | None = None
    bag: Bag | None = None

    @property
    def told(self) -> _Before:
        """What the next one can be coded after."""
        return None if self.manifest is None or self.bag is None else (self.manifest, self.bag.symbols)


_Before = tuple[Manifest, UInt8] | None
"""The manifest and the symbols of what was coded before."""


class _Views:
    """Manifests of one task each, looked up once for a body."""

    def __init__(self, manifest_of: ManifestOf) -> None:
        self._manifest_of = manifest_of
        self._known: dict[tuple[bytes, str], Manifest] = {}

    def __call__(self, package: bytes, task: str) -> Manifest:
        """The manifest of a package's task.

        Raises
        ------
        RecordError
            The package isn't known, or it has no such task.
        """
        if (package, task) not in self._known:
            manifest = self._manifest_of(package)
            if manifest is None:
                raise RecordError(f"the body has records of package {package.hex()[:12]}, which is unknown")
            try:
                self._known[package, task] = manifest.for_task(Task(task))
            except (PackageError, ValueError) as error:
                raise RecordError(f"the body has records of another task than its package's: {error}") from error
        return self._known[package, task]


def _opened(record: Record, views: _Views) -> tuple[Manifest, Bag] | tuple[()]:
    """What a record's payloads hold; nothing where they couldn't be restored from it."""
    try:
        manifest = views(record.package, record.task)
        bag = contents(record, manifest)
    except RecordError:
        return ()
    whole = record.codec != codec.PLAIN and record.vectors == manifest.released.form.rows(manifest.features.grid)
    return (manifest, bag) if whole else ()


def _in_line(items: Sequence[_Item]) -> list[_Item]:
    """Items by package and task, sets each as like as can be to the one before it."""
    kinds: dict[tuple[bytes, str], list[_Item]] = {}
    for item in sorted(items, key=lambda item: item.record.id):
        kinds.setdefault((item.record.package, item.record.task), []).append(item)
    return [item for _, some in sorted(kinds.items()) for item in _chained(some)]


def _chained(items: list[_Item]) -> list[_Item]:
    """Items from the first one on, the nearest of those left each time."""
    symbols = [item.bag.symbols for item in items if item.bag is not None]
    line = [item for item in items if item.bag is None]
    coded_ones = [item for item in items if item.bag is not None]
    if not symbols:
        return line
    values = np.stack([quantiles(s) for s in symbols])
    at, left = 0, np.ones(len(values), np.bool_)
    for _ in values:
        line.append(coded_ones[at])
        left[at] = False
        apart = np.abs(values - values[at]).mean(axis=1).sum(axis=1)
        at = int(np.where(left, apart, np.inf).argmin())
    return line


def _put(coder: Any, item: _Item, before: _Before, *, across: bool) -> None:
    """Put what a record's payloads hold on a stack coder, what is to be taken first last."""
    if item.bag is None or item.manifest is None:
        return
    bag, form = item.bag, item.manifest.released
    if bag.changed is not None and bag.soft:
        put_soft_rows(coder, bag.changed, form, before=bag.recognized)
    elif bag.changed is not None:
        put_rows(coder, bag.changed, form, symbols=bag.symbols, before=bag.recognized)
    if item.record.recognition is not None:
        put_rows(coder, bag.recognized, form, symbols=bag.symbols)
    like = _like(before, item.manifest)
    after = across and like is not None and _bits(bag.symbols, form, like) < _bits(bag.symbols, form, None)
    put_features(coder, bag.symbols, form, like=like if after else None)
    if like is not None:
        coder.encode_reverse(int(after), _EVEN)


def _like(before: _Before, manifest: Manifest) -> UInt8 | None:
    """The set after which one of this manifest may be coded: that of the record before, if it is one of the same."""
    form = manifest.released
    if before is None or before[0] is not manifest or form.bag is None or form.ordered is not None:
        return None
    return before[1]


def _bits(symbols: UInt8, form: ReleasedForm, like: UInt8 | None) -> int:
    coder = constriction.stream.stack.AnsCoder()
    put_features(coder, symbols, form, like=like)
    return int(coder.num_valid_bits())


def _taken(
    coder: Any, entry: Entry, views: _Views, before: _Before
) -> tuple[dict[str, bytes | None], tuple[Manifest, UInt8]]:
    """A record's payloads, from what a stack coder holds of them, and what the next one can be coded after."""
    manifest = views(entry.values["package"], entry.values["task"])
    form, n = manifest.released, manifest.released.form.rows(manifest.features.grid)
    like = _like(before, manifest)
    like = None if like is None or not coder.decode(_EVEN) else like
    symbols = take_features(coder, n, form, like=like)
    if not entry.recognized:
        features = codec.encode_features(symbols, form)
        return {"features": features, "recognition": None, "changed": None}, (manifest, symbols)
    count, width = rows_of(manifest, n), manifest.recognizer.outputs
    recognized = take_rows(coder, count, form, width=width, symbols=symbols)
    changed: UInt8 | None = None
    by = entry.values["changed_by"]
    if by == ChangedBy.SOFTENED:
        changed = take_soft_rows(coder, form, before=recognized)
    elif by is not None:
        changed = take_rows(coder, count, form, width=width, symbols=symbols, before=recognized)
    told = coded(Bag(symbols, recognized, changed, by == ChangedBy.SOFTENED), form)
    payloads = {"features": told.features, "recognition": told.recognition, "changed": told.changed}
    return payloads, (manifest, symbols)


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
