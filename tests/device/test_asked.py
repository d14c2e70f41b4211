"""Doubtful results that wait for a person: kept before they count as done, answered once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.errors import PackageError, RecordError, StorageError
from featureloop.core.types import Asked, Change, ChangedBy, Frame, UInt8
from featureloop.device.outbox import Outbox, State
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.release import decoded
from featureloop.testing import FakeAskLater, FakeClock, tiny_package

ASK = Share(threshold=1.0, below_threshold="ask")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("asked") / "package")


@pytest.fixture(scope="module")
def runtime(package: Package) -> Runtime:
    return Runtime(package, threads=1)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.sqlite") as opened:
        yield opened


def frame(i: int, group: str = "patient 7") -> Frame:
    pixels = np.random.default_rng(i).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    return Frame(pixels, f"{i}.png", group=group)


def provider(package: Package, outbox: Outbox, later: FakeAskLater, share: Share = ASK) -> Provider:
    return Provider(
        site="site-a",
        device="tower-1",
        site_key=bytes(32),
        package=package,
        policy=Policy(share),
        keeper=outbox,
        reviewer=None,
        clock=FakeClock(),
        later=later,
    )


def said(targets: UInt8) -> Change:
    return Change(targets, ChangedBy.CLINICIAN)


def asked_about(runtime: Runtime, owner: Provider, outbox: Outbox, later: FakeAskLater, *frames: Frame) -> list[Asked]:
    run_pipeline(frames, runtime=runtime, provider=owner, is_done=outbox.done)
    return list(later.kept.values())


def test_a_doubtful_result_waits_for_a_person_and_its_frame_is_not_recognized_again(
    package: Package, runtime: Runtime, outbox: Outbox
) -> None:
    later, item = FakeAskLater(), frame(0)
    owner = provider(package, outbox, later)
    summary = run_pipeline([item], runtime=runtime, provider=owner, is_done=outbox.done)
    assert (summary.outcomes, summary.doubtful, summary.payload_bytes) == ({"asked": 1}, 1, 0)
    (key,) = owner.keys_of(item)
    (asked,) = later.kept.values()
    assert (asked.key, asked.frame, asked.package) == (key, item, package.digest)
    assert asked.reliability < 1
    np.testing.assert_array_equal(asked.vectors, runtime.extract(item.pixels))
    found = runtime.recognize(asked.vectors)
    np.testing.assert_array_equal(asked.recognition.probabilities, found.probabilities)
    assert outbox.outcome(key) == "asked"
    again = run_pipeline([item], runtime=runtime, provider=owner, is_done=outbox.done)
    assert (again.already, again.frames) == (1, 0)


def test_what_cannot_be_kept_is_a_fault_and_is_asked_about_the_next_time(
    package: Package, runtime: Runtime, outbox: Outbox
) -> None:
    later = FakeAskLater([StorageError("the disk is full")])
    owner = provider(package, outbox, later)
    first = run_pipeline([frame(0)], runtime=runtime, provider=owner, is_done=outbox.done)
    assert [str(error) for _, error in first.faults] == ["the disk is full"]
    assert outbox.outcome(owner.keys_of(frame(0))[0]) is None
    assert len(asked_about(runtime, owner, outbox, later, frame(0))) == 1


@pytest.mark.parametrize("flip", [True, False])
def test_an_answer_is_provided_once_however_often_it_is_given(
    package: Package, runtime: Runtime, outbox: Outbox, *, flip: bool
) -> None:
    later = FakeAskLater()
    owner = provider(package, outbox, later)
    (asked,) = asked_about(runtime, owner, outbox, later, frame(0))
    targets = asked.recognition.targets()
    answer = said(1 - targets if flip else targets)
    decision, size = owner.answer(asked, answer)
    assert (decision.outcome, decision.doubtful) == ("changed" if flip else "confirmed", True)
    assert size > 0
    # A quarter later, the record would read otherwise; the frame has been provided, so that it stands.
    owner.clock.advance(100 * 86_400)  # type: ignore[attr-defined]  # a FakeClock
    repeat, more = owner.answer(asked, answer)
    assert (repeat.outcome, more) == (decision.outcome, 0)
    assert owner.answer(asked, said(np.zeros_like(targets)))[1] == 0
    assert outbox.counts()[State.PENDING] == 1
    (record,) = outbox.lease(limit=9, seconds=60)
    assert (record.changed_by, record.reliability) == ("clinician", pytest.approx(asked.reliability))
    bag = decoded(record.features, record.recognition or b"", record.changed, package.manifest)
    np.testing.assert_array_equal(bag.result(), 1 - bag.recognized if flip else bag.recognized)
    assert outbox.outcome(asked.key) == "put"


def test_the_record_is_the_one_that_an_answer_at_once_had_given(
    package: Package, runtime: Runtime, outbox: Outbox, tmp_path: Path
) -> None:
    class Flips:
        def review(self, _frame: Frame, recognition: object) -> Change:
            return said(1 - recognition.targets())  # type: ignore[attr-defined]  # a Recognition

    later = FakeAskLater()
    owner = provider(package, outbox, later)
    (asked,) = asked_about(runtime, owner, outbox, later, frame(0))
    owner.answer(asked, said(1 - asked.recognition.targets()))
    with Outbox(tmp_path / "other.sqlite") as other:
        run_pipeline([frame(0)], runtime=runtime, provider=replace(owner, keeper=other, reviewer=Flips()))
        assert [r.id for r in other.lease(limit=9, seconds=60)] == [r.id for r in outbox.lease(limit=9, seconds=60)]


def test_a_rejected_result_leaves_nothing_and_stays_rejected(
    package: Package, runtime: Runtime, outbox: Outbox
) -> None:
    later = FakeAskLater()
    owner = provider(package, outbox, later)
    (asked,) = asked_about(runtime, owner, outbox, later, frame(0))
    decision, size = owner.answer(asked, None)
    assert (decision.outcome, size, outbox.outcome(asked.key)) == ("withheld", 0, "withheld")
    assert owner.answer(asked, said(asked.recognition.targets()))[1] == 0
    assert outbox.counts()[State.PENDING] == 0


def test_a_confirmed_result_does_not_leave_where_only_changed_ones_may(
    package: Package, runtime: Runtime, outbox: Outbox
) -> None:
    later = FakeAskLater()
    owner = provider(package, outbox, later, replace(ASK, provide="changed"))
    (asked,) = asked_about(runtime, owner, outbox, later, frame(0))
    assert owner.answer(asked, said(asked.recognition.targets()))[0].outcome == "not-wanted"
    assert outbox.outcome(asked.key) == "not-wanted"


def test_an_answer_of_another_form_or_under_another_package_is_refused(
    package: Package, runtime: Runtime, outbox: Outbox
) -> None:
    later = FakeAskLater()
    owner = provider(package, outbox, later)
    (asked,) = asked_about(runtime, owner, outbox, later, frame(0))
    targets = asked.recognition.targets()
    for wrong in (targets[1:], targets[:, 1:], targets.astype(np.int64), targets + 2):
        with pytest.raises(RecordError):
            owner.answer(asked, said(wrong))
    with pytest.raises(PackageError, match="0101"):
        owner.answer(replace(asked, package=b"\1" * 32), said(targets))
    assert outbox.outcome(asked.key) == "asked"
    assert outbox.counts()[State.PENDING] == 0


def test_an_answer_that_waits_to_be_mixed_is_not_done_until_its_record_is_kept(tmp_path: Path, outbox: Outbox) -> None:
    package = tiny_package(tmp_path / "mixed", release="set mix=2")
    later, runtime = FakeAskLater(), Runtime(package, threads=1)
    owner = provider(package, outbox, later, replace(ASK, anonymizers=("set mix=2",)))
    one, other = asked_about(runtime, owner, outbox, later, frame(0), frame(1, group="patient 8"))
    for _ in range(2):
        assert owner.answer(one, said(one.recognition.targets()))[1] == 0
        assert (outbox.outcome(one.key), owner.waiting) == ("asked", 1)
    assert owner.answer(other, said(other.recognition.targets()))[1] > 0
    assert (outbox.outcome(one.key), outbox.outcome(other.key), owner.waiting) == ("put", "put", 0)
    assert outbox.counts()[State.PENDING] == 1


def test_a_person_is_asked_about_one_of_several_frames_that_are_alike(
    package: Package, runtime: Runtime, outbox: Outbox
) -> None:
    released = replace(package.manifest.released, usually_apart=1e3)
    known = replace(package, manifest=replace(package.manifest, released=released))
    later = FakeAskLater()
    owner = provider(known, outbox, later, replace(ASK, near_duplicates=0.9))
    twin = replace(frame(1), pixels=frame(0).pixels)
    summary = run_pipeline([frame(0), twin], runtime=runtime, provider=owner)
    assert summary.outcomes == {"asked": 1, "near-duplicate": 1}
