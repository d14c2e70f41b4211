"""Evaluation: a package against labelled folders of every task, and the page that shows it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled
from featureloop.images.phantom import HOSPITAL_A, KINDS, phantom_frame
from featureloop.learner.evaluation import evaluate
from featureloop.learner.evaluation_report import write_report
from featureloop.learner.figures import Seen
from featureloop.testing import CLASSES, tiny_package

TASKS = pytest.mark.parametrize("task", list(Task))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, LabelledFolder]:
    """The same phantoms with masks and boxes, and sorted into class folders; one file of each is broken."""
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
    shapes = {Task.CLASSIFICATION: (3, 3), Task.MULTILABEL: (3, 2, 2)}
    assert np.shape(data.get("confusion", 0)) == shapes.get(task, ())
    charts = {Task.SEGMENTATION: 3, Task.DETECTION: 4, Task.CLASSIFICATION: 5, Task.MULTILABEL: 5}
    assert page.count("data:image/png") == charts[task]
    assert page.count("data:image/jpeg") == 8
    assert "broken.png" in page
    assert "Not a medical device" in page


def grey(level: int) -> np.ndarray:
    return np.full((32, 40, 3), level, np.uint8)


def films(root: Path) -> None:
    """A class folder each with frames of 40, 80 ... 240: pages of a TIFF, and a video."""
    import av

    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
    pages = [Image.fromarray(grey(level)) for level in range(40, 241, 40)]
    pages[0].save(root / "a/pages.tif", save_all=True, append_images=pages[1:])
    with av.open(str(root / "b/film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        for page in pages:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(page), format="rgb24")))
        container.mux(stream.encode())


def test_a_case_of_a_film_shows_its_own_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame that is drawn has the number that is written under it; each file is decoded once at most."""
    from featureloop.learner import evaluation_report
    from featureloop.model.package import Package

    films(tmp_path / "in")
    folder = open_labelled(tmp_path / "in")
    package = tiny_package(tmp_path / "P", task="classification")
    told: list[tuple[int, int]] = []
    found = evaluate(
        package,
        replace(folder, classes=CLASSES[:2]),
        folder.items,
        progress=lambda _, done, of: told.append((done, of)),
    )
    assert max(told) == (2, 2)
    assert [s.index for s in found.seen] == [*range(6), *range(6)]
    drawn: list[tuple[str, int, float]] = []

    def draw(frame: Frame, seen: Seen, _package: Package) -> Image.Image:
        drawn.append((seen.name, seen.index, float(frame.pixels.mean())))
        return Image.fromarray(frame.pixels)

    monkeypatch.setattr(evaluation_report, "_DRAWN", {Task.CLASSIFICATION: draw})
    page = write_report(found, package, folder, tmp_path / "out").read_text()
    assert len(drawn) == 12
    for name, index, level in drawn:
        assert level == pytest.approx(40 * (index + 1), abs=6)
        assert f"{name}, frame {index}: " in page


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
