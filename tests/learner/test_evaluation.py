"""Evaluation: a package against labelled folders of every task, and the page that shows it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.core.types import Task
from featureloop.images.labelled import LabelledFolder, open_labelled
from featureloop.images.phantom import HOSPITAL_A, KINDS, phantom_frame
from featureloop.learner.evaluation import evaluate
from featureloop.learner.evaluation_report import write_report
from featureloop.testing import CLASSES, tiny_package

TASKS = pytest.mark.parametrize("task", list(Task))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, LabelledFolder]:
    """The same phantoms with masks and boxes, and sorted into class folders; one file of each is broken."""
    from PIL import Image

    root = tmp_path_factory.mktemp("phantoms")
    for i in range(9):
        frame = phantom_frame(HOSPITAL_A, seed=i, size=(64, 64))
        assert frame.truth is not None
        assert frame.truth.label is not None
        assert frame.truth.mask is not None
        places = (root / "masks/images", root / "masks/masks", root / "classes" / CLASSES[frame.truth.label % 3])
        mask = frame.truth.mask.astype(np.uint8) * 255
        for place, picture in zip(places, (frame.pixels, mask, frame.pixels), strict=True):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{i}.png")
    for name in CLASSES:
        (root / "classes" / name).mkdir(exist_ok=True)
        (root / "classes" / name / "broken.png").write_bytes(b"no image")
    (root / "masks/images/broken.png").write_bytes(b"no image")
    shutil.copytree(root / "masks/images", root / "labels")
    rows = [f"{i},{i % 2},{(i + 1) % 2},{i % 3 % 2}" for i in range(9)]
    (root / "labels/labels.csv").write_text("\n".join([f"image,{','.join(CLASSES)}", *rows, "broken,0,0,0"]))
    assert len(KINDS) == 3
    places_of = {
        Task.SEGMENTATION: "masks",
        Task.DETECTION: "masks",
        Task.CLASSIFICATION: "classes",
        Task.MULTILABEL: "labels",
    }
    return {task: open_labelled(root / name, task=task) for task, name in places_of.items()}


@TASKS
def test_every_task_is_evaluated_and_its_page_is_written(
    task: Task, folders: dict[Task, LabelledFolder], tmp_path: Path
) -> None:
    package = tiny_package(tmp_path / "package", task=str(task))
    folder = folders[task]
    found = evaluate(package, folder, folder.items)
    assert found.frames == 9
    assert found.skipped
    assert ((found.values >= 0) & (found.values <= 1)).all()
    page = write_report(found, package, folder, tmp_path / "out").read_text()
    data = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert set(data["figures"]) == {f.name for f in found.figures}
    for name in data["figures"]:
        assert name in page
    charts = {Task.SEGMENTATION: 3, Task.DETECTION: 4, Task.CLASSIFICATION: 5, Task.MULTILABEL: 4}
    assert page.count("data:image/png") == charts[task]
    assert page.count("data:image/jpeg") == 8
    assert "broken.png" in page
    assert "Not a medical device" in page


def test_images_of_other_labels_are_refused(folders: dict[Task, LabelledFolder], tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package", task="classification")
    with pytest.raises(InputError, match="labelled for segmentation"):
        evaluate(package, folders[Task.SEGMENTATION], folders[Task.SEGMENTATION].items)
    strange = replace(folders[Task.CLASSIFICATION], classes=("adenoma", "hyperplastic", "ulcer"))
    with pytest.raises(InputError, match="ulcer, which the package doesn't know"):
        evaluate(package, strange, strange.items)


def test_where_no_frame_can_be_read_the_first_reason_is_told(
    folders: dict[Task, LabelledFolder], tmp_path: Path
) -> None:
    package = tiny_package(tmp_path / "package")
    folder = folders[Task.SEGMENTATION]
    broken = [i for i in folder.items if "broken" in i.name]
    with pytest.raises(InputError, match=r"none of the 1 frames .* images/broken\.png"):
        evaluate(package, folder, broken)
