"""Where live pictures come from, and how FFmpeg (PyAV) reads them: capture devices, streams, video files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import av
from av.video.stream import VideoStream

from featureloop.core.errors import InputError
from featureloop.core.types import UInt8
from featureloop.images.guard import check_size, reading
from featureloop.images.video import upright

SCHEMES: Final = ("rtsp", "rtsps", "http", "https")
TIMEOUT_S: Final = 10.0
"""A stream that says nothing for so long is broken."""
_CAPTURE: Final = "/dev/video"


@dataclass(frozen=True, slots=True)
class Address:
    """What is read, and how.

    Attributes
    ----------
    where
        For FFmpeg. It may hold a password, and is never shown.
    name
        For people, and the frames' names.
    is_file
        Whether it is a video file, to be played at its own rate.
    format, options
        For FFmpeg.
    """

    where: str = field(repr=False)
    name: str
    is_file: bool = False
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture; its pixels are made only if they are asked for.

    Attributes
    ----------
    at_s
        Seconds since the beginning.
    """

    frame: Any
    at_s: float

    def pixels(self) -> UInt8:
        """RGB, uint8 (H, W, 3).

        Raises
        ------
        InputError
            The picture is damaged, or too large.
        """
        with reading("a picture of the live source"):
            check_size(self.frame.width, self.frame.height)
            return upright(self.frame)


def address_of(source: str) -> Address:
    """What `--live` names: a video file, a capture device (`/dev/video0`), or an RTSP or HTTP address.

    Raises
    ------
    InputError
        It is none of these; a capture device or stream that isn't there yet is none the less one.
    """
    if "://" in source:
        parts = urlsplit(source)
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise InputError(f"a live address begins with {', '.join(s + '://' for s in SCHEMES)}, not {source[:12]!r}")
        place = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
        options = {"rtsp_transport": "tcp"} if parts.scheme.startswith("rtsp") else {}
        # Buffers of seconds, which FFmpeg keeps for quiet playing, are seconds behind what happens.
        options |= {"fflags": "nobuffer", "flags": "low_delay"}
        return Address(source, f"{parts.scheme}://{place}{parts.path}", options=options)
    if source.startswith(_CAPTURE):
        return Address(source, source, format="v4l2")
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"the live source {source[:200]!r} is no video file, no capture device ({_CAPTURE}0) and no address "
            f"({', '.join(s + '://' for s in SCHEMES)}): check the path"
        )
    return Address(str(path), path.name, is_file=True)


def read_pictures(address: Address) -> Iterator[Picture]:
    """The pictures of an address, until its end; what is damaged is passed over, up to the next key frame.

    Raises
    ------
    InputError
        It can't be opened, breaks off, or holds no picture.
    """
    with reading("the live source"):
        container = av.open(
            address.where, mode="r", format=address.format, options=address.options, timeout=(TIMEOUT_S, TIMEOUT_S)
        )
    with container:
        if not container.streams.video:
            raise InputError("there are no pictures in it: name one that has")
        stream = container.streams.video[0]
        packets, count, broken = container.demux(stream), 0, False
        while True:
            with reading("the live source"):
                packet = next(packets, None)
            if packet is None:
                return
            if broken and not packet.is_keyframe:
                continue
            found = _decoded(packet, stream)
            broken = found is None
            for frame in found or ():
                yield Picture(frame, _time(frame, stream, count))
                count += 1


def _decoded(packet: av.Packet[VideoStream], stream: VideoStream) -> list[av.VideoFrame] | None:
    """The pictures of a packet; None where it is damaged."""
    try:
        with reading("a part of the live source"):
            frames = stream.codec_context.decode(packet)
    except InputError:
        stream.codec_context.flush_buffers()
        return None
    return None if any(frame.is_corrupt for frame in frames) else frames


def _time(frame: av.VideoFrame, stream: VideoStream, count: int) -> float:
    if frame.pts is not None:
        return float(frame.time) - float((stream.start_time or 0) * (stream.time_base or 0))
    return count / float(stream.average_rate or 25)
