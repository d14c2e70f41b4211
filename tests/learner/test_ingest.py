"""Ingest: durable before acknowledged, each record once, and nothing beyond what the package declares."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from conftest import MakeRecord, changed_to, coded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featureloop.core.errors import RecordError, StorageError
from featureloop.core.types import Bag
from featureloop.learner.auth import DeviceIdentity, Enrolled
from featureloop.learner.checks import check_declared
from featureloop.learner.ingest import Drainer
from featureloop.learner.service import Learner, open_learner
from featureloop.learner.store import RecordStore
from featureloop.model.package import Package
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.payload import seal
from featureloop.sharing.record import SCHEMA, Record, to_table, to_wire
from featureloop.sharing.release import decoded
from featureloop.sharing.rows import _FAMILY, BOTH, RowsModel
from featureloop.testing import make_record, tiny_package


def held(learner: Learner) -> list[Record]:
    return [r for batch in learner.store.records(extractor=None) for r in batch]


@pytest.fixture
def identity(device: Enrolled) -> DeviceIdentity:
    return DeviceIdentity(device.site, device.device)


def test_records_reach_the_store_once(learner: Learner, identity: DeviceIdentity, make: MakeRecord) -> None:
    """Received, received again, drained, received and drained again: held each time, stored once."""
    records = [make(i) for i in range(10)]
    body = to_wire(records)
    for _ in range(2):
        receipt = learner.ingest.receive(identity, body)
        assert receipt.held == {r.id for r in records}
        assert not receipt.refused
    assert learner.ingest.pending() == 10
    assert learner.ingest.drain() == 10
    assert learner.ingest.receive(identity, body).held == {r.id for r in records}
    assert (learner.ingest.pending(), learner.ingest.drain()) == (0, 0)
    assert held(learner) == sorted(records, key=lambda r: r.id)


def test_all_fields_survive(learner: Learner, identity: DeviceIdentity, founding: Package, make: MakeRecord) -> None:
    """Changed, without a result, without a group: as they came."""
    changed = changed_to(founding, make(1), 1)
    records = [
        make(0, recognition=None, group=None),
        make(1, changed=changed, changed_by="clinician", changed_when=4 * 2026),
        make(2, reliability=float(np.float32(0.1))),
        make(3, reliability=None, reliability_method=None),
    ]
    learner.ingest.receive(identity, to_wire(records))
    learner.ingest.drain()
    assert held(learner) == sorted(records, key=lambda r: r.id)


def test_a_bad_record_does_not_hold_up_the_good_ones(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord
) -> None:
    """One refused with a reason, the others held."""
    bad = make(1, site="clinic-b")
    receipt = learner.ingest.receive(identity, to_wire([make(0), bad, make(2)]))
    assert receipt.held == {make(0).id, make(2).id}
    assert list(receipt.refused) == [bad.id]
    assert "site 'clinic-b'" in receipt.refused[bad.id]


def uncoded(vectors: int) -> Callable[[Package], bytes]:
    def code(package: Package) -> bytes:
        symbols = np.zeros((vectors, package.manifest.released.channels), np.uint8)
        return codec.encode_features(symbols, package.manifest.released)

    return code


def out_of_order(package: Package) -> bytes:
    """Rows that stand as they stood in the image, where their vectors are equal."""
    released, rng = package.manifest.released, np.random.default_rng(3)
    rows = rng.integers(0, 2, (16, package.manifest.recognizer.outputs)).astype(np.uint8)
    return codec.encode_rows(rows, released, symbols=np.zeros((16, released.channels), np.uint8))


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "another site's": ({"site": "clinic-b"}, "says site 'clinic-b'"),
    "another device's": ({"device": "clinic-a-2"}, "the token is of"),
    "of an unknown package": ({"package": bytes(32)}, "unknown to this learner"),
    "of another extractor": ({"extractor": bytes(32)}, "its extractor is 000000000000"),
    "of another task": ({"task": "classification"}, "its task is 'classification'"),
    "pooled": ({"anonymizer": "pool", "vectors": 1}, "its anonymizer is 'pool'"),
    "of more channels": ({"channels": 9}, "its channels is '9'"),
    "of more vectors than the grid": ({"vectors": 17}, "declares 16"),
    "of another count than it holds": ({"vectors": 15}, "15 vectors, its package declares 16"),
    "of fewer rows than it declares": ({"features": uncoded(3)}, "hold 3 rows for the 16"),
    "in the order of the image": ({"features": uncoded(16), "recognition": out_of_order}, "canonical order"),
    "of bytes that are no code": ({"features": b"0123456789abcdef" * 4}, "checksum"),
    "with a longer payload": ({"features": os.urandom(1 << 20)}, "checksum"),
    "without a payload": ({"features": b""}, "truncated"),
    "with a strange recognition": ({"recognition": b"Jane Doe, born 1970."}, "checksum"),
    "with a strange change": (
        {"changed": b"Jane Doe, born 1970.", "changed_by": "clinician", "changed_when": 8104},
        "checksum",
    ),
    "measured otherwise": ({"reliability_method": "max-probability"}, "its reliability is by"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_more_than_the_package_declares_is_refused(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord, founding: Package, what: str
) -> None:
    """Each refusal says what was wrong; nothing of the record stays."""
    overrides, reason = REFUSALS[what]
    record = make(0, **{k: v(founding) if callable(v) else v for k, v in overrides.items()})
    receipt = learner.ingest.receive(identity, to_wire([record]))
    assert not receipt.held
    assert reason in receipt.refused[record.id]
    assert learner.ingest.pending() == 0


def test_bits_beyond_the_rows_are_refused(founding: Package, make: MakeRecord) -> None:
    """A payload must be what the codec makes of its own content: no second spelling carries anything."""
    record, released = make(0), founding.manifest.released
    symbols = codec.decode_features(record.features, released, max_vectors=16)
    model, zeros = RowsModel(released, 16), np.zeros((16, 16), np.uint8)
    coder = constriction.stream.stack.AnsCoder()
    # Rows that are said to have flags of both kinds, and have none.
    for i in reversed(range(16)):
        coder.encode_reverse(np.zeros(16, np.int32), _FAMILY, model._shares(zeros, i, None))
    model._put_kinds(coder, np.full(16, BOTH, np.int32), symbols, None)
    strange = seal(16, coder, codec.ladders_of(released)[1])
    assert not codec.decode_rows(strange, released, width=16, max_vectors=16, symbols=symbols).any()
    with pytest.raises(RecordError, match="its recognition is not coded as"):
        check_declared(dataclasses.replace(record, recognition=strange), founding.manifest)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4))
def test_no_payload_breaks_the_check(founding: Package, flips: list[tuple[float, int]]) -> None:
    """A damaged payload with a right checksum is refused or decodes to something of the declared form."""
    record = coded(founding, 0, site="clinic-a", device="d")
    for name in ("features", "recognition"):
        raw = bytearray(getattr(record, name)[:-4])
        for at, bit in flips:
            raw[int(at * len(raw))] ^= 1 << bit
        payload = bytes(raw) + struct.pack("<I", zlib.crc32(raw))
        damaged = dataclasses.replace(record, **{name: payload})
        try:
            check_declared(damaged, founding.manifest)
        except RecordError:
            continue


@pytest.mark.parametrize("frames", [1, 5])
def test_a_pooled_package_takes_one_vector(
    learner: Learner, identity: DeviceIdentity, tmp_path: Path, frames: int
) -> None:
    """Classification by pooled features goes the same way."""
    pooled = tiny_package(tmp_path / "pooled", task="classification")
    learner.registry.add(pooled, metrics={})
    released = pooled.manifest.released
    rows = np.array([[0, 1, 0]], np.uint8)
    records = []
    for i in range(frames):
        bag = canonical_order(Bag(np.full((1, released.channels), i, np.uint8), rows))
        recognition = codec.encode_rows(bag.recognized, released, symbols=bag.symbols)
        features = codec.encode_features(bag.symbols, released)
        records.append(
            coded(pooled, i, site=identity.site, device=identity.device, features=features, recognition=recognition)
        )
    assert learner.ingest.receive(identity, to_wire(records)).held == {r.id for r in records}


def test_records_of_a_retired_package_are_taken(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord, successor: Package
) -> None:
    """A device that was offline comes with what the earlier package made; a rejected one never was at a device."""
    learner.registry.add(successor, metrics={})
    learner.registry.promote(successor.digest.hex())
    old, new = make(0), make(1, under=successor)
    assert learner.ingest.receive(identity, to_wire([old, new])).held == {old.id, new.id}


def other_schema() -> bytes:
    sink = io.BytesIO()
    table = pa.table({"patient": ["Jane Doe"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def one_column_more() -> bytes:
    table = to_table([make_record(0)]).append_column("note", pa.array(["Jane Doe"]))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def wrong_id() -> bytes:
    table = to_table([make_record(0)])
    table = table.set_column(0, SCHEMA.field(0), pa.array([bytes(32)], pa.binary(32)))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    return sink.getvalue()


BODIES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "random": lambda: os.urandom(5_000),
    "truncated": lambda: to_wire([make_record(0)])[:-200],
    "a third": lambda: to_wire([make_record(i) for i in range(20)])[:1_500],
    "another schema": other_schema,
    "one column more": one_column_more,
    "a wrong id": wrong_id,
    "4097 records": lambda: to_wire([make_record(i, device="d") for i in range(4_097)]),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_malformed_body_is_refused_whole(learner: Learner, identity: DeviceIdentity, what: str) -> None:
    """RecordError, and nothing of it is kept."""
    with pytest.raises(RecordError):
        learner.ingest.receive(identity, BODIES[what]())
    assert learner.ingest.pending() == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_no_altered_body_gets_in(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord, at: float, value: int
) -> None:
    """A byte changed, or (0) the rest cut off: an error, or exactly records that were sent."""
    records = [make(i) for i in range(3)]
    body = bytearray(to_wire(records))
    place = int(at * len(body))
    if value == 0:
        del body[place:]
    else:
        body[place] ^= value
    try:
        receipt = learner.ingest.receive(identity, bytes(body))
    except RecordError:
        return
    assert receipt.held <= {r.id for r in records}


def test_a_crash_between_store_and_intake_is_harmless(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records were added but their rows not deleted: the next drain adds none twice."""
    records = [make(i) for i in range(5)]
    learner.ingest.receive(identity, to_wire(records))
    add = RecordStore.add

    def add_and_die(self: RecordStore, found: list[Record]) -> int:
        add(self, found)
        raise KeyboardInterrupt

    monkeypatch.setattr(RecordStore, "add", add_and_die)
    with pytest.raises(KeyboardInterrupt):
        learner.ingest.drain()
    assert learner.ingest.pending() == 5
    monkeypatch.setattr(RecordStore, "add", add)
    assert learner.ingest.drain() == 0
    assert learner.ingest.pending() == 0
    assert len(held(learner)) == 5


