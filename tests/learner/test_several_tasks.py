"""Several tasks on one extractor: one pass extracts, several recognizers run, and each task has its own records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from featureloop.core.errors import InputError, PackageError, RecordError
from featureloop.core.types import Frame, Task, UInt8
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.reviewers import TruthReviewer
from featureloop.device.show import ResultWriter
from featureloop.device.update import _same_line
from featureloop.images.labelled import open_labelled, split
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.images.several import folders_for, together
from featureloop.learner import founding, training
from featureloop.learner.adopt import adopt
from featureloop.learner.checks import check_declared
from featureloop.learner.founding import Founded, add_task, found_package
from featureloop.learner.founding_records import load_records
from featureloop.learner.gate import Verdict, refusal
from featureloop.learner.gate import together as judged_together
from featureloop.learner.service import open_learner
from featureloop.learner.training import TrainSettings, train_candidate
from featureloop.model.backbones import TorchBackbone
from featureloop.model.fit import FitSettings
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Surroundings
from featureloop.model.manifest import Manifest
from featureloop.model.package import EXTRACTOR, RECOGNIZER, Package, load_package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.record import Record
from featureloop.testing import FakeClock

TINY = FoundingSettings(
    size=64, channels=8, epochs=1, recognizer_epochs=2, augmentations=0, width=16, blocks=1, release="set"
)
BOTH = (Task.SEGMENTATION, Task.DETECTION)


@dataclass
class _Keeper:
    """A record keeper in memory."""

    records: list[Record] = field(default_factory=list)
    done: set[bytes] = field(default_factory=set)

    def put(self, record: Record, *, frame_key: bytes | None, **_: Any) -> bool:
        self.records.append(record)
        self.done |= {frame_key} if frame_key else set()
        return True

    def mark_done(self, frame_key: bytes, outcome: str) -> None:  # noqa: ARG002  The protocol's own name.
        self.done.add(frame_key)


def small_backbone() -> TorchBackbone:
    torch.manual_seed(1)
    early = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
    return TorchBackbone("small", 12, 16, early, nn.Sequential(nn.Conv2d(6, 12, 4, 4), nn.ReLU()))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "ours"
    write_phantom_folder(path, HOSPITAL_A, seed=1, sequences=15, frames_each=2, size=(64, 64))
    return path


@pytest.fixture(scope="module")
def kinds() -> set[str]:
    """Kinds of work of the founding, as a person sees them."""
    return set()


@pytest.fixture(scope="module")
def founded(images: Path, kinds: set[str], tmp_path_factory: pytest.TempPathFactory) -> Founded:
    first, second = (open_labelled(images, task=t) for t in BOTH)
    out = tmp_path_factory.mktemp("founded") / "P0"
    return found_package(
        first,
        first.items,
        out,
        settings=TINY,
        further=[(second, second.items)],
        backbone=small_backbone(),
        replay_versions=0,
        around=Surroundings(progress=lambda what, *_: kinds.add(what.split(",")[0])),
    )


@pytest.fixture(scope="module")
def package(founded: Founded) -> Package:
    return founded.package


@pytest.mark.parametrize(("width", "padded"), [(None, False), (8, True)])
def test_of_several_tasks_neighbours_are_made_for_none_unless_asked_for(
    images: Path, tmp_path: Path, width: int | None, padded: bool
) -> None:
    first, second = (open_labelled(images, task=t) for t in BOTH)
    made = found_package(
        first,
        first.items,
        tmp_path / "P0",
        settings=replace(TINY, release="", local_width=width),
        further=[(second, second.items)],
        backbone=small_backbone(),
        replay_versions=0,
    )
    network = onnx.load(str(made.package.file(EXTRACTOR)))
    assert any(n.op_type == "Pad" for n in network.graph.node) == padded


def provider(package: Package, keeper: _Keeper) -> Provider:
    return Provider(
        site="site-a",
        device="tower-1",
        site_key=bytes(32),
        package=package,
        policy=Policy(Share(threshold=1.0, below_threshold="ask")),
        keeper=keeper,
        reviewer=TruthReviewer(package.manifest),
        clock=FakeClock(),
    )


def frames(images: Path, manifest: Manifest, most: int = 6) -> list[Frame]:
    folder = together(folders_for(images, {task: manifest.for_task(task).labels for task in manifest.tasks}))
    return [f for f in folder.frames(folder.items[:most]) if isinstance(f, Frame)]


def test_a_package_has_both_tasks_and_each_view_is_a_package_of_one(package: Package) -> None:
    assert package.manifest.tasks == BOTH
    assert [v.manifest.task for v in package.views] == list(BOTH)
    assert [v.manifest.tasks for v in package.views] == [(t,) for t in BOTH]
    assert {v.digest for v in package.views} == {package.digest}
    first, second = (v.file(RECOGNIZER) for v in package.views)
    assert first != second
    assert second.is_file()
    with pytest.raises(PackageError, match="is for segmentation, detection, not for classification"):
        package.view(Task.CLASSIFICATION)
    assert "Further task on the same extractor: detection" in package.file("docs/README.md").read_text()


def test_a_package_without_a_tasks_recognizer_is_refused(package: Package, tmp_path: Path) -> None:
    shutil.copytree(package.path, tmp_path / "P")
    (tmp_path / "P/models/detection/recognizer.onnx").unlink()
    with pytest.raises(PackageError, match=r"lacks models/detection/recognizer\.onnx"):
        load_package(tmp_path / "P")


def test_a_package_of_one_task_says_nothing_of_heads(package: Package) -> None:
    """As before there were any, so that its digest and who reads it stay the same."""
    alone = package.view(Task.SEGMENTATION).manifest
    assert "heads" not in json.loads(alone.to_json())
    assert Manifest.from_json(alone.to_json()) == alone


def test_a_manifest_with_a_task_twice_is_refused(package: Package) -> None:
    manifest = json.loads(package.manifest.to_json())
    manifest["heads"][0]["task"] = "segmentation"
    with pytest.raises(PackageError, match="'segmentation' more than once"):
        Manifest.from_json(json.dumps(manifest).encode())


def test_a_further_task_that_releases_finer_vectors_is_refused(package: Package) -> None:
    manifest = package.manifest
    (head,) = manifest.heads
    wider = replace(head, released=replace(head.released, low=(-2.0, *head.released.low[1:])))
    with pytest.raises(PackageError, match="different bounds or quantization levels"):
        Manifest.from_json(replace(manifest, heads=(wider,)).to_json())


def test_one_pass_extracts_and_every_task_is_shown_and_provided(
    package: Package, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, keeper, extracted = Runtime(package, threads=1), _Keeper(), list[int]()
    extract: Callable[[UInt8], object] = runtime.extract
    monkeypatch.setattr(runtime, "extract", lambda pixels: extracted.append(1) or extract(pixels))
    given, writer = frames(images, package.manifest), ResultWriter(tmp_path / "out", package)
    owner = provider(package, keeper)
    summary = run_pipeline(given, runtime=runtime, provider=owner, show=writer.show)
    writer.close()
    assert len(extracted) == summary.frames == len(given)
    assert set(summary.outcomes) <= {"changed", "confirmed"}, "the truth answers for both tasks"
    assert sum(summary.outcomes.values()) == 2 * len(given)
    assert sorted(r.task for r in keeper.records) == sorted(len(given) * [str(t) for t in BOTH])
    for record in keeper.records:
        check_declared(record, package.manifest)
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines} == {"segmentation", "detection"}
    assert len({line["picture"] for line in lines}) == len(lines) == 2 * len(given)
    again = run_pipeline(given, runtime=runtime, provider=owner, is_done=keeper.done.__contains__)
    assert (again.frames, again.already) == (0, len(given))


def test_a_task_that_a_stop_left_undone_is_provided_alone(package: Package, images: Path) -> None:
    runtime, keeper = Runtime(package, threads=1), _Keeper()
    owner, (frame,) = provider(package, keeper), frames(images, package.manifest, 1)
    keeper.done.add(owner.keys_of(frame)[0])
    run_pipeline([frame], runtime=runtime, provider=owner, is_done=keeper.done.__contains__)
    assert [r.task for r in keeper.records] == ["detection"]


def test_the_first_tasks_key_is_the_frames_own(package: Package, images: Path) -> None:
    """As before there were several tasks: what an outbox knows stays known."""
    owner, (frame,) = provider(package, _Keeper()), frames(images, package.manifest, 1)
    alone = replace(owner, package=package.view(Task.SEGMENTATION))
    first, second = owner.keys_of(frame)
    assert alone.keys_of(frame) == (first,)
    assert first != second


def test_a_record_of_a_task_that_its_package_has_not_is_refused(package: Package, images: Path) -> None:
    keeper = _Keeper()
    run_pipeline(
        frames(images, package.manifest, 1), runtime=Runtime(package, threads=1), provider=provider(package, keeper)
    )
    stranger = replace(keeper.records[0], task="classification")
    with pytest.raises(RecordError, match="its package declares segmentation, detection"):
        check_declared(stranger, package.manifest)
    swapped = replace(keeper.records[0], task=keeper.records[1].task)
    with pytest.raises(RecordError):
        check_declared(swapped, package.manifest)


def test_every_task_that_was_provided_for_is_trained_and_the_other_recognizer_stays(
    founded: Founded, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, keeper = founded.package, _Keeper()
    learner = open_learner(tmp_path / "learner")
    live = adopt(learner, package).package
    given = frames(images, package.manifest, 30)
    run_pipeline(given, runtime=Runtime(live, threads=1), provider=provider(live, keeper))
    learner.store.add([r for r in keeper.records if r.task == "detection"])
    settings = TrainSettings(fit=FitSettings(epochs=0.5), interpolation=0.5)
    one = train_candidate(learner.store, learner.registry, live, settings=settings)
    assert list(one.shares) == [Task.DETECTION], "no site provided for segmentation"
    assert one.package.manifest.tasks == BOTH
    same, other = ((one.package.view(t).file(RECOGNIZER), live.view(t).file(RECOGNIZER)) for t in BOTH)
    assert same[0].read_bytes() == same[1].read_bytes()
    assert other[0].read_bytes() != other[1].read_bytes()
    learner.store.add([r for r in keeper.records if r.task == "segmentation"])
    chosen = train_candidate(learner.store, learner.registry, live, settings=settings, tasks=[Task.SEGMENTATION])
    assert list(chosen.shares) == [Task.SEGMENTATION]
    with pytest.raises(InputError, match="the task detection is named twice"):
        train_candidate(learner.store, learner.registry, live, settings=settings, tasks=2 * [Task.DETECTION])
    with pytest.raises(PackageError, match="is for segmentation, detection, not for multilabel"):
        train_candidate(learner.store, learner.registry, live, settings=settings, tasks=[Task.MULTILABEL])
    good = Verdict(passed=True, probability=0.95, sites=(), reasons=())
    one_passes = {"segmentation": good, "detection": refusal("worse for site-a: 0.9 to 0.8")}
    monkeypatch.setattr(training, "judge_recognizer", lambda _bags, _choice, v, *_, **__: one_passes[v.manifest.task])
    part = train_candidate(learner.store, learner.registry, live, settings=settings)
    assert set(part.shares) == set(BOTH)
    assert part.verdict.passed
    assert [v.passed for v in part.verdicts.values()] == [True, False]
    new, same = (part.package.view(t).file(RECOGNIZER).read_bytes() for t in BOTH)
    before = [live.view(t).file(RECOGNIZER).read_bytes() for t in BOTH]
    assert new != before[0]
    assert same == before[1]
    assert part.package.manifest.heads == live.manifest.heads, "its calibration stays, too"
    assert part.package.manifest.lineage.records["site-a"] == chosen.records["site-a"] < part.records["site-a"]
    learner.registry.promote(part.package.digest.hex())
    learner.control.close()


def test_a_task_that_does_not_pass_does_not_hold_the_others_back() -> None:
    good = Verdict(passed=True, probability=0.95, sites=(), reasons=())
    verdict = judged_together({Task.SEGMENTATION: good, Task.DETECTION: refusal("worse for a")})
    assert (verdict.passed, verdict.probability, verdict.reasons) == (True, 0.95, ("detection: worse for a",))
    assert not judged_together({Task.SEGMENTATION: refusal("x"), Task.DETECTION: refusal("y")}).passed
    assert judged_together({Task.SEGMENTATION: good}) is good


def test_of_several_tasks_the_boxes_recognizer_alone_learns_from_values_as_a_device_has_them_too(
    founded: Founded, kinds: set[str]
) -> None:
    assert set(founded.package.manifest.tasks) == set(BOTH)
    boxes = "recognizer of detection"
    assert {k for k in kinds if "recognizer" in k} == {"recognizer", boxes, f"{boxes} on rounded values"}


def test_a_task_is_added_on_the_same_extractor(founded: Founded, images: Path, tmp_path: Path) -> None:
    """Classes of frames by one pooled vector, beside the two tasks of positions."""
    classes = tmp_path / "classes"
    for i, path in enumerate(sorted((images / "images").iterdir())):
        place = classes / ("polyp", "normal")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / path.name)
    folder = open_labelled(classes)
    kinds = set[str]()
    around = Surroundings(progress=lambda what, *_: kinds.add(what.split(",")[0]))
    added = add_task(
        founded.package, folder, folder.items, tmp_path / "P1", settings=TINY, replay_versions=0, around=around
    )
    assert {k for k in kinds if "recognizer" in k} == {"recognizer of classification"}, "not of rounded values"
    assert added.package.manifest.tasks == (*BOTH, Task.CLASSIFICATION)
    assert added.package.extractor_digest == founded.package.extractor_digest
    assert added.package.manifest.lineage.parent == founded.package.digest.hex()
    assert added.package.manifest.version == "1.1"
    _same_line(added.package, founded.package)
    with pytest.raises(PackageError, match="no more for classification"):
        _same_line(founded.package, added.package)
    view = added.package.view(Task.CLASSIFICATION)
    assert view.manifest.released.anonymizer == "pool"
    before, after = load_records(founded.records), load_records(added.records)
    assert {r.task for r in after} == {str(t) for t in added.package.manifest.tasks}
    assert len(after) > len(before)
    for record in after:
        check_declared(record, added.package.manifest)
    learner = open_learner(tmp_path / "learner")
    assert adopt(learner, founded.package).package.digest == founded.package.digest
    assert adopt(learner, added.package).package.digest == added.package.digest, "the live one with a further task"
    assert adopt(learner, founded.package).package.digest == added.package.digest, "an earlier one changes nothing"
    live = learner.registry.rollback(added.package.line)
    assert adopt(learner, added.package).package.digest == live.digest, "what was rolled back stays so at a restart"
    learner.control.close()
    with pytest.raises(InputError, match="recognizes classification already"):
        add_task(added.package, folder, folder.items, tmp_path / "P2", settings=TINY)


def test_a_task_that_is_named_twice_is_refused_before_anything_is_trained(images: Path, tmp_path: Path) -> None:
    folder = open_labelled(images)
    with pytest.raises(InputError, match="the task segmentation is named twice"):
        found_package(folder, folder.items, tmp_path / "P", settings=TINY, further=[(folder, folder.items)])
    assert not list(tmp_path.iterdir())


def test_what_calibrates_one_task_is_learned_from_by_none(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that name other images than the masks are split differently."""

    class _StoppedError(Exception):
        pass

    def stop(train: list[Frame], **_: object) -> None:
        learned.update(str(frame.group) for frame in train)
        raise _StoppedError

    learned: set[str] = set()
    monkeypatch.setattr(founding, "train_networks", stop)
    masks = open_labelled(images)
    labels = replace(masks, task=Task.MULTILABEL, classes=("a",))
    fewer = [replace(item, labels=(True,)) for item in masks.items if item.group != masks.items[0].group]
    with pytest.raises(_StoppedError):
        found_package(masks, masks.items, tmp_path / "P", settings=TINY, further=[(labels, fewer)])
    sides = [split(i, hold_out=founding.CALIBRATION_SHARE, seed=TINY.seed)[1] for i in (masks.items, fewer)]
    first, second = ({item.group for item in side} for side in sides)
    assert first != second
    assert learned == {item.group for item in masks.items} - first - second


def test_positions_cannot_be_recognized_from_one_vector(images: Path, tmp_path: Path) -> None:
    labels = tmp_path / "classes"
    for i, path in enumerate(sorted((images / "images").iterdir())):
        place = labels / ("a", "b")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / path.name)
    folder, masks = open_labelled(labels), open_labelled(images)
    with pytest.raises(InputError, match="founded for one vector a frame"):
        found_package(
            folder,
            folder.items,
            tmp_path / "P",
            settings=replace(TINY, release=""),
            further=[(masks, masks.items)],
            backbone=small_backbone(),
            replay_versions=0,
        )
    assert not (tmp_path / "P").exists()


def test_each_view_recognizes_what_the_package_does(package: Package, images: Path) -> None:
    runtime, (frame,) = Runtime(package, threads=1), frames(images, package.manifest, 1)
    features = runtime.extract(frame.pixels)
    for head, view in zip(runtime.heads, package.views, strict=True):
        alone = Runtime(view, threads=1).recognize(features)
        np.testing.assert_allclose(head.recognize(features).probabilities, alone.probabilities, atol=1e-6)
