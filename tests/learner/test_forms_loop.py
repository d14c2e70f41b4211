"""The loop in every released form: founded, provided, checked, learned from, and never more than was declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from featureloop.core.errors import InputError, PackageError, RecordError
from featureloop.core.types import Bag, Frame, Task
from featureloop.device.outbox import Outbox
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.reviewers import TruthReviewer
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import KINDS, phantom_frame, write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.learner.adopt import adopt
from featureloop.learner.bags import load_bags
from featureloop.learner.checks import check_declared
from featureloop.learner.founding import Founded, add_task, found_package
from featureloop.learner.founding_records import load_records
from featureloop.learner.service import open_learner
from featureloop.learner.training import TrainSettings, train_candidate
from featureloop.model.backbones import TorchBackbone
from featureloop.model.card import model_card
from featureloop.model.fit import FitSettings
from featureloop.model.founding import recognizer_spec
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.package import WEIGHTS, Package, load_package
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.codec import codec_of
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.record import Record, to_wire
from featureloop.sharing.release import coded, joined, part_of, replayed
from featureloop.sharing.together import from_together, to_together
from featureloop.testing import FakeClock, make_record, tiny_package

TINY = FoundingSettings(size=64, channels=8, epochs=1, recognizer_epochs=2, augmentations=0, width=16, blocks=1)
LOOPS = {
    "set subset=8,balanced mix=2": Task.SEGMENTATION,
    "set subset=8 noise=0.5 quantize=16": Task.DETECTION,
    "set subset=6": Task.CLASSIFICATION,
    "pool noise=0.3": Task.CLASSIFICATION,
}


def small_backbone() -> TorchBackbone:
    torch.manual_seed(1)
    early = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
    return TorchBackbone("small", 12, 16, early, nn.Sequential(nn.Conv2d(6, 12, 4, 4), nn.ReLU()))


def write_classes(path: Path) -> None:
    for i in range(40):
        frame = phantom_frame(HOSPITAL_A, seed=i, size=(64, 64))
        assert frame.truth is not None
        place = path / KINDS[frame.truth.label or 0]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.pixels).save(place / f"{i}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Path]:
    made: dict[bool, Path] = {}

    def of(task: Task) -> Path:
        whole = task is Task.CLASSIFICATION
        if whole not in made:
            path = made[whole] = tmp_path_factory.mktemp("forms") / "ours"
            if whole:
                write_classes(path)
            else:
                write_phantom_folder(path, HOSPITAL_A, seed=1, sequences=24, frames_each=2, size=(64, 64))
        return made[whole]

    return of


def founded_in(images: Callable[[Task], Path], release: str, out: Path, **settings: Any) -> Founded:
    folder = open_labelled(images(LOOPS[release]), task=LOOPS[release])
    wanted = replace(TINY, release=release, **settings)
    return found_package(folder, folder.items, out, settings=wanted, backbone=small_backbone(), replay_versions=0)


@pytest.mark.parametrize("release", LOOPS)
def test_a_package_of_a_form_is_founded_shared_under_and_trained_on(
    images: Callable[[Task], Path], tmp_path: Path, release: str
) -> None:
    founded = founded_in(images, release, tmp_path / "P0")
    package, task = load_package(founded.package.path), LOOPS[release]
    manifest, form = package.manifest, package.manifest.released.form
    assert str(replace(form, clip=0.0)) == release
    assert all(words in model_card(manifest) for words in form.words())
    assert ("epsilon" in model_card(manifest)) == bool(form.noise)
    assert manifest.recognizer.context == form.context
    assert manifest.released.usually_apart > 0
    kept = replayed(manifest)
    own = manifest.recognizer.form == "set"
    assert kept.released.form == (form.unparted if own else form), "a centre keeps whole frames, if rows have results"
    for record in load_records(founded.records):
        check_declared(record, kept)
        assert record.group is not None

    learner = open_learner(tmp_path / "learner")
    live = adopt(learner, package).package
    folder = open_labelled(images(task), task=task)
    given = [f for f in folder.frames(folder.items) if isinstance(f, Frame)]
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        device = learner.auth.enroll(learner.auth.invite("site-a"))
        owner = Provider(
            site=device.site,
            device=device.device,
            site_key=bytes(32),
            package=live,
            policy=Policy(Share(anonymizers=("none",), threshold=1.0, below_threshold="ask", near_duplicates=0)),
            keeper=outbox,
            reviewer=TruthReviewer(live.manifest),
            clock=FakeClock(),
        )
        summary = run_pipeline(given, runtime=Runtime(live, threads=1), provider=owner)
        assert not summary.faults
        records = outbox.lease(limit=200, seconds=60)
    assert len(records) == (len(given) - summary.waiting) // form.mix
    for record in records:
        check_declared(record, manifest)
    known = {package.digest: manifest}.get
    body = to_together(records, known)
    assert len(body) < len(to_wire(records))
    assert sorted(r.id for r in from_together(body, known)) == sorted(r.id for r in records)
    learner.store.add(list(records))
    settings = TrainSettings(fit=FitSettings(epochs=0.5), interpolation=0.5)
    made = train_candidate(learner.store, learner.registry, live, settings=settings)
    assert made.unreadable == 0
    assert made.records["site-a"] > 0
    assert made.package.manifest.released == live.manifest.released
    same = made.package.manifest.calibration == live.manifest.calibration
    assert same == (not kept.released.form.whole), "reliability is of whole frames"
    # It recognizes whole frames, as the network that was trained does.
    runtime, network = Runtime(made.package), build_recognizer(manifest.recognizer, channels=manifest.released.channels)
    network.load_state_dict(load_file(made.package.file(WEIGHTS)))
    vectors = release_vectors(runtime.extract(given[0].pixels), manifest.released)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(vectors)[None])[0].numpy()
    np.testing.assert_allclose(runtime.logits(vectors), expected, atol=1e-4)
    learner.control.close()


def test_without_context_a_row_is_recognized_alike_whatever_else_is_in_the_bag() -> None:
    """So what is learned from a part of a frame, or from several frames mixed, is what a frame is recognized by."""
    torch.manual_seed(0)
    rows = torch.randn(2, 30, 6)
    spec = RecognizerSpec("set", 16, 2, 4, context=False)
    network = build_recognizer(spec, channels=6).eval()
    with torch.no_grad():
        whole = network(rows)
        torch.testing.assert_close(network(rows[:, 5:9]), whole[:, 5:9])
        mixed = torch.cat([rows[:1, :10], rows[1:, 20:]], dim=1)
        torch.testing.assert_close(network(mixed), torch.cat([whole[:1, :10], whole[1:, 20:]], dim=1))
        seeing = build_recognizer(replace(spec, context=True), channels=6).eval()
        assert not torch.allclose(seeing(rows[:, 5:9]), seeing(rows)[:, 5:9], atol=1e-3)
    with pytest.raises(PackageError, match="are context"):
        build_recognizer(replace(spec, heads=4), channels=6)


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        (Task.CLASSIFICATION, {"release": "set mix=4"}, "'mix' needs a result for every vector"),
        (Task.MULTILABEL, {"release": "set mix=4", "form": "attention"}, "'mix' needs a result for every vector"),
        (Task.CLASSIFICATION, {"release": "set subset=8,balanced"}, "'balanced' needs a result for every vector"),
        (Task.CLASSIFICATION, {"release": "set", "form": "global"}, "can't learn from features in the form 'set'"),
        (Task.CLASSIFICATION, {"release": "pool", "form": "attention"}, "can't learn from features in the form 'pool'"),
        (Task.SEGMENTATION, {"release": "pool"}, "can't learn from features in the form 'pool'"),
        (Task.SEGMENTATION, {"release": "set subset=8", "heads": 4}, "leave the heads out"),
        (Task.SEGMENTATION, {"release": "grid"}, "no released form"),
    ],
)
def test_a_form_that_a_task_can_not_learn_from_is_refused(task: Task, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        recognizer_spec(task, 3, replace(TINY, **change))


def test_too_few_patients_to_mix_and_maps_too_small_are_told_before_the_training(
    images: Callable[[Task], Path], tmp_path: Path
) -> None:
    folder = open_labelled(images(Task.SEGMENTATION), task=Task.SEGMENTATION)
    for release, reason in (
        ("set mix=9", "too few to mix"),
        ("window=3", "don't part a map"),
        ("set subset=17", "16 posi"),
    ):
        with pytest.raises(InputError, match=reason):
            found_package(
                folder, folder.items, tmp_path / "P", settings=replace(TINY, release=release), backbone=small_backbone()
            )
    assert not (tmp_path / "P").exists()


def test_further_tasks_leave_the_same_vectors_as_the_first_one(images: Callable[[Task], Path], tmp_path: Path) -> None:
    first = founded_in(images, "set subset=8 noise=0.5 quantize=16", tmp_path / "P0")
    folder = open_labelled(images(Task.SEGMENTATION), task=Task.SEGMENTATION)
    made = add_task(first.package, folder, folder.items, tmp_path / "P1", settings=TINY, replay_versions=0)
    one, other = (view.manifest.released for view in made.package.views)
    assert (one.anonymizer, one.low, one.levels) == (other.anonymizer, other.low, other.levels)
    load_package(made.package.path)


# What the learner refuses


def record_of(package: Package, **other: Any) -> Record:
    """A record that a package declares; `other` replaces parts of it."""
    manifest = package.manifest
    rng, released, grid = np.random.default_rng(3), manifest.released, manifest.features.grid
    parts = []
    for _ in range(released.form.mix):
        vectors = rng.uniform(-1, 1, (grid**2, released.channels)).astype(np.float32)
        rows = rng.integers(0, 2, (grid**2, manifest.recognizer.outputs)).astype(np.uint8)
        parts.append(part_of(vectors, rows, released=released, grid=grid, secret=b"key"))
    bag = joined(parts, released=released, grid=grid)
    bag = other.pop("bag", lambda b: b)(bag)
    payload = coded(bag, released)
    values = {
        "package": package.digest,
        "extractor": package.extractor_digest,
        "task": manifest.task,
        "anonymizer": str(released.form),
        "vectors": len(bag.symbols),
        "channels": released.channels,
        "codec": codec_of(released),
        "features": payload.features,
        "recognition": payload.recognition,
        "reliability_method": manifest.calibration.method,
        "group": None,
    }
    return make_record(0, **(values | other))


def turned(bag: Bag) -> Bag:
    return Bag(bag.symbols[::-1], bag.recognized[::-1])


def shorter(bag: Bag) -> Bag:
    return Bag(bag.symbols[:-1], bag.recognized[:-1])


def swapped_in_windows(bag: Bag) -> Bag:
    order = np.arange(len(bag.symbols)).reshape(-1, 4)[::-1].reshape(-1)
    return Bag(bag.symbols[order], bag.recognized[order])


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "fewer vectors": ("set subset=6", {"bag": shorter}, "it has 5 vectors, its package declares 6"),
    "more than a subset": ("set subset=6", {"vectors": 16}, "it has 16 vectors, its package declares 6"),
    "fewer than a frame": ("set", {"bag": shorter}, "it has 15 vectors, its package declares 16"),
    "no modifier": (
        "set subset=6",
        {"anonymizer": "set"},
        "its anonymizer is 'set', its package declares 'set subset=6'",
    ),
    "less noise": ("set noise=1.0,clip=1.0", {"anonymizer": "set noise=0.5,clip=1.0"}, "its anonymizer is"),
    "the map's order": ("set", {"bag": turned}, "not in canonical order"),
    "a subset's order": ("set subset=6", {"bag": turned}, "not in canonical order"),
    "windows' order": ("window=2", {"bag": swapped_in_windows}, "not in canonical order"),
    "a group of several": ("set mix=2", {"group": bytes(16)}, "it names a group"),
    "one frame of two": ("set mix=2", {"bag": lambda b: Bag(b.symbols[::2], b.recognized[::2])}, "declares 32"),
    "another task's rows": ("set subset=6", {"recognition": b"0123456789abcdef"}, "checksum"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_record_that_carries_more_than_its_package_declares_is_refused(tmp_path: Path, what: str) -> None:
    release, other, reason = REFUSED[what]
    package = tiny_package(tmp_path / "package", release=release)
    good = record_of(package)
    check_declared(good, package.manifest)
    assert load_bags(iter([[good]]), package.manifest).symbols[0].shape[0] == good.vectors
    with pytest.raises(RecordError, match=reason):
        check_declared(record_of(package, **other), package.manifest)


def test_the_order_of_rows_with_equal_vectors_says_nothing_either(tmp_path: Path) -> None:
    """Their rows of results must stand in order, too: many orders of equal vectors could carry a message."""
    package = tiny_package(tmp_path / "package")

    def equal(bag: Bag) -> Bag:
        symbols = np.zeros_like(bag.symbols)
        rows = bag.recognized[np.lexsort(bag.recognized.T[::-1])]
        return Bag(symbols, rows)

    def told(bag: Bag) -> Bag:
        return turned(equal(bag))

    check_declared(record_of(package, bag=equal), package.manifest)
    with pytest.raises(RecordError, match="canonical order"):
        check_declared(record_of(package, bag=told), package.manifest)


def test_a_record_in_map_order_is_taken_only_where_its_package_says_so(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package", release="none")
    check_declared(record_of(package), package.manifest)
    check_declared(record_of(package, bag=turned), package.manifest)


def test_older_packages_load_as_they_were(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package")
    raw = (package.path / "featureloop.json").read_text()
    assert '"anonymizer": "set"' in raw
    assert "context" not in raw
    assert dataclasses.asdict(load_package(package.path).manifest)["recognizer"]["context"] is True
    values = codec.dequantize(np.zeros((1, 8), np.uint8), package.manifest.released)
    assert values.min() == -1
