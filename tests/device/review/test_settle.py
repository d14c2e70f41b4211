"""From answers to records: provided once, by the package in use, and the images are gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.errors import StorageError
from featureloop.core.types import ChangedBy, Frame
from featureloop.device.outbox import Outbox
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.review.cases import Answer, CaseState
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.review.settle import Settling
from featureloop.device.update_thread import Setup
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.testing import FakeClock, tiny_package


@dataclass
class Desk:
    """A device's parts with five doubtful frames in the queue."""

    queue: ReviewQueue
    outbox: Outbox
    setup: Setup
    told: list[str] = field(default_factory=list)

    def settling(self) -> Settling:
        """What settles answers at once."""
        return Settling(
            self.queue, using=lambda: self.setup, outcome=self.outbox.outcome, tell=self.told.append, undo_s=0.0
        )


def setup(package: Package, outbox: Outbox, queue: ReviewQueue) -> Setup:
    provider = Provider(
        site="site-a", device="tower", site_key=bytes(32), package=package, policy=Policy(Share(threshold=1.0)),
        keeper=outbox, reviewer=None, clock=FakeClock(), later=queue,
    )  # fmt: skip
    return Setup(Runtime(package, threads=1), provider)


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    package = tiny_package(tmp_path / "package", release=getattr(request, "param", ""))
    queue = ReviewQueue(tmp_path / "review.sqlite", key=bytes(32))
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        used = setup(package, outbox, queue)
        noise = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3)).astype(np.uint8)
        frames = [Frame(p, f"{i}.png", group=f"patient {i}") for i, p in enumerate(noise)]
        run_pipeline(frames, runtime=used.runtime, provider=used.provider)
        yield Desk(queue, outbox, used)
    queue.close()


def decide(desk: Desk, number: int, kind: str = "changed") -> None:
    found = desk.queue.case(number).asked.recognition.targets()
    rows = {"confirmed": found, "changed": 1 - found, "rejected": None}[kind]
    desk.queue.decide(number, reader="anna", answer=Answer(kind, rows))  # type: ignore[arg-type]  # of the three kinds


def test_what_readers_said_becomes_records_of_a_clinician_once(desk: Desk) -> None:
    for number, kind in ((1, "changed"), (2, "confirmed"), (3, "rejected")):
        decide(desk, number, kind)
    assert desk.settling().settle() == 3
    assert desk.settling().settle() == 0
    records = desk.outbox.lease(limit=9, seconds=60)
    assert len(records) == 2
    assert {r.changed_by for r in records} == {str(ChangedBy.CLINICIAN)}
    assert desk.queue.counts()[CaseState.SETTLED] == 3


def test_a_crash_between_outbox_and_queue_provides_nothing_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    decide(desk, 1)
    with monkeypatch.context() as broken:

        def full(_queue: ReviewQueue, _number: int) -> None:
            raise StorageError("the disk is full")

        broken.setattr(ReviewQueue, "settle", full)
        with pytest.raises(StorageError):
            desk.settling().settle()
    assert desk.settling().settle() == 1
    assert len(desk.outbox.lease(limit=9, seconds=60)) == 1


def test_trouble_with_one_case_leaves_the_others_alone(desk: Desk, tmp_path: Path) -> None:
    import sqlite3

    for number in (1, 2):
        decide(desk, number)
    with sqlite3.connect(tmp_path / "review.sqlite") as db:
        db.execute("UPDATE cases SET sealed = randomblob(99) WHERE number = 1")
    with pytest.raises(StorageError, match="damaged"):
        desk.settling().settle()
    assert desk.queue.counts()[CaseState.SETTLED] == 1


def test_a_newer_package_recognizes_again_first(desk: Desk, tmp_path: Path) -> None:
    """The record's original is of the package that it names."""
    decide(desk, 1, "changed")
    newer = tiny_package(tmp_path / "newer", recognizer_seed=5)
    desk.setup = setup(newer, desk.outbox, desk.queue)
    assert desk.settling().settle() == 1
    (record,) = desk.outbox.lease(limit=9, seconds=60)
    assert record.package == newer.digest


def test_where_the_policy_lets_nothing_leave_answers_wait(desk: Desk) -> None:
    decide(desk, 1)
    desk.setup = Setup(desk.setup.runtime, None)
    assert desk.settling().settle() == 0
    assert desk.queue.counts()[CaseState.ANSWERED] == 1


@pytest.mark.parametrize("desk", ["set mix=2"], indirect=True)
def test_a_mixed_form_keeps_a_case_until_its_record_is_in_the_outbox(desk: Desk) -> None:
    """What waits in memory for another frame is lost by a kill; its case must not be."""
    decide(desk, 1)
    assert desk.settling().settle() == 0
    assert desk.queue.counts()[CaseState.SETTLING] == 1
    decide(desk, 2)
    settling = desk.settling()
    settling.settle()
    settling.settle()
    assert desk.queue.counts()[CaseState.SETTLED] == 2
    assert len(desk.outbox.lease(limit=9, seconds=60)) == 1
