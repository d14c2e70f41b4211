"""A day's byte budget: the most informative leaves first, in no order, and nobody on the line learns which it was."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.types import Change, ChangedBy, Float32, Frame, Recognition, Task
from featureloop.device.outbox import Outbox, State, payload_bytes
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.recording import priority_of
from featureloop.device.rounds import most_informative
from featureloop.model.package import Package, seal_package
from featureloop.model.runtime import Runtime
from featureloop.sharing.change import Decision
from featureloop.sharing.near import NearDuplicates, look_of, steps_apart
from featureloop.sharing.policy import Limits, Policy, Sending, Share
from featureloop.sharing.record import Record, to_wire
from featureloop.testing import FakeClock, FakeReviewer, make_record, tiny_package, tiny_package_of

DAY = 86_400.0


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  Nothing secret is drawn.


def put_all(outbox: Outbox, priorities: list[float]) -> dict[bytes, float]:
    """Records of one size by their priorities."""
    records = [make_record(i, features=bytes([i]) * 100) for i in range(len(priorities))]
    for record, priority in zip(records, priorities, strict=True):
        outbox.put(record, frame_key=None, priority=priority)
    return {r.id: p for r, p in zip(records, priorities, strict=True)}


def size_of_one(tmp_path: Path) -> int:
    with Outbox(tmp_path / "one.sqlite") as outbox:
        put_all(outbox, [0.0])
        return outbox.waiting_bytes()


def sent_a_day(outbox: Outbox, clock: FakeClock, days: int, *, limit: int) -> list[list[bytes]]:
    """The ids that leave on each day, in their order."""
    from featureloop.core.ports import Receipt

    out = []
    for _ in range(days):
        today: list[bytes] = []
        while taken := outbox.lease(limit=limit, seconds=60):
            today += [r.id for r in taken]
            outbox.settle(Receipt(frozenset(r.id for r in taken), {}))
        out.append(today)
        clock.advance(DAY)
    return out


@pytest.mark.parametrize("limit", [1, 3, 128])
def test_what_is_most_informative_leaves_on_the_first_days_whatever_a_body_holds(tmp_path: Path, limit: int) -> None:
    clock, rng = FakeClock(), seeded(4)
    priorities = [rng.random() for _ in range(30)]
    budget = 10 * size_of_one(tmp_path)
    with Outbox(tmp_path / "outbox.sqlite", clock=clock, byte_budget=budget, rng=rng) as outbox:
        known = put_all(outbox, priorities)
        days = [sorted((known[i] for i in day), reverse=True) for day in sent_a_day(outbox, clock, 3, limit=limit)]
    assert list(chain.from_iterable(days)) == sorted(priorities, reverse=True)
    assert [len(day) for day in days] == [10, 10, 10]


def test_within_what_is_chosen_the_order_says_nothing(tmp_path: Path) -> None:
    """Over many draws, every chosen record is as often the first as any other, and a first body's mean says nothing."""
    size, first = size_of_one(tmp_path), Counter[float]()
    priorities = [i / 10 for i in range(10)]
    with Outbox(tmp_path / "outbox.sqlite", byte_budget=5 * size, rng=seeded(7)) as outbox:
        known = put_all(outbox, priorities)
        for _ in range(400):
            taken = outbox.lease(limit=2, seconds=60)
            first[known[taken[0].id]] += 1
            outbox.release([r.id for r in taken])
    assert set(first) == {0.5, 0.6, 0.7, 0.8, 0.9}
    # 80 each are expected; a standard deviation is 8.
    assert all(48 <= n <= 112 for n in first.values())


