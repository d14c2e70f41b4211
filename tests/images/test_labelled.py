"""Labelled folders: layouts, truth, groups, and a split that keeps groups together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task
from featureloop.images.labelled import open_labelled, split
from featureloop.images.source import open_source
from featureloop.images.truths import LabelledItem


def save(path, size=(8, 6), level=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def test_images_and_masks_are_a_segmentation(tmp_path):
    save(tmp_path / "images/1.jpg")
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 255
    save(tmp_path / "masks/1.png")
    Image.fromarray(mask).save(tmp_path / "masks/1.png")
    folder = open_labelled(tmp_path)
    (frame,) = folder.frames()
    assert (folder.task, folder.classes) == (Task.SEGMENTATION, ("lesion",))
    assert frame.name == frame.group == "images/1.jpg"
    assert np.array_equal(frame.truth.mask, mask > 0)


def test_names_are_those_of_the_plain_source(tmp_path):
    for name in ("images/2.png", "images/10.png", "masks/2.png", "masks/10.png"):
        save(tmp_path / name)
    assert [f.name for f in open_labelled(tmp_path).frames()] == [f.name for f in open_source(tmp_path)]
    for name in ("x/2.png", "y/10.png"):
        save(tmp_path / "c" / name)
    assert [f.name for f in open_labelled(tmp_path / "c").frames()] == [f.name for f in open_source(tmp_path / "c")]


def test_missing_bad_and_differing_masks_are_skipped_and_the_rest_is_read(tmp_path):
    for name in ("1", "2", "3", "4"):
        save(tmp_path / f"images/{name}.png")
    save(tmp_path / "masks/2.png", size=(9, 6))
    (tmp_path / "masks/3.png").write_text("broken")
    save(tmp_path / "masks/4.png")
    one, two, three, four = open_labelled(tmp_path).frames()
    assert isinstance(one, Skipped)
    assert "no mask" in one.reason
    assert "8 x 6" in two.reason
    assert "9 x 6" in two.reason
    assert three.reason.startswith("its mask: ")
    assert isinstance(four, Frame)


def test_image_with_several_frames_cannot_share_one_mask(tmp_path):
    save(tmp_path / "masks/1.png")
    (tmp_path / "images").mkdir()
    page = Image.new("L", (8, 6), 9)
    page.save(tmp_path / "images/1.tif", save_all=True, append_images=[page])
    items = list(open_labelled(tmp_path).frames())
    assert isinstance(items[-1], Skipped)
    assert "several frames" in items[-1].reason


def test_class_folders_are_a_classification_with_sorted_classes(tmp_path):
    for name in ("normal/1.png", "bleeding/1.png", "bleeding/2.png"):
        save(tmp_path / name)
    (tmp_path / "boxes.csv").write_text("ignored")
    folder = open_labelled(tmp_path)
    assert (folder.task, folder.classes) == (Task.CLASSIFICATION, ("bleeding", "normal"))
    labels = [(f.name, f.truth.label) for f in folder.frames()]
    assert labels == [("bleeding/1.png", 0), ("bleeding/2.png", 0), ("normal/1.png", 1)]


def test_chosen_items_only_are_decoded(tmp_path):
    for i in range(4):
        save(tmp_path / f"{'ab'[i % 2]}/{i}.png")
    folder = open_labelled(tmp_path)
    assert [f.name for f in folder.frames(folder.items[1:3])] == [i.name for i in folder.items[1:3]]


@pytest.mark.parametrize(
    "names", [["1.png", "2.png"], ["one/1.png"], ["images/1.png"], ["train/a/1.png", "train/b/1.png", "test/a/2.png"]]
)
def test_other_layouts_are_refused_with_the_known_ones(tmp_path, names):
    for name in names:
        save(tmp_path / name)
    with pytest.raises(InputError, match=r"DIR/images and DIR/masks .* found"):
        open_labelled(tmp_path)


def test_missing_folder_and_folder_without_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        open_labelled(tmp_path / "nowhere")
    save(tmp_path / "masks/1.png")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        open_labelled(tmp_path)


def test_groups_come_from_the_table(tmp_path):
    for i in range(3):
        save(tmp_path / f"images/{i}.png")
        save(tmp_path / f"masks/{i}.png")
    (tmp_path / "groups.csv").write_text("image,group\n0.png,p\n1.png,p\n")
    assert [i.group for i in open_labelled(tmp_path).items] == ["p", "p", "images/2.png"]


def items(groups):
    return [LabelledItem(f"{i}", group, None) for i, group in enumerate(groups)]


def test_a_thousand_singletons_split_into_800_and_200():
    rest, held = split(items(f"g{i}" for i in range(1000)), hold_out=0.2, seed=1)
    assert (len(rest), len(held)) == (800, 200)


@given(st.lists(st.sampled_from("abcdefgh")), st.floats(0, 1), st.integers(0, 2**32))
def test_split_is_by_group_complete_and_repeatable(groups, share, seed):
    everything = items(groups)
    rest, held = split(everything, hold_out=share, seed=seed)
    assert not {i.group for i in rest} & {i.group for i in held}
    assert sorted(rest + held, key=lambda i: int(i.name)) == everything
    assert all(int(a.name) < int(b.name) for side in (rest, held) for a, b in pairwise(side))
    assert len({i.group for i in held}) == round(share * len(set(groups)))
    assert split(everything, hold_out=share, seed=seed) == (rest, held)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_impossible_share_is_refused(share):
    with pytest.raises(InputError, match="hold_out"):
        split([], hold_out=share, seed=0)


@pytest.mark.realdata
def test_real_sequences_stay_together(data):
    folder = open_labelled(data / "polyps" / "cvc-clinicdb")
    rest, held = split(folder.items, hold_out=0.2, seed=1)
    assert len({i.group for i in folder.items}) == 29
    assert len({i.group for i in held}) == 6
    assert all(isinstance(f, Frame) and f.truth.mask.any() for f in folder.frames(rest[:5]))


def test_several_labels_come_from_a_table_with_a_column_for_each_class(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("image,polyp,blood\na.png,1,1\nb,0,1\n")
    folder = open_labelled(tmp_path)
    assert (folder.task, folder.classes) == (Task.MULTILABEL, ("polyp", "blood"))
    assert [(f.name, f.truth.labels) for f in folder.frames()] == [("a.png", (True, True)), ("b.png", (False, True))]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,polyp\na,2\n", "line 2: .* must be 0 or 1"),
        ("image,polyp\na,\n", "must be 0 or 1"),
        ("image\na\n", "must be 0 or 1"),
        ("image,polyp\n", "names no image"),
        ("image,polyp\nother,1\n", "names no image that is in"),
        ("file,polyp\na,1\n", "'image'"),
    ],
)
def test_a_table_of_labels_that_says_anything_else_is_refused(tmp_path, text, match):
    save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        open_labelled(tmp_path)


def test_labels_count_in_the_order_of_the_packages_classes(tmp_path):
    for name in ("normal/1.png", "bleeding/1.png"):
        save(tmp_path / name)
    folder = open_labelled(tmp_path).with_classes(("ulcer", "normal", "bleeding"))
    assert [(f.name, f.truth.label) for f in folder.frames()] == [("bleeding/1.png", 2), ("normal/1.png", 1)]
    with pytest.raises(InputError, match="labelled normal, which the package doesn't know"):
        open_labelled(tmp_path).with_classes(("bleeding", "ulcer"))


def test_boxes_and_several_labels_count_in_the_order_of_the_packages_classes(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text("image,x_center,y_center,width,height,label\na,.5,.5,.2,.2,vein\n")
    (tmp_path / "labels.csv").write_text("image,polyp,blood\na.png,1,0\n")
    (frame,) = open_labelled(tmp_path, task=Task.DETECTION).with_classes(("artery", "vein")).frames()
    assert [b.label for b in frame.truth.boxes] == [1]
    (frame,) = open_labelled(tmp_path, task=Task.DETECTION).with_classes(("lesion",)).frames()
    assert [b.label for b in frame.truth.boxes] == [0]
    several = open_labelled(tmp_path, task=Task.MULTILABEL)
    (frame,) = several.with_classes(("blood", "polyp")).frames()
    assert frame.truth.labels == (False, True)
    with pytest.raises(InputError, match="no column for ulcer"):
        several.with_classes(("blood", "polyp", "ulcer"))


def test_a_table_of_groups_that_names_no_image_is_refused_and_one_that_lacks_some_is_told(tmp_path):
    for i in range(3):
        save(tmp_path / f"images/{i}.png")
        save(tmp_path / f"masks/{i}.png")
    (tmp_path / "groups.csv").write_text("image,group\npolyp-0,p\npolyp-1,p\n")
    with pytest.raises(InputError, match=r"names none of the 3 images, 'images/0\.png' for one"):
        open_labelled(tmp_path)
    (tmp_path / "groups.csv").write_text("image,group\n0,p\n1,p\n")
    assert open_labelled(tmp_path).notes == (
        "1 images are in no group, 'images/2.png' for one: each counts as its own",
    )
    (tmp_path / "groups.csv").write_text("image,group\n0,p\n1,p\n2,q\n")
    assert open_labelled(tmp_path).notes == ()


def test_boxes_of_images_that_are_not_there_are_refused(tmp_path):
    """Else the images that were meant would count as showing nothing."""
    for i in range(2):
        save(tmp_path / f"polyp_{i}.png")
    one = "image,x_center,y_center,width,height\npolyp_0,.5,.5,.2,.2\n"
    (tmp_path / "boxes.csv").write_text(f"{one}polyp1,.5,.5,.2,.2\n")
    with pytest.raises(InputError, match="boxes of 1 images that aren't in the folder, 'polyp1' for one"):
        open_labelled(tmp_path, task=Task.DETECTION)
    (tmp_path / "boxes.csv").write_text(one)
    assert [len(f.truth.boxes) for f in open_labelled(tmp_path, task=Task.DETECTION).frames()] == [1, 0]


def test_labels_of_several_classes_are_said_once_and_what_they_leave_out_is_told(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("image,blood\n0,1\n0.png,0\n1,0\n")
    folder = open_labelled(tmp_path, task=Task.MULTILABEL)
    assert folder.notes == ("labels.csv doesn't name 1 images, '2.png' for one: they are left out",)
    (tmp_path / "labels.csv").write_text("image,blood\n0,1\n1,0\n0,0\n")
    with pytest.raises(InputError, match="line 4: '0' has other labels"):
        open_labelled(tmp_path, task=Task.MULTILABEL)


def test_one_class_of_two_names_is_taken_for_the_other_only_where_one_has_no_name_of_its_own(tmp_path):
    save(tmp_path / "0.png")
    (tmp_path / "boxes.csv").write_text("image,x_center,y_center,width,height,label\n0,.5,.5,.2,.2,instrument\n")
    folder = open_labelled(tmp_path, task=Task.DETECTION)
    assert folder.with_classes(("lesion",)).notes == ("'instrument' of the images is taken for 'lesion'",)
    with pytest.raises(InputError, match="labelled instrument, which the package doesn't know; it knows polyp"):
        folder.with_classes(("polyp",))


def test_a_single_class_folder_is_a_class_where_its_name_is_known(tmp_path):
    save(tmp_path / "bleeding/1.png")
    with pytest.raises(InputError, match="no labelled folder"):
        open_labelled(tmp_path, task=Task.CLASSIFICATION)
    folder = open_labelled(tmp_path, task=Task.CLASSIFICATION, known=("bleeding", "normal"))
    assert [f.truth.label for f in folder.with_classes(("normal", "bleeding")).frames()] == [1]
