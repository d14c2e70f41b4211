"""A file or folder as one stream: order, names, groups, and nothing ever raised by a bad file."""

from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped
from featureloop.images.source import count, open_source


def save(path, level=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (level, 0, 0)).save(path)


def names(source):
    return [item.name for item in source]


def test_folder_is_read_recursively_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "b/1.png", "a/12.png", "a/3.png", "B2.png"):
        save(tmp_path / name)
    assert names(open_source(tmp_path)) == ["2.png", "10.png", "a/3.png", "a/12.png", "b/1.png", "B2.png"]


def test_single_file_is_named_by_itself_and_a_source_can_be_read_twice(tmp_path):
    save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    assert names(source) == names(source) == ["a.png"]


def test_bad_files_are_skipped_with_a_reason_and_the_next_is_read(tmp_path):
    save(tmp_path / "1.png")
    (tmp_path / "2.png").touch()
    (tmp_path / "3.png").write_text("text")
    (tmp_path / "4.txt").write_text("text")
    (tmp_path / "5.dcm").write_bytes(b"nothing")
    (tmp_path / "6.mp4").write_bytes(b"nothing")
    (tmp_path / "7.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "8").write_bytes(b"?" * 500)
    save(tmp_path / "9.png")
    items = list(open_source(tmp_path))
    assert [item.name for item in items if isinstance(item, Frame)] == ["1.png", "9.png"]
    reasons = {item.name: item.reason for item in items if isinstance(item, Skipped)}
    assert list(reasons) == ["2.png", "3.png", "4.txt", "5.dcm", "6.mp4", "7.png", "8"]
    assert "empty" in reasons["2.png"]
    assert ".txt files are no image" in reasons["4.txt"]
    assert "no DICOM" in reasons["5.dcm"]
    assert "does not exist" in reasons["7.png"]
    assert count(tmp_path) == len(items)


def test_hidden_files_tables_and_masks_are_no_images(tmp_path):
    for name in ("images/1.png", "masks/1.png", ".hidden.png", ".git/x.png"):
        save(tmp_path / name)
    for name in ("groups.csv", "boxes.csv", "annotations.json"):
        (tmp_path / name).write_text("image,group\n1.png,p1\n")
    assert [(i.name, i.group, i.truth) for i in open_source(tmp_path)] == [("images/1.png", "p1", None)]


def test_masks_without_images_beside_them_are_images(tmp_path):
    save(tmp_path / "masks/1.png")
    assert names(open_source(tmp_path)) == ["masks/1.png"]


@pytest.mark.parametrize("named", ["images/1.png", "1.png", "1"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_groups_name_an_image_by_path_file_or_stem(tmp_path, named, separator):
    save(tmp_path / "images/1.png")
    save(tmp_path / "images/2.png")
    table = f"\ufeffimage{separator}group\r\n{named}{separator}patient 7\r\n"
    (tmp_path / "groups.csv").write_text(table, encoding="utf-8")
    assert [item.group for item in open_source(tmp_path)] == ["patient 7", None]


def test_sequences_name_a_frame_by_its_number(tmp_path):
    for name in ("images/001.png", "images/2.png", "images/0010.png"):
        save(tmp_path / name)
    (tmp_path / "sequences.csv").write_text("frame,sequence\n1,a\n02,b\n10,c\n")
    assert [item.group for item in open_source(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,patient\na,b\n", "not 'image' and 'group'"),
        ("image,group\n1.png,a\n1.png,b\n", "is in 'b' and in 'a'"),
        ("image,group\n1.png,\n", "line 2"),
        ("", "columns"),
    ],
)
def test_malformed_table_says_what_is_wrong(tmp_path, table, message):
    save(tmp_path / "1.png")
    (tmp_path / "groups.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path)


def test_table_of_another_encoding_says_so(tmp_path):
    save(tmp_path / "1.png")
    (tmp_path / "groups.csv").write_bytes("image,group\nü.png,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        open_source(tmp_path)


def test_missing_path_and_empty_folder_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    (tmp_path / ".hidden").touch()
    with pytest.raises(InputError, match="holds no files"):
        open_source(tmp_path)


def test_links_in_a_circle_end(tmp_path):
    save(tmp_path / "a/1.png")
    (tmp_path / "a/back").symlink_to(tmp_path)
    assert names(open_source(tmp_path)) == ["a/1.png"]


def test_groups_of_dicom_and_video_come_from_themselves(tmp_path, make_video):
    shipped = Path(str(pydicom.data.get_testdata_file("MR_small.dcm", download=False)))
    (tmp_path / "a").write_bytes(shipped.read_bytes())
    make_video(tmp_path / "b.mp4", frames=3)
    save(tmp_path / "c.png")
    assert [(i.name, i.group) for i in open_source(tmp_path)] == [
        ("a", "4MR1"),
        *[("b.mp4", "b.mp4")] * 3,
        ("c.png", None),
    ]
    assert count(tmp_path) == 5


def test_count_is_none_where_a_video_does_not_say(tmp_path, make_video):
    make_video(tmp_path / "a.mkv", frames=3)
    assert count(tmp_path) is None


def test_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    for i in range(5):
        save(tmp_path / f"{i}.png", i)
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **kw: opened.append(path) or real(path, **kw))
    stream = iter(open_source(tmp_path))
    assert np.array_equal(next(stream).pixels[0, 0], [0, 0, 0])
    assert len(opened) == 1


@pytest.mark.realdata
def test_real_folder_of_everything_is_read_to_its_end(data):
    items = list(open_source(data / "dicom"))
    assert sum(isinstance(i, Frame) for i in items) > 30
    assert {i.name.split("/")[0] for i in items if isinstance(i, Skipped)} <= {"broken", "no-image"}
