"""Video files and streams, decoded by FFmpeg (PyAV), one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, UInt8
from featureloop.images.guard import check_frames, check_size, read_head, reading

_RGB: Final = "rgb24"
_SLACK: Final = 0.5
"""Seconds by which containers round the duration that they declare."""


def video_frames(path: Path, *, name: str, group: str | None = None) -> Iterator[Frame | Skipped]:
    """Decode a video file.

    Parameters
    ----------
    path
        The file, of any container and codec that FFmpeg knows.
    name
        Taken over into the frames.
    group
        Taken over into the frames; `name` where None, since the frames of one
        video show one patient.

    Yields
    ------
    Frame
        pixels uint8 (H, W, 3), turned upright by the container's display
        matrix; `index` counts the decoded frames from 0.
    Skipped
        Where the stream is damaged, once per damage: decoding goes on at the
        next key frame. Also at the end, where the file is shorter than its
        container declares.

    Raises
    ------
    InputError
        The file is missing or empty, no video, or holds frames too large.
    """
    read_head(path, 1)
    return stream_frames(path, name=name, group=name if group is None else group)


def stream_frames(source: Path | IO[bytes], *, name: str, group: str | None) -> Iterator[Frame | Skipped]:
    """Decode a video from a file or from bytes; as `video_frames`."""
    container, stream = _open(source)
    with container:
        index = 0
        shown_until = 0.0
        damaged = False
        waiting_for_key = False
        for packet in _packets(container, stream):
            if isinstance(packet, InputError):
                yield Skipped(name, f"after {index} frames: {packet}")
                return
            if waiting_for_key and not packet.is_keyframe:
                continue
            try:
                if packet.pts is not None and packet.time_base:
                    shown_until = max(shown_until, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                for pixels in _decode(packet, stream):
                    yield Frame(pixels, name=name, index=index, group=group)
                    index += 1
                    check_frames(index)
                waiting_for_key = False
            except InputError as error:
                damaged = waiting_for_key = True
                stream.codec_context.flush_buffers()
                yield Skipped(name, f"after {index} frames: {error}")
        declared = _declared_seconds(container, stream)
    if index == 0:
        raise InputError("the video holds no frame that can be decoded: record or export it again")
    if not damaged and (index < stream.frames or shown_until < declared - _SLACK):
        yield Skipped(name, f"the video ends early, after {index} frames: copy it again from where it came")


def _declared_seconds(container: InputContainer, stream: VideoStream) -> float:
    """How long the container says the pictures last; 0 where it doesn't say, or where sound may last longer."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return 0.0


def count_frames(path: Path) -> int | None:
    """The number of frames that the container declares; None where it doesn't say.

    Raises
    ------
    InputError
        As `video_frames`.
    """
    container, stream = _open(path)
    with container:
        return stream.frames or None


def _open(source: Path | IO[bytes]) -> tuple[InputContainer, VideoStream]:
    with reading("the video"):
        container = av.open(str(source) if isinstance(source, Path) else source, mode="r")
        if not container.streams.video:
            container.close()
            raise InputError("the file holds no video stream: name a file with pictures")
        stream = container.streams.video[0]
        if stream.width and stream.height:
            try:
                check_size(stream.width, stream.height)
            except InputError:
                container.close()
                raise
    return container, stream


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream] | InputError]:
    """The stream's packets; last an error, as a value, where the container is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            with reading("the video"):
                packet = next(packets, None)
        except InputError as error:
            yield error
            return
        if packet is None:
            return
        yield packet


def _decode(packet: av.Packet[VideoStream], stream: VideoStream) -> Iterator[UInt8]:
    """Decode one packet; the last, empty one drains the decoder."""
    with reading("a part of the video"):
        if packet.is_corrupt:
            raise InputError("a part of the video is cut off: copy it again from where it came")
        frames = stream.codec_context.decode(packet)
    while frames:
        frame = frames.pop(0)
        with reading("a frame of the video"):
            check_size(frame.width, frame.height)
            if frame.is_corrupt:
                raise InputError("a part of the video is damaged: copy it again from where it came")
            pixels = upright(frame)
        yield pixels


def upright(frame: av.VideoFrame) -> UInt8:
    """A decoded picture as RGB, uint8 (H, W, 3), turned by its display matrix."""
    pixels = np.asarray(frame.to_ndarray(format=_RGB), np.uint8)
    # The display matrix counts anticlockwise, as rot90 does.
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90)) if frame.rotation % 90 == 0 else pixels
