"""The device's side of the loop: recognition and display go on, whatever happens to the sharing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featureloop.core.errors import PolicyError, RecordError, StorageError
from featureloop.core.ports import Reviewer
from featureloop.core.types import Change, ChangedBy, Float32, Frame, Recognition, Skipped, Task, Truth
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider, check_form, effective_threshold
from featureloop.device.reviewers import TruthReviewer
from featureloop.device.state import pseudonyms
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.policy import Policy, Rotation, Share
from featureloop.sharing.record import Record, from_wire, to_wire
from featureloop.sharing.release import decoded
from featureloop.testing import FakeClock, FakeReviewer, tiny_package

SITE_KEY = bytes(range(32))
ALL = Share(threshold=0.0)
ASK = Share(threshold=1.0, below_threshold="ask")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("pipeline") / "package")


@pytest.fixture(scope="module", params=[1, 3], ids=["one-by-one", "three-at-once"])
def runtime(package: Package, request: pytest.FixtureRequest) -> Runtime:
    made = Runtime(package, threads=1)
    made.at_once = request.param
    return made


@dataclass
class _Keeper:
    """A record keeper in memory; the disk is full for the calls whose numbers are in `full`."""

    full: frozenset[int] = frozenset()
    records: dict[bytes, Record] = field(default_factory=dict)
    done: dict[bytes, str] = field(default_factory=dict)
    calls: int = 0

    def put(
        self, record: Record, *, frame_key: bytes | None, others: Collection[bytes] = (), priority: float = 0.0
    ) -> bool:
        assert 0 <= priority <= 4
        self._write()
        new = record.id not in self.records
        self.records[record.id] = record
        self.done |= {key: "record" for key in (frame_key, *others) if key is not None}
        return new

    def mark_done(self, frame_key: bytes, outcome: str) -> None:
        self._write()
        self.done[frame_key] = outcome

    def is_done(self, frame_key: bytes) -> bool:
        return frame_key in self.done

    def _write(self) -> None:
        self.calls += 1
        if self.calls in self.full:
            raise StorageError("the disk is full")


def frame(i: int, **known: object) -> Frame:
    pixels = np.random.default_rng(i).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    return replace(Frame(pixels, f"smith_jane_{i:03}.png", group="Patient Smith 1950-01-02"), **known)  # type: ignore[arg-type]


def provider(package: Package, keeper: _Keeper, share: Share = ALL, reviewer: Reviewer | None = None) -> Provider:
    return Provider(
        site="site-a",
        device="tower-1",
        site_key=SITE_KEY,
        package=package,
        policy=Policy(share),
        keeper=keeper,
        reviewer=reviewer,
        clock=FakeClock(),
    )


def answer(runtime: Runtime, item: Frame, change: Callable[[Recognition], np.ndarray]) -> Change:  # type: ignore[type-arg]
    return Change(change(runtime.recognize(runtime.extract(item.pixels))), ChangedBy.CLINICIAN)


def test_without_a_provider_frames_are_recognized_and_shown_and_nothing_is_shared(runtime: Runtime) -> None:
    frames, shown = [frame(i) for i in range(5)], []
    summary = run_pipeline(frames, runtime=runtime, show=lambda f, r: shown.append((f, r)))
    assert [f for f, _ in shown] == frames
    assert (summary.frames, summary.outcomes, summary.payload_bytes) == (5, {}, 0)
    for item, found in shown:
        expected = runtime.recognize(runtime.extract(item.pixels))
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_every_frame_is_provided_as_a_record_that_decodes_to_what_was_recognized(
    package: Package, runtime: Runtime
) -> None:
    keeper, frames = _Keeper(), [frame(i) for i in range(6)]
    owner = provider(package, keeper)
    summary = run_pipeline(frames, runtime=runtime, provider=owner)
    assert (summary.frames, summary.outcomes, summary.doubtful, summary.faults) == (6, {"provided": 6}, 0, [])
    assert keeper.done.keys() == {owner.keys_of(f)[0] for f in frames}
    released = package.manifest.released
    for item, record in zip(frames, keeper.records.values(), strict=True):
        vectors = runtime.extract(item.pixels)
        symbols = codec.quantize(vectors, released)
        targets = runtime.recognize(vectors).targets()
        sent = decoded(record.features, record.recognition or b"", None, package.manifest)
        pairs = np.concatenate([symbols, targets], axis=1).tolist()
        assert np.concatenate([sent.symbols, sent.recognized], axis=1).tolist() == sorted(pairs)
        assert (record.package, record.extractor) == (package.digest, package.extractor_digest)
    payload = sum(len(r.features) + len(r.recognition or b"") for r in keeper.records.values())
    assert summary.payload_bytes == payload


@pytest.mark.parametrize(("rotation", "same"), [("never", 3), ("year", 2), ("quarter", 1)])
def test_a_pseudonym_changes_with_its_turn(package: Package, runtime: Runtime, rotation: Rotation, same: int) -> None:
    """The same patient in one quarter, in a later one of that year, and in the next year."""
    groups = []
    for quarter in range(3):
        keeper = _Keeper()
        clock = FakeClock(datetime(2026 + quarter // 2, 4 + 6 * (quarter % 2), 1, tzinfo=UTC).timestamp())
        owner = replace(provider(package, keeper, replace(ALL, rotation=rotation)), clock=clock, group_key=bytes(32))
        run_pipeline([replace(frame(i), group="patient 7") for i in range(2)], runtime=runtime, provider=owner)
        first, second = keeper.records.values()
        assert first.group == second.group
        groups.append(first.group)
        assert owner.keys_of(frame(0)) == provider(package, keeper).keys_of(frame(0))
    assert max(groups.count(g) for g in groups) == same
    assert groups[0] in pseudonyms([bytes(32)], "patient 7", first=4 * 2026, last=4 * 2027)


def test_a_pooled_package_provides_one_vector_a_frame(tmp_path: Path) -> None:
    package, keeper = tiny_package(tmp_path / "package", task="classification"), _Keeper()
    run_pipeline([frame(0)], runtime=Runtime(package, threads=1), provider=provider(package, keeper))
    (record,) = keeper.records.values()
    assert (record.anonymizer, record.vectors, record.channels) == ("pool", 1, 16)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4000, 3), (4000, 1, 3)])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("task", list(Task))
def test_frames_of_any_shape_and_of_one_colour_are_recognized_and_provided(
    shape: tuple[int, int, int], value: int, task: Task, tmp_path: Path
) -> None:
    package, keeper = tiny_package(tmp_path / "package", task=str(task)), _Keeper()
    odd = Frame(np.full(shape, value, np.uint8), name="odd")
    summary = run_pipeline([odd], runtime=Runtime(package), provider=provider(package, keeper, ALL))
    assert summary.frames == 1
    assert not summary.faults
    (record,) = keeper.records.values()
    assert record.reliability is not None


def test_every_frame_is_recognized_and_shown_though_the_disk_is_full(package: Package, runtime: Runtime) -> None:
    keeper, frames, shown = _Keeper(full=frozenset({2, 3, 6})), [frame(i) for i in range(8)], []
    owner = provider(package, keeper)
    summary = run_pipeline(frames, runtime=runtime, provider=owner, show=lambda f, _r: shown.append(f.name))
    assert shown == [f.name for f in frames]
    assert summary.frames == 8
    lost = [frames[i] for i in (1, 2, 5)]
    assert [name for name, _ in summary.faults] == [f.name for f in lost]
    assert all(isinstance(error, StorageError) for _, error in summary.faults)
    assert summary.outcomes == {"provided": 5}
    assert not any(keeper.is_done(owner.keys_of(f)[0]) for f in lost)
    again = run_pipeline(frames, runtime=runtime, provider=owner, is_done=keeper.is_done)
    assert (again.already, again.frames, again.outcomes, again.faults) == (5, 3, {"provided": 3}, [])
    assert len(keeper.records) == 8


def test_skipped_items_are_listed_and_the_others_go_on(package: Package, runtime: Runtime) -> None:
    bad = [Skipped("a.dcm", "no pixels"), Skipped("b.png", "truncated")]
    source = [frame(0), bad[0], frame(1), bad[1]]
    summary = run_pipeline(source, runtime=runtime, provider=provider(package, _Keeper()))
    assert (summary.frames, summary.skipped) == (2, bad)


def test_an_exception_of_the_source_is_raised_after_what_came_before(package: Package, runtime: Runtime) -> None:
    def source() -> Iterator[Frame]:
        yield frame(0)
        yield frame(1)
        raise StorageError("the disk was pulled out")

    keeper, shown = _Keeper(), []
    with pytest.raises(StorageError, match="pulled out"):
        run_pipeline(
            source(), runtime=runtime, provider=provider(package, keeper), show=lambda f, _r: shown.append(f.name)
        )
    assert shown == ["smith_jane_000.png", "smith_jane_001.png"]
    assert len(keeper.records) == 2


def test_a_fault_of_the_program_in_the_sharing_is_raised_when_all_is_recognized(
    package: Package, runtime: Runtime
) -> None:
    class Broken(_Keeper):
        def put(self, record: Record, **more: Any) -> bool:
            super().put(record, **more)
            raise ZeroDivisionError

    shown = []
    with pytest.raises(ZeroDivisionError):
        run_pipeline(
            [frame(i) for i in range(4)],
            runtime=runtime,
            provider=provider(package, Broken()),
            show=lambda f, _r: shown.append(f.name),
        )
    assert len(shown) == 4


def test_a_display_that_fails_ends_the_run_with_what_was_shared_kept(package: Package, runtime: Runtime) -> None:
    keeper = _Keeper()

    def show(item: Frame, _recognition: Recognition) -> None:
        if item.name == frame(2).name:
            raise StorageError("no space for the picture")

    with pytest.raises(StorageError, match="picture"):
        run_pipeline([frame(i) for i in range(5)], runtime=runtime, provider=provider(package, keeper), show=show)
    assert len(keeper.records) == 2
    assert not [t for t in threading.enumerate() if t.name in ("decode", "sharing")]


def test_frames_that_an_earlier_run_finished_are_not_provided_again(package: Package, runtime: Runtime) -> None:
    keeper, shown = _Keeper(), []
    owner = provider(package, keeper)
    run_pipeline([frame(0), frame(1)], runtime=runtime, provider=owner)
    calls = keeper.calls
    summary = run_pipeline(
        [frame(0), frame(1), frame(2)],
        runtime=runtime,
        provider=owner,
        is_done=keeper.is_done,
        show=lambda f, _r: shown.append(f.name),
    )
    assert (summary.already, summary.frames, keeper.calls - calls) == (2, 1, 1)
    assert shown == ["smith_jane_002.png"]


def test_frames_differ_by_name_index_and_pixels(package: Package) -> None:
    owner = provider(package, _Keeper())
    same, others = frame(0), [frame(0, index=1), frame(0, name="other"), frame(1, name=frame(0).name)]
    assert owner.keys_of(same)[0] == owner.keys_of(frame(0))[0]
    assert len({owner.keys_of(f)[0] for f in [same, *others]}) == 4
    assert replace(owner, site_key=bytes(32)).keys_of(same)[0] != owner.keys_of(same)[0]


def test_the_order_of_a_restart_does_not_matter(package: Package, runtime: Runtime) -> None:
    frames, one, other = [frame(i) for i in range(6)], _Keeper(), _Keeper(full=frozenset({2}))
    run_pipeline(frames, runtime=runtime, provider=provider(package, one))
    owner = provider(package, other)
    run_pipeline(frames[:3], runtime=runtime, provider=owner, is_done=other.is_done)
    run_pipeline(frames[::-1], runtime=runtime, provider=owner, is_done=other.is_done)
    assert len(one.records) == 6
    assert one.records.keys() == other.records.keys()
    assert one.done.keys() == other.done.keys()


def test_a_doubtful_result_is_asked_about_and_what_was_changed_goes_along(package: Package, runtime: Runtime) -> None:
    frames, keeper = [frame(i) for i in range(3)], _Keeper()
    reviewer = FakeReviewer(
        [
            answer(runtime, frames[0], lambda r: 1 - r.targets()),
            None,
            answer(runtime, frames[2], lambda r: r.targets()),
        ]
    )
    owner = provider(package, keeper, ASK, reviewer)
    summary = run_pipeline(frames, runtime=runtime, provider=owner)
    assert summary.outcomes == {"changed": 1, "unanswered": 1, "confirmed": 1}
    assert (summary.doubtful, [f for f, _ in reviewer.asked]) == (3, frames)
    changed, confirmed = keeper.records.values()
    assert (changed.changed_by, confirmed.changed_by) == ("clinician", "clinician")
    assert changed.changed_when == changed.period

    left, same = (decoded(r.features, r.recognition or b"", r.changed, package.manifest) for r in (changed, confirmed))
    np.testing.assert_array_equal(left.result(), 1 - left.recognized)
    np.testing.assert_array_equal(same.result(), same.recognized)
    assert [keeper.is_done(owner.keys_of(f)[0]) for f in frames] == [True, False, True]


def test_without_anybody_to_ask_nothing_doubtful_leaves_and_its_frame_is_not_done(
    package: Package, runtime: Runtime
) -> None:
    keeper = _Keeper()
    summary = run_pipeline([frame(0), frame(1)], runtime=runtime, provider=provider(package, keeper, ASK))
    assert summary.outcomes == {"unanswered": 2}
    assert (keeper.records, keeper.done, summary.payload_bytes) == ({}, {}, 0)


@pytest.mark.parametrize(
    ("share", "outcome"),
    [(replace(ASK, below_threshold="withhold"), "withheld"), (Share(provide="nothing"), "not-wanted")],
)
def test_what_the_policy_keeps_back_is_settled_without_a_record(
    package: Package, runtime: Runtime, share: Share, outcome: str
) -> None:
    keeper = _Keeper()
    owner = provider(package, keeper, share)
    run_pipeline([frame(0)], runtime=runtime, provider=owner)
    assert (keeper.records, keeper.done) == ({}, {owner.keys_of(frame(0))[0]: outcome})


def test_of_a_groups_frames_that_are_alike_one_leaves_and_the_others_are_settled(
    package: Package, runtime: Runtime
) -> None:
    manifest = package.manifest
    known = replace(package, manifest=replace(manifest, released=replace(manifest.released, usually_apart=1e3)))
    pixels = frame(0).pixels
    turned = np.ascontiguousarray(pixels[::-1])
    frames = [
        frame(0),
        frame(1, pixels=turned),
        frame(2, pixels=turned, group="Patient Jones"),
        frame(3, pixels=pixels),
    ]
    keeper = _Keeper()
    owner = provider(known, keeper, replace(ALL, near_duplicates=0.9))
    summary = run_pipeline(frames, runtime=runtime, provider=owner)
    assert summary.outcomes == {"provided": 2, "near-duplicate": 2}
    assert [keeper.done[owner.keys_of(f)[0]] for f in frames] == [
        "record",
        "near-duplicate",
        "record",
        "near-duplicate",
    ]


def test_nobody_is_asked_about_a_frame_like_one_that_was_provided(package: Package, runtime: Runtime) -> None:
    manifest = package.manifest
    known = replace(package, manifest=replace(manifest, released=replace(manifest.released, usually_apart=1e3)))
    keeper, frames = _Keeper(), [frame(0), frame(1, pixels=frame(0).pixels)]
    reviewer = FakeReviewer([None, *(answer(runtime, f, lambda r: 1 - r.targets()) for f in frames)])
    owner = provider(known, keeper, replace(ASK, near_duplicates=0.9), reviewer)
    summary = run_pipeline([*frames[:1], *frames], runtime=runtime, provider=owner)
    # The first time there was no answer, so that it was asked again.
    assert (summary.outcomes, summary.doubtful) == ({"unanswered": 1, "changed": 1, "near-duplicate": 1}, 3)
    assert len(reviewer.asked) == 2


@pytest.mark.parametrize(
    ("content", "reliability", "recognition"),
    [("result-and-reliability", True, True), ("result", False, True), ("reliability", True, False)],
)
def test_the_policy_says_what_goes_with_the_features(
    package: Package, runtime: Runtime, content: str, *, reliability: bool, recognition: bool
) -> None:
    keeper = _Keeper()
    share = replace(ALL, content=content)  # type: ignore[arg-type]  # one of the policy's words
    run_pipeline([frame(0)], runtime=runtime, provider=provider(package, keeper, share))
    (record,) = keeper.records.values()
    assert (record.reliability is not None, record.recognition is not None) == (reliability, recognition)
    assert (record.reliability_method is not None) == reliability


def test_nothing_of_the_frames_name_or_group_is_on_the_wire(package: Package, runtime: Runtime) -> None:
    keeper, item = _Keeper(), frame(7)
    run_pipeline([item], runtime=runtime, provider=provider(package, keeper))
    body = to_wire(list(keeper.records.values()))
    assert len(from_wire(body)) == 1
    assert b"tower-1" in body
    lower = body.lower()
    for text in ("smith", "jane", "patient", "1950", "png", item.name):
        assert text.encode() not in lower
    assert SITE_KEY not in body


def test_the_group_goes_along_only_as_a_pseudonym_and_only_where_the_policy_says_so(
    package: Package, runtime: Runtime
) -> None:
    def groups(share: Share, *items: Frame) -> list[bytes | None]:
        keeper = _Keeper()
        run_pipeline(items, runtime=runtime, provider=provider(package, keeper, share))
        return [r.group for r in keeper.records.values()]

    one, same, other = groups(ALL, frame(0), frame(1), frame(2, group="Patient Jones"))
    assert one == same != other
    assert groups(ALL, frame(0, group=None)) == [None]
    assert groups(replace(ALL, groups=False), frame(0)) == [None]


def test_two_frames_with_the_same_pixels_are_one_record_and_both_are_done(package: Package, runtime: Runtime) -> None:
    keeper, twins = _Keeper(), [frame(0), frame(0, name="copy.png")]
    owner = provider(package, keeper)
    run_pipeline(twins, runtime=runtime, provider=owner)
    assert len(keeper.records) == 1
    assert all(keeper.is_done(owner.keys_of(f)[0]) for f in twins)


def test_a_frame_of_which_the_extractor_makes_nan_is_skipped_with_the_reason_and_the_next_is_recognized(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that divides by a frame's deviation gives NaN for one colour; no result is made of that."""
    broken, keeper, shown = Runtime(package, threads=1), _Keeper(), []

    class Divides:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run(self, names: Any, inputs: dict[str, Float32]) -> Any:
            share = np.float32(1 if inputs[broken._image].std() else np.nan)
            return [self.session.run(names, inputs)[0] * share]

    monkeypatch.setattr(broken, "_extractor", Divides(broken._extractor))
    black = Frame(np.zeros((30, 40, 3), np.uint8), name="black.png")
    summary = run_pipeline(
        [frame(0), black, frame(1)],
        runtime=broken,
        provider=provider(package, keeper),
        show=lambda f, _: shown.append(f.name),
    )
    assert (summary.frames, len(keeper.records), len(shown)) == (2, 2, 2)
    (skipped,) = summary.skipped
    assert skipped.name == "black.png"
    assert "128 of 128 features that the package's extractor gives for it are NaN" in skipped.reason


