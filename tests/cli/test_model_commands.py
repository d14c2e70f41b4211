"""`featureloop model`: from labelled images to a package, its report and its bundle, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rig import featureloop

from featureloop.cli.folders import Part, part_of
from featureloop.core.errors import InputError
from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.model.package import load_package

QUICK = ("--size", "64", "--epochs", "0.5", "--recognizer-epochs", "0.5", "--augmentations", "1", "--width", "16",
         "--blocks", "1", "--batch", "4")  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "ours"
    write_phantom_folder(path, HOSPITAL_A, seed=3, sequences=30, frames_each=1, size=(64, 64))
    return path


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of two tasks, by the command itself."""
    place = tmp_path_factory.mktemp("trained")
    command = (
        "model", "train", "--images", images, "--task", "segmentation", "--task", "detection", "--heads", "2",
        "--out", place / "P0", "--tensorboard", place / "curves", *QUICK, "--json",
    )  # fmt: skip
    done = featureloop(*command).data
    assert (done["tasks"], done["frames"], done["skipped"]) == ("segmentation, detection", 24, 0)
    return place / "P0"


def test_training_writes_the_package_that_was_asked_for_and_its_curves(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    package = load_package(trained)
    spec = package.manifest.recognizer
    assert (spec.width, spec.blocks, spec.heads) == (16, 1, 2)
    events = EventAccumulator(str(trained.parent / "curves"))
    events.Reload()
    assert any("loss" in name for name in events.Tags()["scalars"])
    assert not trained.with_name("P0.checkpoint").exists()


def test_an_evaluation_writes_a_report_with_pictures_a_task(trained: Path, images: Path, tmp_path: Path) -> None:
    command = ("model", "evaluate", trained, "--images", images, "--part", "held-out", "--out", tmp_path, "--json")
    ran = featureloop(*command)
    done = ran.data
    assert "learned from some" not in ran.said
    assert {task: found["frames"] for task, found in done["tasks"].items()} == {"segmentation": 6, "detection": 6}
    for task in done["tasks"]:
        page = (tmp_path / task / "report.html").read_text()
        assert "data:image" in page
        kept = json.loads((tmp_path / task / "evaluation.json").read_text())
        assert kept["figures"] == done["tasks"][task]["figures"]


def test_an_evaluation_says_where_a_package_may_have_learned_from_the_images(trained: Path, images: Path) -> None:
    for options in ((), ("--part", "held-out", "--seed", "2")):
        ran = featureloop("model", "evaluate", trained, "--images", images, "--task", "detection", *options)
        assert "learned from some of them; what it didn't: --part held-out --hold-out 0.2 --seed 1" in ran.said


def test_a_package_goes_through_a_bundle_unchanged(trained: Path, tmp_path: Path) -> None:
    featureloop("model", "export", trained, "--monai-bundle", tmp_path / "bundle", "--task", "detection")
    done = featureloop("model", "import", tmp_path / "bundle", "--out", tmp_path / "P1", "--json").data
    assert done["digest"] == load_package(trained).digest.hex()


def test_a_hold_out_of_nothing_says_so(images: Path) -> None:
    items = open_labelled(images).items
    with pytest.raises(InputError, match="of 30 groups a hold-out of 0 leaves none on the side 'held-out'"):
        part_of(items, Part.HELD_OUT, hold_out=0.0, seed=1)


def test_a_further_task_is_added_as_asked(images: Path, trained: Path, tmp_path: Path) -> None:
    stems = sorted(path.stem for path in (images / "images").iterdir())
    rows = "".join(f"{stem},{i % 2},{(i + 1) % 2}\n" for i, stem in enumerate(stems))
    (images / "labels.csv").write_text(f"image,blood,polyp\n{rows}")
    command = (
        "model", "add-task", trained, "--images", images, "--task", "multilabel", "--form", "attention", "--heads", "2",
        "--width", "16", "--blocks", "1", "--recognizer-epochs", "0.5", "--augmentations", "0", "--batch", "4",
        "--out", tmp_path / "P1", "--tensorboard", tmp_path / "curves", "--json",
    )  # fmt: skip
    assert featureloop(*command).data["tasks"] == "segmentation, detection, multilabel"
    spec = load_package(tmp_path / "P1").view(Task.MULTILABEL).manifest.recognizer
    assert (spec.form, spec.width, spec.blocks, spec.heads) == ("attention", 16, 1, 2)
    assert any((tmp_path / "curves").iterdir())
