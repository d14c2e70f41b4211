"""The outbox: nothing is lost, nothing is sent twice, and every move is in the table."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from featureloop.core.errors import InputError, StorageError
from featureloop.core.ports import Receipt
from featureloop.device.outbox import REPEAT, SETTLED, TRANSITIONS, Outbox, State, payload_bytes
from featureloop.sharing.record import Record
from featureloop.testing import FakeClock, make_record

DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.sqlite", clock=clock) as opened:
        yield opened


def receipt(*held: Record, refused: dict[bytes, str] | None = None) -> Receipt:
    return Receipt(frozenset(r.id for r in held), refused or {})


def state_of(outbox: Outbox, record: Record) -> State:
    return outbox.get(record.id.hex()).entry.state


def bring(outbox: Outbox, clock: FakeClock, record: Record, state: State) -> None:
    """Take a record to a state by the public methods alone."""
    outbox.put(record, frame_key=None)
    if state is State.EXPIRED:
        clock.advance(91 * DAY)
        outbox.reap()
    elif state is not State.PENDING:
        outbox.lease(limit=10, seconds=60)
    if state is State.DELIVERED:
        outbox.settle(receipt(record))
    if state is State.REFUSED:
        outbox.settle(receipt(refused={record.id: "bad"}))
    assert state_of(outbox, record) is state


Step = Callable[[Outbox, Record], object]
STEPS: dict[str, tuple[Step, float, dict[State, State]]] = {
    "lease": (lambda o, _: o.lease(limit=10, seconds=60), 0.0, {State.PENDING: State.LEASED}),
    "hold": (lambda o, r: o.settle(receipt(r)), 0.0, {State.LEASED: State.DELIVERED}),
    "refuse": (lambda o, r: o.settle(receipt(refused={r.id: "bad"})), 0.0, {State.LEASED: State.REFUSED}),
    "release": (lambda o, r: o.release([r.id]), 0.0, {State.LEASED: State.PENDING}),
    "reap at once": (lambda o, _: o.reap(), 0.0, {}),
    "reap after the lease": (lambda o, _: o.reap(), 61.0, {State.LEASED: State.PENDING}),
    "reap when old": (lambda o, _: o.reap(), 91 * DAY, {State.PENDING: State.EXPIRED, State.LEASED: State.EXPIRED}),
    "put again": (lambda o, r: o.put(r, frame_key=b"other"), 0.0, {}),
    "purge": (lambda o, _: o.purge(states=SETTLED, older_than_s=0), 0.0, {}),
}


@pytest.mark.parametrize(("start", "step"), list(itertools.product(State, STEPS)))
def test_every_step_from_every_state(outbox: Outbox, clock: FakeClock, start: State, step: str) -> None:
    """Each step moves a record exactly where the table says, and nowhere else."""
    act, seconds, moves = STEPS[step]
    record = make_record(1)
    bring(outbox, clock, record, start)
    clock.advance(seconds)
    act(outbox, record)
    end = state_of(outbox, record)
    assert end is moves.get(start, start)
    assert end is start or (start, end) in TRANSITIONS
    assert outbox.counts() == {s: int(s is end) for s in State}


def test_the_steps_cover_the_table() -> None:
    """No transition is declared that nothing makes."""
    assert {(a, b) for _, _, moves in STEPS.values() for a, b in moves.items()} == TRANSITIONS
    assert {a for a, _ in TRANSITIONS} & SETTLED == set()


def test_what_comes_out_is_what_was_put(outbox: Outbox) -> None:
    """Every field survives, with and without the optional ones."""
    records = [
        make_record(1),
        make_record(2, recognition=None, group=None, reliability=None, reliability_method=None),
        make_record(3, changed=b"\x00\xff", changed_by="clinician", changed_when=8105, features=b""),
    ]
    assert [outbox.put(r, frame_key=None) for r in records] == [True] * 3
    assert set(outbox.lease(limit=10, seconds=60)) == set(records)
    assert outbox.get(records[2].id.hex()[:10]).record == records[2]


def test_a_repeat_changes_nothing(outbox: Outbox) -> None:
    record = make_record(1)
    assert outbox.put(record, frame_key=b"a")
    assert not outbox.put(record, frame_key=b"b")
    assert outbox.counts()[State.PENDING] == 1
    assert outbox.done(b"a")
    assert outbox.done(b"b")
    assert (outbox.outcome(b"a"), outbox.outcome(b"b"), outbox.repeats()) == ("put", REPEAT, 1)
    assert not outbox.put(record, frame_key=b"a")
    assert outbox.outcome(b"a") == "put"


def test_frames_are_remembered_with_their_first_outcome(outbox: Outbox) -> None:
    assert not outbox.done(b"k")
    outbox.mark_done(b"k", "nothing in view")
    outbox.mark_done(b"k", "other")
    assert outbox.done(b"k")


def test_a_purge_keeps_what_prevents_a_second_sending(outbox: Outbox, clock: FakeClock) -> None:
    """Ids and frame keys stay as tombstones; payloads and their bytes on the disk go."""
    record = make_record(1, features=b"a payload to be found again" * 20)
    outbox.put(record, frame_key=b"k")
    outbox.lease(limit=1, seconds=60)
    outbox.settle(receipt(record))
    clock.advance(100)
    assert outbox.purge(states=[State.DELIVERED], older_than_s=101) == 0
    assert outbox.purge(states=[State.DELIVERED], older_than_s=100) == 1
    assert outbox.purge(states=[State.DELIVERED], older_than_s=100) == 0
    item = outbox.get(record.id.hex())
    assert (item.record, item.entry.period, item.entry.state) == (None, None, State.DELIVERED)
    assert not outbox.put(record, frame_key=None)
    assert outbox.done(b"k")
    outbox._file._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"found again" not in outbox._path.read_bytes()


def test_what_waits_cant_be_purged(outbox: Outbox) -> None:
    with pytest.raises(InputError, match="pending records can't be purged"):
        outbox.purge(states=list(State), older_than_s=0)


def test_a_batch_is_any_of_what_waits_in_random_order(outbox: Outbox, clock: FakeClock) -> None:
    """Neither which records leave first nor their order tells when they were put."""
    records = [make_record(i) for i in range(60)]
    for record in records:
        outbox.put(record, frame_key=None)
        clock.advance(1)
    first = outbox.lease(limit=40, seconds=60)
    assert set(first) != set(records[:40])
    assert list(first) != sorted(first, key=records.index)
    outbox.release([r.id for r in first])
    assert outbox.lease(limit=40, seconds=60) != first


def test_the_day_has_a_byte_budget(tmp_path: Path, clock: FakeClock) -> None:
    """What is delivered or on its way today counts; tomorrow the rest may go. A large record blocks no small one."""
    clock.now = 20_000 * DAY
    small = [make_record(i, features=bytes([i]) * 100, recognition=None) for i in range(5)]
    size = payload_bytes(small[0])
    large = make_record(9, features=bytes(10_000))
    with Outbox(tmp_path / "o", clock=clock, byte_budget=2 * size) as outbox:
        for record in (large, *small):
            outbox.put(record, frame_key=None)
            clock.advance(1)
        first = outbox.lease(limit=1, seconds=60)
        second = outbox.lease(limit=10, seconds=60)
        assert len({*first, *second}) == 2
        assert {*first, *second} < set(small)
        assert outbox.lease(limit=10, seconds=60) == ()
        outbox.settle(receipt(*first))
        outbox.release([r.id for r in second])
        second = outbox.lease(limit=10, seconds=60)
        assert len(second) == 1
        assert {*second} < set(small) - {*first}
        outbox.settle(receipt(*second))
        assert outbox.lease(limit=10, seconds=60) == ()
        clock.advance(DAY)
        third = outbox.lease(limit=10, seconds=60)
        assert len(third) == 2
        assert {*third} < set(small) - {*first, *second}


def test_the_watermark_refuses_more_and_says_why(tmp_path: Path, clock: FakeClock) -> None:
    records = [make_record(i, features=bytes([i]) * 100, recognition=None) for i in range(3)]
    with Outbox(tmp_path / "o", clock=clock, max_bytes=2 * payload_bytes(records[0])) as outbox:
        outbox.put(records[0], frame_key=None)
        outbox.put(records[1], frame_key=None)
        with pytest.raises(StorageError, match="bytes wait in the outbox"):
            outbox.put(records[2], frame_key=b"k")
        assert not outbox.done(b"k")
        assert not outbox.put(records[0], frame_key=b"repeat")
        outbox.lease(limit=1, seconds=60)
        with pytest.raises(StorageError):
            outbox.put(records[2], frame_key=b"k")
        outbox.lease(limit=1, seconds=60)
        outbox.settle(receipt(*records))
        assert outbox.put(records[2], frame_key=b"k")
        assert outbox.waiting_bytes() == payload_bytes(records[2])


def test_a_full_disk_loses_nothing(outbox: Outbox) -> None:
    """SQLite really runs out of pages: the put fails whole, what was there stays, and space helps."""
    pages = outbox._file._db.execute("PRAGMA page_count").fetchone()[0]
    outbox._file._db.execute(f"PRAGMA max_page_count = {pages + 8}")
    stored: list[Record] = []
    with pytest.raises(StorageError, match=r"full: free some space"):  # noqa: PT012  The loop is what fills it.
        for i in range(1000):
            record = make_record(i, features=os.urandom(4_000))
            outbox.put(record, frame_key=b"%d" % i)
            stored.append(record)
    assert stored
    assert not outbox.done(b"%d" % len(stored))
    assert outbox.counts()[State.PENDING] == len(stored)
    outbox._file._db.execute("PRAGMA max_page_count = 1000000")
    assert outbox.put(record, frame_key=b"%d" % len(stored))
    assert set(outbox.lease(limit=100, seconds=60)) == {*stored, record}


def test_a_lease_made_by_a_clock_that_was_wrong_ends(outbox: Outbox, clock: FakeClock) -> None:
    outbox.put(make_record(1), frame_key=None)
    clock.advance(5 * DAY)
    outbox.lease(limit=1, seconds=60)
    clock.advance(-5 * DAY)
    assert outbox.reap() == 1


def test_listing_and_prefixes(outbox: Outbox, clock: FakeClock) -> None:
    records = [make_record(i) for i in range(40)]
    for record in records:
        outbox.put(record, frame_key=None)
        clock.advance(1)
    assert [e.id for e in outbox.rows(limit=3)] == [r.id for r in records[:-4:-1]]
    assert outbox.rows(state=State.DELIVERED) == ()
    assert len(outbox.rows(state=State.PENDING)) == 40
    entry = outbox.rows(limit=1)[0]
    assert (entry.size, entry.period, entry.reason) == (payload_bytes(records[-1]), records[-1].period, None)
    clashing = next(a for a, b in itertools.permutations(records, 2) if a.id.hex()[0] == b.id.hex()[0])
    with pytest.raises(InputError, match="several records"):
        outbox.get(clashing.id.hex()[0])
    for wrong in ("", "  ", "f" * 64, "f" * 66):
        with pytest.raises(InputError, match="no record's id begins"):
            outbox.get(wrong)
    with pytest.raises(InputError, match="'quux' is no record id"):
        outbox.get("quux")


def test_a_refusal_keeps_its_reason(outbox: Outbox) -> None:
    record = make_record(1)
    outbox.put(record, frame_key=None)
    outbox.lease(limit=1, seconds=60)
    outbox.settle(receipt(refused={record.id: "unknown package", b"\0" * 32: "never seen"}))
    assert outbox.get(record.id.hex()).entry.reason == "unknown package"


def test_a_damaged_payload_is_not_sent(outbox: Outbox) -> None:
    """A bit that fell over on the disk makes another record; it is refused here, not there."""
    good, bad, worse = make_record(1), make_record(2), make_record(3)
    for record in (good, bad, worse):
        outbox.put(record, frame_key=None)
    outbox._file._db.execute("UPDATE records SET vectors = 17 WHERE features = ?", (bad.features,))
    outbox._file._db.execute("UPDATE records SET site = NULL WHERE features = ?", (worse.features,))
    assert outbox.lease(limit=10, seconds=60) == (good,)
    assert outbox.get(bad.id.hex()).entry.reason == "damaged on this device's disk"
    assert state_of(outbox, worse) is State.REFUSED


def test_wrong_limits_are_said(outbox: Outbox) -> None:
    for limit, seconds in ((0, 1.0), (5_000, 1.0), (1, 0.0), (1, float("nan"))):
        with pytest.raises(ValueError, match="limit must be 1 to 4096"):
            outbox.lease(limit=limit, seconds=seconds)


def test_files_that_are_no_outbox(tmp_path: Path) -> None:
    """Each error says what is wrong with the file and what to do."""
    (tmp_path / "text").write_text("this is no database, however long it is made to be" * 50)
    with pytest.raises(StorageError, match="not a database; it is no outbox, or damaged: move it away"):
        Outbox(tmp_path / "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="check that the folder exists"):
        Outbox(tmp_path / "file" / "outbox.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="can't be opened"):
        Outbox(tmp_path / "folder")
    other = sqlite3.connect(tmp_path / "newer")
    other.execute("PRAGMA user_version = 9")
    other.close()
    with pytest.raises(StorageError, match="another version"):
        Outbox(tmp_path / "newer")


def test_a_read_only_file_says_so(outbox: Outbox) -> None:
    outbox._file._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StorageError, match="check the permissions"):
        outbox.put(make_record(1), frame_key=None)


def test_damage_in_the_middle_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "o"
    with Outbox(path) as outbox:
        for i in range(200):
            outbox.put(make_record(i), frame_key=None)
    raw = bytearray(path.read_bytes())
    raw[4096 : len(raw)] = b"\xa5" * (len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(StorageError, match="damaged: move it away"), Outbox(path) as outbox:
        outbox.lease(limit=10, seconds=60)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_nobody_else_can_read_it(outbox: Outbox, tmp_path: Path) -> None:
    outbox.put(make_record(1), frame_key=None)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert "outbox.sqlite" in modes


def test_threads_share_one_outbox(outbox: Outbox) -> None:
    """Putters and lessees at once: each record is leased exactly once."""
    taken: list[bytes] = []
    lock = threading.Lock()

    def put(start: int) -> None:
        for i in range(start, start + 40):
            outbox.put(make_record(i), frame_key=b"%d" % i)

    def take() -> None:
        for _ in range(40):
            got = outbox.lease(limit=3, seconds=60)
            with lock:
                taken.extend(r.id for r in got)

    threads = [threading.Thread(target=put, args=(i * 40,)) for i in range(3)]
    threads += [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.extend(r.id for r in outbox.lease(limit=4096, seconds=60))
    assert sorted(taken) == sorted(make_record(i).id for i in range(120))


CHILD = """
    import sys
    import time
    from pathlib import Path
    from featureloop.core.ports import Receipt
    from featureloop.device.outbox import Outbox
    from featureloop.testing import make_record

    path, start, step = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with Outbox(path) as outbox:
        for i in range(start, start + 1_000_000):
            record = make_record(i)
            outbox.put(record, frame_key=b"%d" % i)
            print("put", i, flush=True)
            time.sleep(0.001)  # Else the quickest child fills the file before the slowest has begun.
            if step == "lease" and i % 5 == 4:
                leased = outbox.lease(limit=3, seconds=1000)
                outbox.settle(Receipt(frozenset(r.id for r in leased[:2]), {}))
                print("settled", " ".join(r.id.hex() for r in leased[:2]), flush=True)
