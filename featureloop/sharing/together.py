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
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
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
LATEST = 8
"""Sets before it after which a set may be coded, all of their rows together."""
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
        Whether a set is coded after those before it where that is shorter: fewer bytes for more time at both ends.

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
    for put in reversed(_steps(line, across=across)):
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
        views = _Views(manifest_of)
        told = _Told()
        records = [
            entry.record(_taken(coder, entry, views, told) if entry.payloads is None else entry.payloads)
            for entry in read_sheet(sheet, most=MOST)
        ]
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


class _Told:
    """The sets that a body has told so far: the latest of one package's task."""

    def __init__(self) -> None:
        self._manifest: Manifest | None = None
        self._latest: deque[UInt8] = deque(maxlen=LATEST)

    def add(self, manifest: Manifest, symbols: UInt8) -> None:
        """A record's vectors were told, uint8 (N, C)."""
        if manifest is not self._manifest:
            self._manifest = manifest
            self._latest.clear()
        self._latest.append(symbols)

    def precede(self, manifest: Manifest) -> bool:
        """Whether a set of this manifest can be coded after them."""
        form = manifest.released
        return manifest is self._manifest and form.bag is not None and form.ordered is None

    def rows(self) -> UInt8:
        """All rows of the latest, sorted, uint8 (M, C)."""
        rows = np.ascontiguousarray(np.concatenate(self._latest))
        return rows[rows.view(np.dtype((np.void, rows.shape[1]))).ravel().argsort(kind="stable")]


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


def _steps(line: Sequence[_Item], *, across: bool) -> list[Callable[[Any], None]]:
    """What puts each record's contents on a stack coder, in the order in which they are taken."""
    told, steps = _Told(), []
    for item in line:
        if item.bag is None or item.manifest is None:
            continue
        after: bool | None = None
        like: UInt8 | None = None
        if told.precede(item.manifest):
            form, symbols, like = item.manifest.released, item.bag.symbols, told.rows() if across else None
            after = like is not None and _bits(symbols, form, like) < _bits(symbols, form, None)
        steps.append(partial(_put, bag=item.bag, manifest=item.manifest, recognized=item.record.recognition is not None,
                             after=after, like=like if after else None))  # fmt: skip
        told.add(item.manifest, item.bag.symbols)
    return steps


def _put(coder: Any, *, bag: Bag, manifest: Manifest, recognized: bool, after: bool | None, like: UInt8 | None) -> None:
    """Put what a record's payloads hold on a stack coder, what is to be taken first last.

    Parameters
    ----------
    after
        Whether its set is coded after `like`; None where there is nothing that it could be coded after.
    """
    form = manifest.released
    if bag.changed is not None and bag.soft:
        put_soft_rows(coder, bag.changed, form, before=bag.recognized)
    elif bag.changed is not None:
        put_rows(coder, bag.changed, form, symbols=bag.symbols, before=bag.recognized)
    if recognized:
        put_rows(coder, bag.recognized, form, symbols=bag.symbols)
    put_features(coder, bag.symbols, form, like=like)
    if after is not None:
        coder.encode_reverse(int(after), _EVEN)


def _bits(symbols: UInt8, form: ReleasedForm, like: UInt8 | None) -> int:
    coder = constriction.stream.stack.AnsCoder()
    put_features(coder, symbols, form, like=like)
    return int(coder.num_valid_bits())


def _taken(coder: Any, entry: Entry, views: _Views, told: _Told) -> dict[str, bytes | None]:
    """A record's payloads, from what a stack coder holds of them."""
    manifest = views(entry.values["package"], entry.values["task"])
    form, n = manifest.released, manifest.released.form.rows(manifest.features.grid)
    like = told.rows() if told.precede(manifest) and coder.decode(_EVEN) else None
    symbols = take_features(coder, n, form, like=like)
    told.add(manifest, symbols)
    if not entry.recognized:
        return {"features": codec.encode_features(symbols, form), "recognition": None, "changed": None}
    count, width = rows_of(manifest, n), manifest.recognizer.outputs
    recognized = take_rows(coder, count, form, width=width, symbols=symbols)
    changed: UInt8 | None = None
    by = entry.values["changed_by"]
    if by == ChangedBy.SOFTENED:
        changed = take_soft_rows(coder, form, before=recognized)
    elif by is not None:
        changed = take_rows(coder, count, form, width=width, symbols=symbols, before=recognized)
    found = coded(Bag(symbols, recognized, changed, by == ChangedBy.SOFTENED), form)
    return {"features": found.features, "recognition": found.recognition, "changed": found.changed}


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
