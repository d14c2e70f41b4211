"""The record store: a Lance dataset whose versions are the lineage of every model.

`sharing.record.Record` is the interface. The table has the record schema's
columns with the dictionaries decoded (an int8 index holds 127 devices, a store
more), and the payload's length, so that sizes are summed without reading payloads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featureloop.core.errors import InputError, RecordError, StorageError
from featureloop.core.types import Bool
from featureloop.learner.locks import exclusive, sync_tree
from featureloop.sharing.record import ENROLLED_ID, SCHEMA, SCHEMA_VERSION, Record, from_table

SIZE = "payload_bytes"
KEEP_VERSIONS = timedelta(days=1)
"""Versions that nothing pinned are cleaned up after it; a training that reads one takes less."""
TIERS = (1 << 10, 1 << 15, 1 << 20)
MAX_FRAGMENTS = 64
"""So many fragments below a tier's rows are merged into one; tiers keep what is rewritten small."""
_PIN = "pin-"


def _decoded(field: pa.Field) -> pa.Field:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind, nullable=field.nullable)


TABLE = pa.schema([*(_decoded(f) for f in SCHEMA), pa.field(SIZE, pa.int32(), nullable=False)], SCHEMA.metadata)


class RecordStore:
    """Records on disk, each once, durable when `add` returns.

    Parameters
    ----------
    path
        The dataset's directory; the first `add` makes it. Writers in other
        processes are kept apart by a lock beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(f".{path.name}.lock")
        self._synced: set[tuple[str, int, int]] = set()

    @property
    def version(self) -> int:
        """The newest version; 0 while nothing was added."""
        dataset = self._open()
        return 0 if dataset is None else int(dataset.version)

    def add(self, records: Sequence[Record]) -> int:
        """Add records that aren't there yet; return how many those were.

        Raises
        ------
        StorageError
            The disk is full, or the store is damaged. Nothing or all was added.
        """
        distinct = {r.id: r for r in records}
        if not distinct:
            return 0
        with exclusive(self._lock), self._translated():
            # An empty dataset is falsy, hence no `or`.
            dataset = self._open()
            dataset = self._create() if dataset is None else dataset
            insert = dataset.merge_insert("id").when_not_matched_insert_all()
            transaction, found = insert.execute_uncommitted(_to_table(distinct))
            # The data must be on the disk before a version names it.
            self._sync()
            dataset = type(dataset).commit(dataset.uri, transaction, read_version=transaction.read_version)
            self._sync()
            self._tidy(dataset)
        return int(found["num_inserted_rows"])

    def records(
        self, *, extractor: bytes | None, task: str | None = None, version: int | None = None, batch: int = 512
    ) -> Iterator[list[Record]]:
        """All records of one version, in the order of their ids, `batch` at a time.

        Parameters
        ----------
        extractor
            Only those of this package line (32 bytes); None for all.
        task
            Only those of this task; None for all.
        version
            None for the newest.

        Raises
        ------
        StorageError
            The store is damaged, or the version is gone.
        """
        dataset = self._open(version)
        if dataset is None:
            return
        with self._translated():
            offsets = _in_order(dataset, extractor, task)
        for start in range(0, len(offsets), batch):
            with self._translated():
                rows = dataset.take(offsets[start : start + batch].tolist(), columns=SCHEMA.names)
                records = from_table(rows)
            yield records

    def counts(self) -> dict[str, int]:
        """Records per site."""
        found: Counter[str] = Counter()
        for rows in self._columns("site"):
            found.update(rows["site"].to_pylist())
        return dict(sorted(found.items()))

    def tasks(self, *, extractor: bytes, site: str) -> frozenset[str]:
        """The tasks that a site's records of a package line are for."""
        found: set[str] = set()
        for rows in self._columns("extractor", "site", "task"):
            own = _equal(rows["extractor"], pa.scalar(extractor, pa.binary(32))) & _equal(rows["site"], pa.scalar(site))
            found.update(rows["task"].filter(pa.array(own)).to_pylist())
        return frozenset(found)

    def bytes_by_site(self) -> dict[str, int]:
        """Payload bytes per site."""
        found: Counter[str] = Counter()
        for rows in self._columns("site", SIZE):
            for site, size in zip(rows["site"].to_pylist(), rows[SIZE].to_pylist(), strict=True):
                found[site] += size
        return dict(sorted(found.items()))

    def changed_by_site(self) -> dict[str, dict[str, int]]:
        """How many of every site's records have a changed or confirmed result, by who or what changed it."""
        found: dict[str, Counter[str]] = {}
        for rows in self._columns("site", "changed_by"):
            for site, by in zip(rows["site"].to_pylist(), rows["changed_by"].to_pylist(), strict=True):
                if by is not None:
                    found.setdefault(site, Counter())[by] += 1
        return {site: dict(sorted(by.items())) for site, by in found.items()}

    def pin(self, version: int, *, name: str) -> None:
        """Keep a version readable beyond `KEEP_VERSIONS`: a package was trained on it. Erasure unpins it.

        Parameters
        ----------
        name
            Lower-case letters, digits and hyphens; the same name moves its pin.
        """
        with exclusive(self._lock), self._translated():
            if (dataset := self._open(version)) is None:
                raise StorageError(f"the store '{self.path}' is empty; there is no version {version} to keep")
            tags, tag = dataset.tags, _PIN + name
            (tags.update if tag in tags.list() else tags.create)(tag, version)
            self._sync()

    def erase(self, *, site: str | None = None, device: str | None = None, group: bytes | None = None) -> int:
        """Remove the records that fit all that is given, in all versions, from the disk; return how many.

        All older versions go, also pinned ones: they held what is to be erased.

        Raises
        ------
        InputError
            Nothing is given, or something that no record can hold.
        StorageError
            The store is damaged or can't be written. A repeat continues.
        """
        predicate = _predicate(site, device, group)
        with exclusive(self._lock), self._translated():
            if (dataset := self._open()) is None:
                return 0
            erased = int(dataset.delete(predicate)["num_deleted_rows"])
            dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
            self._sync()
            for tag in dataset.tags.list():
                dataset.tags.delete(tag)
            # Also what a killed writer left may hold it; the lock says that no writer is alive.
            dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
            self._sync()
        return erased

    def _open(self, version: int | None = None) -> Any:
        """The dataset at a version; None where nothing was added yet, or for version 0."""
        if version == 0 or not (self.path / "_versions").is_dir():
            return None
        import lance

        with self._translated():
            try:
                dataset = lance.dataset(str(self.path), version=version)
            except ValueError as error:
                if version is not None and "was not found" in str(error):
                    raise StorageError(
                        f"version {version} of the store '{self.path}' is gone: records were erased since, "
                        "or it was old and nothing pinned it; use the newest"
                    ) from error
                raise
            if version is None and dataset.schema.names != TABLE.names:
                raise StorageError(
                    f"the store '{self.path}' was made by another version of featureloop "
                    f"(this one writes record schema {SCHEMA_VERSION}); use that version, or another directory"
                )
        return dataset

    def _create(self) -> Any:
        import lance

        self.path.parent.mkdir(parents=True, exist_ok=True)
        return lance.write_dataset(TABLE.empty_table(), str(self.path), schema=TABLE)

    def _columns(self, *names: str) -> Iterator[Any]:
        dataset = self._open()
        if dataset is not None:
            with self._translated():
                yield from dataset.scanner(columns=list(names), batch_size=1 << 16).to_batches()

    def _tidy(self, dataset: Any) -> None:
        """Merge small fragments, and forget old versions, where many have gathered."""
        merged = False
        for rows in TIERS:
            if sum(f.metadata.num_rows < rows for f in dataset.get_fragments()) > MAX_FRAGMENTS:
                dataset.optimize.compact_files(target_rows_per_fragment=rows)
                merged = True
        if merged:
            self._sync()
            dataset.cleanup_old_versions(older_than=KEEP_VERSIONS, error_if_tagged_old_versions=False)

    def _sync(self) -> None:
        sync_tree(self.path, known=self._synced)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Lance's and the disk's errors, and damaged records, as StorageError."""
        try:
            yield
        except RecordError as error:
            raise StorageError(f"the store '{self.path}' is damaged: {error}; restore it from a backup") from error
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise StorageError(self._trouble(error)) from error
        except BaseException as error:
            # Lance's native code panics on some damaged files, outside of `Exception`.
            if type(error).__name__ != "PanicException":
                raise
            raise StorageError(self._trouble(error)) from error

    def _trouble(self, error: BaseException) -> str:
        what = str(error).partition(", /")[0][:300]
        return (
            f"the store '{self.path}' can't be read or written: {what}; "
            "check the disk's free space, and restore the store from a backup where it is damaged"
        )


def _to_table(records: dict[bytes, Record]) -> pa.Table:
    """Records by id as rows of `TABLE`."""
    rows = records.values()
    columns = [pa.array([getattr(r, f.name) for r in rows], f.type) for f in TABLE if f.name not in ("id", SIZE)]
    sizes = [sum(len(p or b"") for p in (r.features, r.recognition, r.changed)) for r in rows]
    ids, lengths = pa.array(list(records), pa.binary(32)), pa.array(sizes, pa.int32())
    return pa.Table.from_arrays([ids, *columns, lengths], schema=TABLE)


def _in_order(dataset: Any, extractor: bytes | None, task: str | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places of the rows of one line and task in the dataset, int64 (M,), sorted by id."""
    names = ["id", "extractor", "task"]
    table = dataset.scanner(columns=names, scan_in_order=True).to_table().combine_chunks()
    own = np.ones(table.num_rows, bool)
    if extractor is not None:
        own &= _equal(table["extractor"], pa.scalar(extractor, pa.binary(32)))
    if task is not None:
        own &= _equal(table["task"], pa.scalar(task))
    at = np.flatnonzero(own)
    ids = np.array(table["id"].to_pylist(), dtype="S32")[at]
    return at[np.argsort(ids, kind="stable")]


def _equal(column: Any, value: Any) -> Bool:
    return np.asarray(pc.equal(column, value).to_numpy(zero_copy_only=False), bool)


def _predicate(site: str | None, device: str | None, group: bytes | None) -> str:
    """The records to erase, as a filter; its values are checked, since they stand in it as text."""
    names = {k: v for k, v in (("site", site), ("device", device)) if v is not None}
    if not names and group is None:
        raise InputError("name the site, the device or the group to erase; nothing was erased")
    for field, value in names.items():
        if not ENROLLED_ID.fullmatch(value):
            raise InputError(f"{field} {value[:60]!r} is no enrolled id; nothing was erased")
    if group is not None and len(group) != 16:
        raise InputError(f"a group's pseudonym has 16 bytes, not {len(group)}; nothing was erased")
    parts = [f"{field} = '{value}'" for field, value in names.items()]
    return " AND ".join(parts + ([] if group is None else [f"`group` = X'{group.hex()}'"]))
