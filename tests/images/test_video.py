"""Videos: whole, damaged and none at all."""

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped
from featureloop.images.video import count_frames, video_frames


def apart(path):
    items = list(video_frames(path, name=path.name))
    return [i for i in items if isinstance(i, Frame)], [i for i in items if isinstance(i, Skipped)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mov"])
def test_every_container_gives_all_frames_in_order(tmp_path, make_video, suffix):
    frames, skipped = apart(make_video(tmp_path / f"a.{suffix}"))
    assert not skipped
    assert [f.index for f in frames] == list(range(40))
    assert {f.group for f in frames} == {f"a.{suffix}"}
    assert np.abs(np.array([f.pixels.mean() for f in frames]) - (20 + 5 * np.arange(40))).max() < 3


def test_count_is_the_containers_and_none_where_it_says_nothing(tmp_path, make_video):
    assert count_frames(make_video(tmp_path / "a.mp4")) == 40
    assert count_frames(make_video(tmp_path / "a.mkv")) is None


def test_truncated_video_gives_the_frames_before_the_end_and_says_so(tmp_path, make_video):
    for name, options in {"a.mp4": {"movflags": "faststart"}, "a.mkv": {}}.items():
        path = make_video(tmp_path / name, options=options)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 7 // 10])
        frames, skipped = apart(path)
        assert 10 < len(frames) < 40, name
        assert len(skipped) == 1, name


def test_damage_in_the_middle_is_skipped_and_decoding_goes_on(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    body = data.find(b"mdat")
    middle = body + (len(data) - body) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    items = list(video_frames(path, name="a"))
    at = next(i for i, item in enumerate(items) if isinstance(item, Skipped))
    assert at >= 5
    assert f"after {at} frames" in items[at].reason
    assert any(isinstance(item, Frame) for item in items[at:])
    assert [i.index for i in items if isinstance(i, Frame)] == list(range(len(items) - 1))


@pytest.mark.parametrize("body", [b"", b"no video at all", b"\0\0\0\x18ftypmp42" + bytes(100)])
def test_what_is_no_video_is_an_input_error(tmp_path, body):
    (tmp_path / "a.mp4").write_bytes(body)
    with pytest.raises(InputError):
        apart(tmp_path / "a.mp4")


def test_video_without_its_index_is_an_input_error(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError):
        apart(path)


@pytest.mark.realdata
def test_real_clip_has_the_frames_that_its_container_declares(data):
    path = data / "video" / "colonoscopy-clinicdb-612frames-25fps.mp4"
    frames = video_frames(path, name="clip")
    assert count_frames(path) == 612
    assert sum(isinstance(frame, Frame) for frame in frames) == 612
