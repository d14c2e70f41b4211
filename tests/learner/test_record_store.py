"""The record store: each record once, durable, in a stable order, and really gone when erased."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featureloop.core.errors import InputError, StorageError
from featureloop.learner import store as stores
from featureloop.learner.store import RecordStore
from featureloop.sharing.record import Record
from featureloop.testing import make_record

LINE = hashlib.sha256(b"extractor").digest()


def everything(store: RecordStore, *, extractor: bytes | None = None, version: int | None = None) -> list[Record]:
    return [r for batch in store.records(extractor=extractor, version=version, batch=7) for r in batch]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "data" / "records.lance")


def test_an_empty_store_answers(store: RecordStore) -> None:
    """Nothing was added: no version, no records, nothing to erase, and no directory is made by asking."""
    assert store.version == 0
    assert everything(store) == everything(store, version=0) == []
    assert store.counts() == store.bytes_by_site() == {}
    assert store.add([]) == 0
    assert store.erase(site="site-a") == 0
    assert not store.path.exists()


def test_records_come_back_equal_once_and_in_order(store: RecordStore) -> None:
    """Whatever the batches were, each record is there once, and the order is that of the ids."""
    records = [make_record(i) for i in range(40)] + [
        make_record(50, recognition=None, reliability=None, reliability_method=None, group=None),
        make_record(51, changed=b"changed", changed_by="clinician", changed_when=4 * 2026),
    ]
    assert store.add(records[:20]) == 20
    assert store.add(records[10:]) == 22
    assert store.add(records) == 0
    assert store.add([records[0], records[0]]) == 0
    assert everything(store) == sorted(records, key=lambda r: r.id)
    assert everything(RecordStore(store.path)) == everything(store)


def test_more_devices_than_a_dictionary_index_holds(store: RecordStore) -> None:
    """The wire's int8 dictionaries end at 127 words; the store does not."""
    records = [make_record(i, device=f"box-{i}") for i in range(300)]
    assert store.add(records) == 300
    assert len({r.device for r in next(iter(store.records(extractor=None)))}) == 300


def test_a_line_is_read_alone(store: RecordStore) -> None:
    """Training reads the records of one extractor."""
    other = [make_record(i, extractor=bytes(32)) for i in range(5)]
    store.add([make_record(i) for i in range(9)] + other)
    assert len(everything(store, extractor=LINE)) == 9
    assert everything(store, extractor=bytes(32)) == sorted(other, key=lambda r: r.id)
    assert everything(store, extractor=b"\1" * 32) == []


def test_a_version_stays_what_it_was(store: RecordStore) -> None:
    """A version is a model's lineage: later records don't change it."""
    store.add([make_record(i) for i in range(5)])
    before = store.version
    store.add([make_record(i) for i in range(5, 9)])
    assert store.version > before
    assert len(everything(store, version=before)) == 5
    assert len(everything(store)) == 9
    with pytest.raises(StorageError, match=r"version 99 .* is gone"):
        everything(store, version=99)


def test_counts_and_bytes_are_by_site(store: RecordStore) -> None:
    """What the operator sees: records and payload bytes of each site."""
    records = [make_record(i, site=f"site-{'ab'[i % 3 == 0]}") for i in range(12)]
    store.add(records)
    assert store.counts() == {"site-a": 8, "site-b": 4}
    for site, size in store.bytes_by_site().items():
        own = [r for r in records if r.site == site]
        assert size == sum(len(r.features) + len(r.recognition or b"") for r in own)


def grep(path: Path, needle: bytes) -> int:
    return sum(f.read_bytes().count(needle) for f in path.rglob("*") if f.is_file())


@pytest.mark.parametrize(
    "chosen",
    [{"site": "site-b"}, {"device": "device-b"}, {"group": b"B" * 16}, {"site": "site-b", "group": b"B" * 16}],
)
def test_erased_bytes_are_gone_from_the_disk(store: RecordStore, chosen: dict[str, str | bytes]) -> None:
    """Erasure leaves no byte in any file, also not in older versions or pinned ones; the rest stays."""
    secret, kept = b"to-be-erased-for-good", b"this-one-stays-here"
    for i in range(0, 40, 10):
        mine = [make_record(j, features=kept + os.urandom(40)) for j in range(i, i + 5)]
        theirs = [
            make_record(j, site="site-b", device="device-b", group=b"B" * 16, features=secret + os.urandom(40))
            for j in range(i + 5, i + 10)
        ]
        store.add(mine + theirs)
    store.pin(store.version, name="model-1")
    assert grep(store.path, secret) >= 20
    old = store.version
    assert store.erase(**chosen) == 20  # type: ignore[arg-type]  # one kind a parameter
    assert grep(store.path, secret) == grep(store.path, b"B" * 16) == grep(store.path, b"site-b") == 0
    assert grep(store.path, kept) == 20
    assert len(everything(store)) == 20
    assert store.counts() == {"site-a": 20}
    with pytest.raises(StorageError, match="is gone"):
        everything(store, version=old)
    assert store.erase(**chosen) == 0  # type: ignore[arg-type]  # as above