def test_values_that_cannot_be_coded_are_a_fault_of_that_frame_alone(package: Package, runtime: Runtime) -> None:
    keeper, item = _Keeper(), frame(0)
    owner = provider(package, keeper)
    vectors: Float32 = np.full((16, 8), np.nan, np.float32)
    found = runtime.recognize(runtime.extract(item.pixels))
    with pytest.raises(RecordError, match="NaN"):
        owner.provide(item, vectors, found, key=b"key")
    assert keeper.done == {}


def test_a_package_whose_form_the_policy_does_not_list_is_not_shared_under(package: Package) -> None:
    check_form(package, Policy(Share(anonymizers=("set",))))
    with pytest.raises(PolicyError, match="as 'set', the site's policy allows only pool"):
        check_form(package, Policy(Share(anonymizers=("pool",))))


def test_the_sites_threshold_stands_before_the_packages(package: Package) -> None:
    assert effective_threshold(package, Policy()) == package.manifest.calibration.threshold
    assert effective_threshold(package, Policy(Share(threshold=0.0))) == 0.0


def test_the_truth_answers_in_the_physicians_place_and_says_so(package: Package, runtime: Runtime) -> None:
    mask = np.zeros((70, 90), np.bool_)
    mask[:35] = True
    keeper = _Keeper()
    owner = provider(package, keeper, ASK, TruthReviewer(package.manifest))
    summary = run_pipeline([frame(0, truth=Truth(mask)), frame(1)], runtime=runtime, provider=owner)
    assert summary.outcomes == {"changed": 1, "unanswered": 1}
    (record,) = keeper.records.values()
    assert record.changed_by == "ground-truth"


def test_the_truth_of_a_class_beyond_the_packages_is_no_answer(tmp_path: Path) -> None:
    found = Recognition(Task.CLASSIFICATION, np.array([[0.9, 0.1]], np.float32))
    manifest = tiny_package(tmp_path / "package", task="classification").manifest
    reviewer = TruthReviewer(replace(manifest, labels=manifest.labels[:2]))
    change = reviewer.review(frame(0, truth=Truth(label=1)), found)
    assert change is not None
    assert change.targets.tolist() == [[0, 1]]
    assert reviewer.review(frame(0, truth=Truth(label=2)), found) is None
    assert reviewer.review(frame(0, truth=Truth()), found) is None
