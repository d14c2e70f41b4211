"""Records in the line of a body: what their payloads hold, put on one code stream and taken from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import constriction
import numpy as np

from featureloop.core.errors import PackageError, RecordError
from featureloop.core.types import Bag, ChangedBy, Task, UInt8
from featureloop.model.manifest import Manifest, ReleasedForm
from featureloop.sharing import codec
from featureloop.sharing.anonymize import by_columns
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
from featureloop.sharing.record import Record
from featureloop.sharing.release import coded
from featureloop.sharing.sheet import Entry

LATEST = 8
"""Sets before it after which a set may be coded, all of their rows together."""
MOST_ROWS = 4_096
"""Of a set that others are coded after; with more it takes too long."""
_EVEN = constriction.stream.model.Uniform(2)

ManifestOf = Callable[[bytes], Manifest | None]
"""A package's manifest by the package's digest; None where it isn't known."""


@dataclass(frozen=True, slots=True)
class Item:
    """A record on its way into a body: what its payloads hold, under which tables; without these it is carried."""

    record: Record
    manifest: Manifest | None = None
    bag: Bag | None = None


class Told:
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
        few = len(self._latest) > 0 and len(self._latest[0]) <= MOST_ROWS
        return manifest is self._manifest and form.bag is not None and form.ordered is None and few

    def rows(self) -> UInt8:
        """All rows of the latest, sorted, uint8 (M, C)."""
        rows = np.concatenate(self._latest)
        return rows[by_columns(rows)]


class Views:
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


def item_of(record: Record, views: Views) -> Item:
    """A record with what its payloads hold, where they can be restored from it."""
    try:
        manifest = views(record.package, record.task)
        bag = contents(record, manifest)
    except RecordError:
        return Item(record)
    whole = record.codec != codec.PLAIN and record.vectors == manifest.released.form.rows(manifest.features.grid)
    return Item(record, manifest, bag) if whole else Item(record)


def in_line(items: Sequence[Item]) -> list[Item]:
    """Items by package and task, sets each as like as can be to the one before it."""
    kinds: dict[tuple[bytes, str], list[Item]] = {}
    for item in sorted(items, key=lambda item: item.record.id):
        kinds.setdefault((item.record.package, item.record.task), []).append(item)
    return [item for _, some in sorted(kinds.items()) for item in _chained(some)]


def _chained(items: list[Item]) -> list[Item]:
    """Items that are carried, then the others from the first one on, the nearest of those left each time."""
    told = [(item, quantiles(item.bag.symbols)) for item in items if item.bag is not None]
    line = [item for item in items if item.bag is None]
    values, left, at = np.array([v for _, v in told]), np.ones(len(told), np.bool_), 0
    for _ in told:
        line.append(told[at][0])
        left[at] = False
        apart = np.abs(values - values[at]).mean(axis=1).sum(axis=1)
        at = int(np.where(left, apart, np.inf).argmin())
    return line


def steps(line: Sequence[Item], *, across: bool) -> list[Callable[[Any], None]]:
    """What puts each record's contents on a stack coder, in the order in which they are taken."""
    told = Told()
    found: list[Callable[[Any], None]] = []
    for item in line:
        if item.bag is None or item.manifest is None:
            continue
        after: bool | None = None
        like: UInt8 | None = None
        if told.precede(item.manifest):
            form, symbols, like = item.manifest.released, item.bag.symbols, told.rows() if across else None
            after = like is not None and _bits(symbols, form, like) < _bits(symbols, form, None)
        found.append(partial(_put, bag=item.bag, manifest=item.manifest, recognized=item.record.recognition is not None,
                             after=after, like=like if after else None))  # fmt: skip
        told.add(item.manifest, item.bag.symbols)
    return found


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


def taken(coder: Any, entry: Entry, views: Views, told: Told) -> dict[str, bytes | None]:
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