"""


def child(path: Path, start: int, step: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(path), str(start), step], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two processes open the same new file, put and lease at once, and are killed in the middle.

    Whatever a process said that it had done is there, once; what it had
    leased comes back when the lease ends.
    """
    path = tmp_path / "outbox.sqlite"
    lines: list[str] = []
    children = [child(path, 0, "lease"), child(path, 2_000_000, "lease"), child(path, 4_000_000, "put")]
    for process in children:
        assert process.stdout is not None
        lines.extend(itertools.islice(process.stdout, 30))
    for process in children:
        process.send_signal(signal.SIGKILL)
    for process in children:
        assert process.stdout is not None
        lines.extend(line for line in process.stdout if line.endswith("\n"))
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
    said_put = {int(line.split()[1]) for line in lines if line.startswith("put")}
    said_settled = [h for line in lines if line.startswith("settled") for h in line.split()[1:]]
    assert said_settled
    clock = FakeClock(now=4e9)
    with Outbox(path, clock=clock, retention_s=1e12) as outbox:
        assert outbox._file._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = outbox.counts()
        # A process may have been killed between its commit and its saying so.
        assert len(said_put) <= sum(counts.values()) <= len(said_put) + 3
        assert all(outbox.done(b"%d" % i) for i in said_put)
        assert len(said_settled) == len(set(said_settled)) <= counts[State.DELIVERED]
        assert {outbox.get(h).entry.state for h in said_settled} == {State.DELIVERED}
        assert outbox.reap() == counts[State.LEASED] > 0
        waiting: list[Record] = []
        while got := outbox.lease(limit=4096, seconds=60):
            waiting.extend(got)
        assert len(waiting) == counts[State.PENDING] + counts[State.LEASED]
        delivered = {e.id for e in outbox.rows(state=State.DELIVERED, limit=100_000)}
        assert {make_record(i).id for i in said_put} <= delivered | {r.id for r in waiting}
        assert not delivered & {r.id for r in waiting}