def test_where_the_budget_suffices_priorities_have_no_say(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.sqlite", byte_budget=10**9, rng=seeded(7)) as outbox:
        known, seen = put_all(outbox, [i / 10 for i in range(10)]), Counter[float]()
        for _ in range(400):
            (taken,) = outbox.lease(limit=1, seconds=60)
            seen[known[taken.id]] += 1
            outbox.release([taken.id])
    assert len(seen) == 10
    assert all(15 <= n <= 70 for n in seen.values())


def test_equal_priorities_leave_in_no_order_of_their_coming() -> None:
    found = [(i, bytes([i]), 10, 0.5) for i in range(20)]
    drawn = Counter(one[0] for seed in range(300) for one in most_informative(found, room=50, rng=seeded(seed)))
    assert len(drawn) == 20
    # 75 each are expected; a standard deviation is about 7.5.
    assert all(40 <= n <= 110 for n in drawn.values())


def test_what_does_not_fit_makes_room_for_what_does() -> None:
    found = [(0, b"0", 90, 0.9), (1, b"1", 50, 0.8), (2, b"2", 10, 0.7), (3, b"3", 5, 0.1)]
    assert {one[0] for one in most_informative(found, room=100, rng=seeded(1))} == {0, 2}
    assert most_informative(found, room=10**6, rng=seeded(1)) == found


def test_rounds_hold_records_back_whatever_their_priority(tmp_path: Path) -> None:
    clock = FakeClock()
    sending = Sending(delay_seconds=3600, batch_records=3, longest_seconds=86_400)
    with Outbox(tmp_path / "outbox.sqlite", clock=clock, byte_budget=10**6, sending=sending) as outbox:
        put_all(outbox, [2.0, 2.0])
        clock.advance(7200)
        assert outbox.lease_due(limit=9, seconds=60) == ()
        outbox.put(make_record(7), frame_key=None, priority=0.0)
        assert outbox.lease_due(limit=9, seconds=60) == ()
        clock.advance(3600)
        assert len(outbox.lease_due(limit=9, seconds=60)) == 3


def test_an_outbox_of_before_is_opened_and_what_waits_in_it_leaves_last(tmp_path: Path) -> None:
    path, size = tmp_path / "outbox.sqlite", size_of_one(tmp_path)
    with Outbox(path) as outbox:
        (old,) = put_all(outbox, [0.9])
    db = sqlite3.connect(path)
    db.executescript("ALTER TABLE entries DROP COLUMN priority; PRAGMA user_version = 1;")
    db.close()
    for _ in range(2):
        with Outbox(path, byte_budget=size) as outbox:
            assert outbox.counts()[State.PENDING] >= 1
            new = make_record(5, features=bytes([5]) * 100)
            outbox.put(new, frame_key=None, priority=0.1)
            (taken,) = outbox.lease(limit=9, seconds=60)
            assert taken.id == new.id != old
            outbox.release([taken.id])


def test_a_priority_never_leaves() -> None:
    assert "priority" not in set(Record.__dataclass_fields__)
    assert b"priority" not in to_wire([make_record(1)])


def decision(by: ChangedBy | None) -> Decision:
    change = None if by is None else Change(np.zeros((1, 1), np.uint8), by)
    return Decision("provided" if by is None else "changed", change, doubtful=True)


def test_a_priority_is_uncertainty_times_newness_after_what_people_changed() -> None:
    assert priority_of(decision(None), reliability=0.75, newness=0.5) == pytest.approx(0.125)
    assert priority_of(decision(None), reliability=1.0, newness=1.0) == 0
    people = [priority_of(decision(by), reliability=1.0, newness=0.0) for by in ChangedBy if by.verified]
    others = [
        priority_of(decision(by), reliability=0.0, newness=1.0)
        for by in (None, *ChangedBy)
        if not by or not by.verified
    ]
    bases = [priority_of(decision(None), reliability=x, newness=1.0, base=True) for x in (0.0, 0.5, 1.0)]
    assert min(people) >= max(bases)
    assert bases == sorted(bases, reverse=True)
    assert min(bases) >= max(others)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    made = tiny_package(tmp_path_factory.mktemp("priority") / "package")
    released = replace(made.manifest.released, usually_apart=8.0)
    return replace(made, manifest=replace(made.manifest, released=released))


def vectors(value: float) -> Float32:
    return np.full((16, 8), value, np.float32)


def found(p: float) -> Recognition:
    return Recognition(Task.SEGMENTATION, np.full((16, 16), p, np.float32))


def test_the_nearest_is_what_a_loop_over_all_finds_without_itself(package: Package) -> None:
    released, rng = package.manifest.released, np.random.default_rng(1)
    kept = NearDuplicates(0.0, 8.0)
    looks = [look_of(rng.uniform(-1, 1, (16, 8)).astype(np.float32), found(0.5), released) for _ in range(8)]
    assert kept.nearest(looks[0], "a") is None
    for i, look in enumerate(looks):
        kept.keep(look, "ab"[i % 2], name=i)
    for i, look in enumerate(looks):
        others = [steps_apart(look.values, other.values) for j, other in enumerate(looks) if j != i]
        assert kept.nearest(look, "ab"[i % 2], but=i) == pytest.approx(min(others))
        assert kept.nearest(look, "ab"[i % 2]) == 0.0
    kept.keep(looks[0], "a", name=0)
    assert len(kept._known["a"]) == 4


def test_new_and_doubtful_frames_and_what_a_person_changed_leave_before_the_others(
    package: Package, tmp_path: Path
) -> None:
    """Of a film's frames, in their order: seen before, new, and changed by a person though it was seen before."""
    share = Share(threshold=0.5, below_threshold=("ask", "provide"), near_duplicates=0)
    reviewer = FakeReviewer([Change(np.zeros((16, 16), np.uint8), ChangedBy.CLINICIAN)])
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner = Provider(
            site="site-a", device="tower-1", site_key=bytes(32), package=package,
            policy=Policy(share, Limits(bytes_per_day=10**6)), keeper=outbox, reviewer=reviewer, clock=FakeClock(),
        )  # fmt: skip
        frames = [(0.0, 0.9), (0.0, 0.8), (0.9, 0.9), (0.9, 0.4)]
        for i, (value, p) in enumerate(frames):
            item = Frame(np.zeros((4, 4, 3), np.uint8), "film", i, "patient 7")
            owner.provide(item, vectors(value), found(p), key=bytes([i]) * 32)
        rows = outbox._file._db.execute("SELECT priority FROM entries ORDER BY seq").fetchall()
    first, again, new, changed = (row[0] for row in rows)
    assert again == 0
    assert first == new > 0
    assert changed >= 2


@pytest.mark.parametrize("first", [True, False])
def test_where_a_day_s_bytes_are_few_base_layers_leave_and_sets_wait(tmp_path: Path, *, first: bool) -> None:
    """Of a package of both tasks every frame leaves a pooled vector and a set, which takes the more bytes.

    Classes are recognized so surely here that by what is informative they would leave last.
    """
    package = tiny_package_of(tmp_path / "package", "segmentation", "classification")
    (head,) = package.manifest.heads
    sure = replace(head, calibration=replace(head.calibration, reliability=(1.0, 1.0)))
    package = seal_package(package.path, replace(package.manifest, heads=(sure,)))
    share, clock, pixels = Share(threshold=0.0), FakeClock(), np.random.default_rng(1)
    with Outbox(tmp_path / "all.sqlite", clock=clock) as every:
        frames = [Frame(pixels.integers(0, 255, (64, 64, 3), np.uint8), f"f{i}", 0, f"g{i}") for i in range(6)]
        run_pipeline(frames, runtime=Runtime(package, threads=1), provider=provider(package, every, Policy(share)))
        records = every.lease(limit=128, seconds=60)
    pooled = sum(payload_bytes(r) for r in records if r.task == "classification")
    largest = max(payload_bytes(r) for r in records if r.task == "segmentation")
    policy = Policy(share, Limits(bytes_per_day=pooled + largest, base_first=first))
    with Outbox(tmp_path / "few.sqlite", clock=clock, byte_budget=policy.limits.bytes_per_day) as few:
        run_pipeline(frames, runtime=Runtime(package, threads=1), provider=provider(package, few, policy))
        assert few.counts()[State.PENDING] == 12
        today = Counter(r.task for r in few.lease(limit=128, seconds=60))
    assert (today["classification"] == 6) is first
    assert (today["segmentation"] == 1) is first


def provider(package: Package, outbox: Outbox, policy: Policy) -> Provider:
    return Provider(
        site="site-a", device="tower-1", site_key=bytes(32), package=package, policy=policy, keeper=outbox,
        reviewer=None, clock=FakeClock(),
    )  # fmt: skip