def test_drained_payloads_are_gone_from_the_control_database(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord
) -> None:
    """Erasure reaches everything: what went into the store is nowhere else."""
    record = make(0)
    learner.ingest.receive(identity, to_wire([record]))
    needle = record.features[8:40]
    assert any(needle in f.read_bytes() for f in learner.path.glob("control.sqlite*"))
    learner.ingest.drain()
    assert not any(needle in f.read_bytes() for f in learner.path.glob("control.sqlite*"))


def test_erased_records_do_not_come_back(learner: Learner, identity: DeviceIdentity, make: MakeRecord) -> None:
    """A repeat of an erased record is acknowledged, so that the device forgets it, and not stored."""
    body = to_wire([make(0)])
    learner.ingest.receive(identity, body)
    learner.ingest.drain()
    assert learner.store.erase(site=identity.site) == 1
    assert learner.ingest.receive(identity, body).held == {make(0).id}
    assert learner.ingest.drain() == 0
    assert held(learner) == []


def test_a_full_database_takes_nothing_and_loses_nothing(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord
) -> None:
    """SQLite's own 'database or disk is full' becomes StorageError; what was acknowledged before stays."""
    first = make(0)
    learner.ingest.receive(identity, to_wire([first]))

    def limit(connection: Any, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(learner.control.engine, "connect", limit)
    learner.control.engine.dispose()
    body = to_wire([make(i) for i in range(1, 200)])
    with pytest.raises(StorageError, match="free space"):
        learner.ingest.receive(identity, body)
    sa.event.remove(learner.control.engine, "connect", limit)
    learner.control.engine.dispose()
    assert learner.ingest.pending() == 1
    assert len(learner.ingest.receive(identity, body).held) == 199
    assert learner.ingest.drain() == 200


def test_a_body_sent_twice_at_once_is_kept_once(learner: Learner, identity: DeviceIdentity, make: MakeRecord) -> None:
    """A device that gave up waiting repeats while the first is still under way."""
    records = [make(i) for i in range(30)]
    body, found = to_wire(records), list[frozenset[bytes]]()
    threads = [
        threading.Thread(target=lambda: found.append(learner.ingest.receive(identity, body).held)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [frozenset(r.id for r in records)] * 6
    assert learner.ingest.pending() == 30


def test_two_drains_do_not_get_in_each_others_way(learner: Learner, identity: DeviceIdentity, make: MakeRecord) -> None:
    """The server and `learner train` drain the same directory; each record is counted by one of them."""
    learner.ingest.receive(identity, to_wire([make(i) for i in range(300)]))
    other = open_learner(learner.path)
    moved: list[int] = []
    threads = [threading.Thread(target=lambda x=x: moved.append(x.ingest.drain())) for x in (learner, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(moved) == len(held(learner)) == 300
    other.control.close()


def test_the_drainer_moves_and_stops(learner: Learner, identity: DeviceIdentity, make: MakeRecord) -> None:
    """A full batch at once, the rest at the stop."""
    drainer = Drainer(learner.ingest, interval_s=60)
    drainer.start()
    learner.ingest.receive(identity, to_wire([make(i) for i in range(256)]))
    for _ in range(500):
        if learner.ingest.pending() == 0:
            break
        threading.Event().wait(0.02)
    assert learner.store.counts() == {"clinic-a": 256}
    learner.ingest.receive(identity, to_wire([make(999)]))
    assert drainer.stop()
    assert drainer.error is None
    assert learner.store.counts() == {"clinic-a": 257}


def test_a_drainer_that_cannot_store_keeps_trying(
    learner: Learner, identity: DeviceIdentity, make: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told, nothing is lost, and it goes on by itself."""
    failing = threading.Event()
    failing.set()
    add = RecordStore.add

    def full(self: RecordStore, found: list[Record]) -> int:
        if failing.is_set():
            raise StorageError("the disk is full")
        return add(self, found)

    monkeypatch.setattr(RecordStore, "add", full)
    drainer = Drainer(learner.ingest, interval_s=0.01)
    learner.ingest.receive(identity, to_wire([make(0)]))
    drainer.start()
    for _ in range(500):
        if drainer.error is not None:
            break
        threading.Event().wait(0.01)
    assert drainer.error == "the disk is full"
    assert learner.ingest.pending() == 1
    failing.clear()
    assert drainer.stop()
    assert drainer.error is None
    assert learner.ingest.pending() == 0


def test_a_record_is_padded_exactly_as_its_codec_pads(founding: Package, make: MakeRecord) -> None:
    """Of older packages, records without padding are still taken; neither codec's payload passes for the other's."""
    released = dataclasses.replace(founding.manifest.released, bag=None)
    manifest, new = dataclasses.replace(founding.manifest, released=released), make(0)
    bag = decoded(new.features, new.recognition or b"", None, founding.manifest)
    record, old = (
        dataclasses.replace(
            new,
            codec=name,
            features=codec.encode_features(bag.symbols, released, padded=name != codec.PLAIN),
            recognition=codec.encode_rows(bag.recognized, released, padded=name != codec.PLAIN),
        )
        for name in (codec.UNIFORM, codec.PLAIN)
    )
    assert len(old.features) < len(record.features)
    for good in (record, old):
        check_declared(good, manifest)
    for bad in (
        dataclasses.replace(record, codec=codec.PLAIN),
        dataclasses.replace(old, codec=codec.UNIFORM),
        dataclasses.replace(record, recognition=old.recognition),
    ):
        with pytest.raises(RecordError, match="not coded as its codec"):
            check_declared(bad, manifest)
    with pytest.raises(RecordError, match="its codec is 'bag/1', its package's 'uniform/2'"):
        check_declared(new, manifest)
