"""A labelled folder that serves several tasks: which ones, the truth of all, and one split for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.images.several import folders_for, held_groups, together

LESION = ("lesion",)


def tasks_of(folders: tuple[LabelledFolder, ...]) -> list[Task]:
    return [folder.task for folder in folders]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve frames with masks."""
    write_phantom_folder(tmp_path / "ours", HOSPITAL_A, seed=1, sequences=6, frames_each=2, size=(64, 64))
    return tmp_path / "ours"


def label(images: Path, names: list[str]) -> None:
    """Write `labels.csv` for some of the images."""
    rows = [f"{name},{i % 2},{1 - i % 2}" for i, name in enumerate(names)]
    (images / "labels.csv").write_text("\n".join(["image,blood,stool", *rows]) + "\n")


def test_masks_serve_segmentation_and_detection_under_the_packages_names(images: Path) -> None:
    folders = folders_for(images, {Task.SEGMENTATION: LESION, Task.DETECTION: ("polyp",)})
    assert tasks_of(folders) == [Task.SEGMENTATION, Task.DETECTION]
    assert folders[1].classes == ("polyp",)
    frames = [f for f in together(folders).frames() if isinstance(f, Frame) and f.truth is not None]
    assert len(frames) == 12
    assert all(f.truth is not None and f.truth.mask is not None and f.truth.boxes is not None for f in frames)
    assert any(f.truth is not None and f.truth.boxes for f in frames)


def test_a_task_without_labels_is_left_out_and_none_is_an_error(images: Path, tmp_path: Path) -> None:
    assert tasks_of(folders_for(images, {Task.CLASSIFICATION: ("a", "b"), Task.SEGMENTATION: LESION})) == [
        Task.SEGMENTATION
    ]
    with pytest.raises(InputError, match="not labelled for classification: it must have"):
        folders_for(images, {Task.CLASSIFICATION: ("a", "b")})
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="not labelled for segmentation: it must have"):
        folders_for(tmp_path / "plain", {Task.SEGMENTATION: LESION, Task.DETECTION: LESION})
    with pytest.raises(InputError, match="is no folder"):
        folders_for(tmp_path / "nowhere", {Task.SEGMENTATION: LESION, Task.DETECTION: LESION})


def test_a_malformed_table_is_not_taken_for_a_missing_one(images: Path) -> None:
    (images / "boxes.csv").write_text("picture,x\n1,2\n")
    with pytest.raises(InputError, match=r"boxes\.csv has the columns"):
        folders_for(images, {Task.SEGMENTATION: LESION, Task.DETECTION: LESION})


def test_folders_beside_a_table_of_boxes_are_classes_only_by_the_packages_names(tmp_path: Path) -> None:
    for name in ("train/1.png", "val/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (8, 6)).save(tmp_path / name)
    (tmp_path / "annotations.json").write_text(
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "lesion"}]}'
    )
    both = {Task.CLASSIFICATION: ("adenoma", "normal"), Task.DETECTION: LESION}
    assert tasks_of(folders_for(tmp_path, both)) == [Task.DETECTION]
    both[Task.CLASSIFICATION] = ("train", "val")
    assert tasks_of(folders_for(tmp_path, both)) == [Task.CLASSIFICATION, Task.DETECTION]


def test_an_image_that_only_one_task_is_labelled_for_is_among_the_frames(images: Path) -> None:
    label(images, ["00001", "00002", "extra"])
    Image.new("RGB", (64, 64)).save(images / "images/extra.png")
    (images / "masks/00002.png").unlink()
    folders = folders_for(images, {Task.MULTILABEL: ("blood", "stool"), Task.SEGMENTATION: LESION})
    frames = {f.name: f.truth for f in together(folders).frames() if isinstance(f, Frame)}
    assert len(frames) == 13
    known = {
        name: (truth is not None and truth.mask is not None, truth is not None and truth.labels is not None)
        for name, truth in frames.items()
    }
    assert known["images/00001.png"] == (True, True)
    assert known["images/00002.png"] == known["images/extra.png"] == (False, True)
    assert known["images/00003.png"] == (True, False)


def test_what_one_task_holds_out_is_held_out_of_all(images: Path) -> None:
    """Other images are another split, so that the extractor would see by one task what another is judged on."""
    (images / "groups.csv").unlink()
    label(images, [f"{i:05}" for i in range(1, 9)])
    masks, labels = (open_labelled(images, task=t) for t in (Task.SEGMENTATION, Task.MULTILABEL))
    parts = (masks.items, labels.items)
    alone = [{item.group for item in split(items, hold_out=0.25, seed=1)[1]} for items in parts]
    assert alone[0] != alone[1]
    assert held_groups(parts, hold_out=0.25, seed=1) == alone[0] | alone[1]
    assert held_groups(parts[:1], hold_out=0.25, seed=1) == alone[0]
