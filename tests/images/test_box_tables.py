"""Tables of boxes: two forms, and what is wrong with one image is told of that image only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task
from featureloop.images.labelled import open_labelled

COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 80, "height": 60},
        {"id": 8, "file_name": "b.png", "width": 80, "height": 60},
    ],
    "categories": [{"id": 3, "name": "polyp"}, {"id": 9, "name": "ulcer"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [8, 6, 40, 30]},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 80, 60]},
    ],
}


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(path)


def by_name(folder: Path) -> dict[str, Frame | Skipped]:
    return {f.name: f for f in open_labelled(folder, task=Task.DETECTION).frames()}


def test_coco_boxes_become_shares_of_the_frame_and_an_image_without_one_holds_no_lesion(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "annotations.json").write_text(json.dumps(COCO))
    folder = open_labelled(tmp_path)
    assert (folder.task, folder.classes) == (Task.DETECTION, ("polyp", "ulcer"))
    first, second, third = folder.frames()
    assert isinstance(first, Frame)
    assert first.truth is not None
    assert first.truth.boxes is not None
    assert [(b.label, b.corners()) for b in first.truth.boxes] == [
        (1, pytest.approx((0.1, 0.1, 0.6, 0.6))),
        (0, pytest.approx((0, 0, 1, 1))),
    ]
    assert isinstance(second, Frame)
    assert second.truth is not None
    assert second.truth.boxes == ()
    assert isinstance(third, Skipped)
    assert "doesn't list it" in third.reason


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d["annotations"][0].update(bbox=[8, 6, 90, 30]), "outside the image"),
        (lambda d: d["annotations"][0].update(bbox=[8, 6, 0, 30]), "no area"),
        (lambda d: d["annotations"][0].update(bbox=[8, 6, float("nan"), 30]), "no area"),
        (lambda d: d["annotations"][0].update(bbox=[8, 6]), "malformed"),
        (lambda d: d["annotations"][0].update(category_id=4), "malformed"),
        (lambda d: d["images"][0].update(width=0), "malformed"),
    ],
)
def test_what_is_wrong_with_a_box_skips_its_image_and_no_other(tmp_path: Path, change: Any, match: str) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    data = json.loads(json.dumps(COCO))
    change(data)
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    frames = by_name(tmp_path)
    bad = frames["a.png"]
    assert isinstance(bad, Skipped)
    assert match in bad.reason
    assert isinstance(frames["b.png"], Frame)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "COCO form"),
        ('{"images": []}', "COCO form"),
        ('{"images": [], "annotations": [], "categories": []}', "no categories"),
        ('{"images": [], "annotations": [{"image_id": 1}], "categories": [{"id": 1, "name": "a"}]}', "names no image"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, match: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(InputError, match=match):
        open_labelled(tmp_path)


def test_a_csv_names_images_by_path_name_or_stem_and_may_name_classes(tmp_path: Path) -> None:
    for name in ("one/a.png", "one/b.png", "two/c.png"):
        save(tmp_path / name)
    (tmp_path / "boxes.csv").write_text(
        "image,x_center,y_center,width,height,label\none/a.png,.5,.5,.2,.2,vein\nb,.5,.5,.2,.2,artery\n"
    )
    frames = by_name(tmp_path)
    labels = {n: [b.label for b in f.truth.boxes or ()] for n, f in frames.items() if isinstance(f, Frame) and f.truth}
    assert labels == {"one/a.png": [1], "one/b.png": [0], "two/c.png": []}


def test_a_csv_line_without_numbers_skips_its_image(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "boxes.csv").write_text("image,x_center,y_center,width,height\na,.5,.5,wide,.2\nb,.9,.5,.4,.2\n")
    reasons = {n: f.reason for n, f in by_name(tmp_path).items() if isinstance(f, Skipped)}
    assert "line 2" in reasons["a.png"]
    assert "outside the image" in reasons["b.png"]


def test_masks_are_boxed_when_detection_is_asked_for_and_specks_are_no_lesions(tmp_path: Path) -> None:
    for folder, picture in (
        ("images", np.full((240, 320, 3), 90, np.uint8)),
        ("masks", np.zeros((240, 320), np.uint8)),
    ):
        if folder == "masks":
            picture[24:144, 32:192] = 255
            picture[200, 280:282] = 255
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "a.png")
    (frame,) = open_labelled(tmp_path, task=Task.DETECTION).frames()
    assert isinstance(frame, Frame)
    assert frame.truth is not None
    (box,) = frame.truth.boxes or ()
    assert box.corners() == pytest.approx((0.1, 0.1, 0.6, 0.6))


def test_a_folder_that_has_no_boxes_is_refused_for_detection(tmp_path: Path) -> None:
    save(tmp_path / "a/1.png")
    save(tmp_path / "b/1.png")
    with pytest.raises(InputError, match="not labelled for detection"):
        open_labelled(tmp_path, task=Task.DETECTION)
    with pytest.raises(InputError, match="not labelled for segmentation"):
        open_labelled(tmp_path, task=Task.SEGMENTATION)
