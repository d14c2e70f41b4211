"""A device under a package whose form mixes frames: none stands alone, and each leaves once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featureloop.core.errors import PolicyError, StorageError
from featureloop.core.types import Change, ChangedBy, Frame
from featureloop.device.outbox import Outbox, State
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider, check_form
from featureloop.learner.checks import check_declared
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.record import Record
from featureloop.sharing.release import decoded
from featureloop.testing import FakeClock, FakeReviewer, tiny_package

MIXED = "set subset=5 mix=3"
ALL = Share(threshold=0.0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("mixing") / "package", release=MIXED)


def frame(i: int, group: str | None) -> Frame:
    pixels = np.random.default_rng(i).integers(60, 256, (64, 64, 3)).astype(np.uint8)
    return Frame(pixels, f"{i}.png", group=group)


def provider(package: Package, outbox: Outbox, share: Share = ALL, reviewer: FakeReviewer | None = None) -> Provider:
    return Provider(
        site="site-a",
        device="tower-1",
        site_key=bytes(range(32)),
        package=package,
        policy=Policy(share),
        keeper=outbox,
        reviewer=reviewer,
        clock=FakeClock(),
    )


def records_of(outbox: Outbox) -> list[Record]:
    return [r for r in (outbox.get(e.id.hex()).record for e in outbox.rows()) if r is not None]


def test_frames_of_as_many_patients_share_a_record_and_are_done_with_it(package: Package, tmp_path: Path) -> None:
    frames = [frame(i, g) for i, g in enumerate(["a", "a", "b", "c", "b", "a"])]
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner, runtime = provider(package, outbox), Runtime(package)
        summary = run_pipeline(frames, runtime=runtime, provider=owner, is_done=outbox.done)
        assert (summary.outcomes, summary.waiting, summary.faults) == ({"provided": 6}, 3, [])
        (record,) = records_of(outbox)
        check_declared(record, package.manifest)
        assert (record.anonymizer, record.vectors, record.group) == (MIXED, 15, None)
        done = [outbox.done(owner.keys_of(f)[0]) for f in frames]
        assert done == [True, False, True, True, False, False]
        trusts = []
        for f in (frames[0], frames[2], frames[3]):
            recognition = runtime.recognize(runtime.extract(f.pixels))
            trusts.append(package_reliability(package, recognition))
        assert record.reliability == pytest.approx(min(trusts), abs=1e-6)
        # What leaves is of these three frames, five vectors each.
        symbols = decoded(record.features, record.recognition or b"", None, package.manifest).symbols
        sources = [
            {tuple(s) for s in codec.quantize(runtime.extract(f.pixels), package.manifest.released).tolist()}
            for f in (frames[0], frames[2], frames[3])
        ]
        found = [sum(tuple(s) in source for s in symbols.tolist()) for source in sources]
        assert found == [5, 5, 5]

        # A next run provides what was left over, with what is new, and nothing twice.
        later = provider(package, outbox)
        again = run_pipeline([*frames, frame(9, "c")], runtime=runtime, provider=later, is_done=outbox.done)
        assert (again.already, again.frames, again.waiting) == (3, 4, 1)
        assert len(records_of(outbox)) == 2


def package_reliability(package: Package, recognition: object) -> float:
    from featureloop.sharing.reliability import reliability

    return reliability(recognition, package.manifest.calibration)  # type: ignore[arg-type]


def test_frames_that_wait_are_told_and_one_patient_alone_leaves_nothing(package: Package, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner = provider(package, outbox)
        frames = [frame(i, "only") for i in range(5)]
        summary = run_pipeline(frames, runtime=Runtime(package), provider=owner, is_done=outbox.done)
        assert (summary.waiting, summary.payload_bytes, records_of(outbox)) == (5, 0, [])
        # The same frames once more, before anything left: they take their own places.
        again = run_pipeline(frames, runtime=Runtime(package), provider=owner, is_done=outbox.done)
        assert (again.frames, again.waiting) == (5, 5)


def test_frames_without_a_group_count_as_their_files(package: Package, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner, runtime = provider(package, outbox), Runtime(package)
        video = [replace(frame(i, None), name="film.mp4", index=i) for i in range(4)]
        assert run_pipeline(video, runtime=runtime, provider=owner).waiting == 4
        run_pipeline([frame(8, None), frame(9, None)], runtime=runtime, provider=owner)
        assert outbox.counts()[State.PENDING] == 1


def test_what_somebody_changed_is_mixed_with_what_was_changed_too(package: Package, tmp_path: Path) -> None:
    answers = [Change(np.full((16, 16), i % 2, np.uint8), ChangedBy.CLINICIAN) for i in range(3)]
    doubtful, sure = Share(threshold=1.0), Share(threshold=0.0)
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner = provider(package, outbox, doubtful, FakeReviewer(answers))
        runtime = Runtime(package)
        run_pipeline([frame(i, f"g{i}") for i in range(2)], runtime=runtime, provider=owner)
        confident = replace(owner, policy=Policy(sure))
        object.__setattr__(confident._recorder, "_mixers", owner._recorder._mixers)
        run_pipeline([frame(5, "g5")], runtime=runtime, provider=confident)
        assert not records_of(outbox)  # three patients wait, but not of three frames of the same kind
        run_pipeline([frame(2, "g2")], runtime=runtime, provider=owner)
        (record,) = records_of(outbox)
        check_declared(record, package.manifest)
        assert record.changed_by == "clinician"
        rows = decoded(record.features, record.recognition or b"", record.changed, package.manifest).result()
        assert sorted(rows.any(axis=1).tolist()) == [False] * 10 + [True] * 5


def test_a_full_disk_marks_none_of_them_and_the_next_frame_tries_again(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner, put, calls = provider(package, outbox), Outbox.put, []

        def full(self: Outbox, record: Record, **more: Any) -> bool:
            calls.append(record)
            if len(calls) == 1:
                raise StorageError("the disk is full")
            return put(self, record, **more)

        monkeypatch.setattr(Outbox, "put", full)
        frames = [frame(i, f"g{i}") for i in range(4)]
        summary = run_pipeline(frames, runtime=Runtime(package), provider=owner, is_done=outbox.done)
        assert [name for name, _ in summary.faults] == ["2.png"]
        assert [outbox.done(owner.keys_of(f)[0]) for f in frames] == [True, True, True, False]
        assert summary.waiting == 1


@pytest.mark.parametrize(
    "release", ["set", "window=2", "none", "set subset=4 noise=0.5,clip=1.0 quantize=4", "set subset=3 mix=2", MIXED]
)
@pytest.mark.parametrize("allowed", [("set",), ("window",), ("none",), ("pool",), ("set mix=2", "set noise=0.1")])
def test_a_package_is_refused_where_the_policy_does_not_cover_its_form(
    tmp_path: Path, release: str, allowed: tuple[str, ...]
) -> None:
    made = tiny_package(tmp_path / "package", release=release)
    policy = Policy(Share(anonymizers=allowed))
    order = ("pool", "set", "window", "none")
    base = release.split("=", maxsplit=1)[0].split(maxsplit=1)[0]
    fine = order.index(base) <= order.index(allowed[0]) if len(allowed) == 1 else "mix" in release or "noise" in release
    if fine:
        check_form(made, policy)
    else:
        with pytest.raises(PolicyError, match="allows only"):
            check_form(made, policy)


@pytest.mark.parametrize("task", ["segmentation", "detection", "classification", "multilabel"])
@pytest.mark.parametrize(
    "release",
    ["window=2", "none", "set subset=4", "set noise=0.5,clip=1.0", "pool noise=0.5,clip=1.0", "set quantize=3"],
)
def test_every_task_is_provided_in_every_form_that_suits_it(tmp_path: Path, task: str, release: str) -> None:
    if release.startswith("pool") and task in ("segmentation", "detection"):
        return
    made = tiny_package(tmp_path / "package", task=task, release=release)
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner = provider(made, outbox)
        summary = run_pipeline([frame(0, "a"), frame(1, "b")], runtime=Runtime(made), provider=owner)
        assert not summary.faults
        first, second = records_of(outbox)
        for record in (first, second):
            check_declared(record, made.manifest)
        assert first.features != second.features


def test_a_frame_that_is_provided_twice_leaves_the_same_record(tmp_path: Path) -> None:
    """Its noise and its subset are drawn by its own values, so that a repeat tells nothing new."""
    made = tiny_package(tmp_path / "package", release="set subset=4 noise=0.5,clip=1.0")
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        for _ in range(2):
            run_pipeline([frame(0, "a")], runtime=Runtime(made, threads=1), provider=provider(made, outbox))
        assert len(records_of(outbox)) == 1