def test_everything_can_be_erased_and_added_again(store: RecordStore) -> None:
    """A store without records is still a store."""
    records = [make_record(i) for i in range(5)]
    store.add(records)
    assert store.erase(site="site-a") == 5
    assert everything(store) == []
    assert store.add(records) == 5


@pytest.mark.parametrize(
    "wrong", [{}, {"site": "x' OR '1'='1"}, {"device": ""}, {"device": "Dr. House"}, {"group": b"short"}]
)
def test_an_erasure_that_means_nothing_is_refused(store: RecordStore, wrong: dict[str, str]) -> None:
    """Nothing named, or a name that no record can hold: an injection is one."""
    store.add([make_record(0)])
    with pytest.raises(InputError, match="nothing was erased"):
        store.erase(**wrong)
    assert len(everything(store)) == 1


def test_many_small_additions_stay_few_files(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments are merged, and what was pinned stays readable."""
    monkeypatch.setattr(stores, "MAX_FRAGMENTS", 6)
    store.add([make_record(0)])
    pinned = store.version
    store.pin(pinned, name="founding")
    store.pin(pinned, name="founding")
    for i in range(1, 20):
        store.add([make_record(i)])
    assert len(everything(store)) == 20
    assert len(everything(store, version=pinned)) == 1
    import lance

    assert len(lance.dataset(str(store.path)).get_fragments()) <= 8


def test_a_pin_needs_a_version(store: RecordStore) -> None:
    """Only what is there can be kept."""
    with pytest.raises(StorageError, match="is empty"):
        store.pin(1, name="model")


@pytest.mark.parametrize("folder", ["data", "_versions"])
@pytest.mark.parametrize("damage", ["empty", "noise", "half"])
def test_damage_is_a_storage_error(store: RecordStore, folder: str, damage: str) -> None:
    """A damaged file is told with what to do, and never read as other records."""
    store.add([make_record(i, features=os.urandom(300)) for i in range(64)])
    for file in (store.path / folder).glob("*.lance" if folder == "data" else "*.manifest"):
        raw = file.read_bytes()
        file.write_bytes({"empty": b"", "noise": os.urandom(len(raw)), "half": raw[: len(raw) // 2]}[damage])
    fresh = RecordStore(store.path)
    with pytest.raises(StorageError, match="backup"):
        everything(fresh)
    with pytest.raises(StorageError, match="backup"):
        fresh.add([make_record(1_000)])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_gives_no_other_record(tmp_path_factory: pytest.TempPathFactory, at: float, bit: int) -> None:
    """Every record read is one that was added, or there is a StorageError: ids are hashes."""
    store = RecordStore(tmp_path_factory.mktemp("flip") / "records.lance")
    records = [make_record(i, features=bytes([i]) * 50) for i in range(8)]
    store.add(records)
    (file,) = (store.path / "data").glob("*.lance")
    raw = bytearray(file.read_bytes())
    raw[int(at * len(raw))] ^= 1 << bit
    file.write_bytes(raw)
    try:
        found = everything(RecordStore(store.path))
    except StorageError:
        return
    assert all(r in records for r in found)


def _add(path: Path, start: int) -> None:
    store = RecordStore(path)
    for i in range(start, start + 24, 4):
        store.add([make_record(j) for j in range(i, i + 8)])


def test_two_processes_add_the_same_records_once(store: RecordStore) -> None:
    """Writers in other processes neither lose nor repeat a record, the making of the store included."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(store.path, start)) for start in (0, 8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert everything(store) == sorted((make_record(i) for i in range(36)), key=lambda r: r.id)


def test_what_was_added_is_flushed(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new file was flushed before `add` returned, the data before the version that names them."""
    flushed: list[Path] = []
    real = os.fsync

    def watch(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    store.add([make_record(0)])
    files = {f.resolve() for f in store.path.rglob("*") if f.is_file()}
    assert files <= set(flushed)
    (data,) = (f for f in files if f.suffix == ".lance")
    newest = min(f for f in files if f.suffix == ".manifest")
    assert flushed.index(data) < flushed.index(newest)
    assert store.path.resolve() in flushed