class _Life(RuleBasedStateMachine):
    """Any order of steps: the outbox agrees with a dictionary that follows the table."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.path = Path(self.folder.name) / "outbox.sqlite"
        self.outbox = Outbox(self.path, clock=self.clock, retention_s=1000)
        self.states: dict[bytes, State] = {}
        self.born: dict[bytes, float] = {}
        self.until: dict[bytes, float] = {}
        self.delivered: list[bytes] = []

    def teardown(self) -> None:
        self.outbox.close()
        self.folder.cleanup()

    @rule(i=st.integers(0, 12))
    def put(self, i: int) -> None:
        record = make_record(i)
        assert self.outbox.put(record, frame_key=bytes([i])) == (record.id not in self.states)
        self.states.setdefault(record.id, State.PENDING)
        self.born.setdefault(record.id, self.clock.now)

    @rule(limit=st.integers(1, 5), seconds=st.sampled_from([10.0, 300.0]))
    def lease(self, limit: int, seconds: float) -> None:
        taken = self.outbox.lease(limit=limit, seconds=seconds)
        waiting = [k for k, s in self.states.items() if s is State.PENDING]
        assert len(taken) == min(limit, len(waiting))
        for record in taken:
            assert self.states[record.id] is State.PENDING
            self.states[record.id] = State.LEASED
            self.until[record.id] = self.clock.now + seconds

    @rule(held=st.sets(st.integers(0, 12)), refused=st.sets(st.integers(0, 12)))
    def settle(self, held: set[int], refused: set[int]) -> None:
        yes = {make_record(i).id for i in held}
        no = {make_record(i).id: "bad" for i in refused - held}
        self.outbox.settle(Receipt(frozenset(yes), no))
        for key, state in self.states.items():
            if state is State.LEASED and key in yes:
                self.states[key] = State.DELIVERED
                self.delivered.append(key)
            elif state is State.LEASED and key in no:
                self.states[key] = State.REFUSED

    @rule(ids=st.sets(st.integers(0, 12)))
    def release(self, ids: set[int]) -> None:
        keys = {make_record(i).id for i in ids}
        self.outbox.release(keys)
        self.states |= {k: State.PENDING for k in keys if self.states.get(k) is State.LEASED}

    @rule(seconds=st.sampled_from([1.0, 60.0, 500.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def reap(self) -> None:
        self.outbox.reap()
        now = self.clock.now
        for key, state in self.states.items():
            old = self.born[key] <= now - 1000
            if state is State.PENDING and old:
                self.states[key] = State.EXPIRED
            elif state is State.LEASED and self.until[key] <= now:
                self.states[key] = State.EXPIRED if old else State.PENDING

    @rule()
    def purge(self) -> None:
        self.outbox.purge(states=SETTLED, older_than_s=100)

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.outbox = Outbox(self.path, clock=self.clock, retention_s=1000)

    @invariant()
    def agrees(self) -> None:
        assert {e.id: e.state for e in self.outbox.rows(limit=100)} == self.states
        assert self.outbox.counts() == {s: list(self.states.values()).count(s) for s in State}
        assert len(self.delivered) == len(set(self.delivered))


_Life.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = _Life.TestCase


def test_the_size_counts_all_payloads() -> None:
    record = make_record(1, features=b"abc", recognition=b"de", changed=b"f", changed_by="clinician", changed_when=8105)
    assert payload_bytes(record) - payload_bytes(replace(record, features=b"", recognition=None)) == 5
