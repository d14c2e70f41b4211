"""A file or a folder as one lazy stream of frames, whatever is inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from featureloop.core.errors import InputError
from featureloop.core.ports import FrameSource
from featureloop.core.types import Frame, Skipped
from featureloop.images import dicom, video
from featureloop.images.dicom import dicom_frames, looks_like_dicom
from featureloop.images.files import still_frames
from featureloop.images.guard import read_head
from featureloop.images.sidecar import Found, Groups, read_groups, walk
from featureloop.images.video import video_frames

_HEAD_LENGTH: Final = 4096


class Kind(Enum):
    """What a file is."""

    STILL = "still"
    DICOM = "dicom"
    VIDEO = "video"


_STILL_MAGIC: Final = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"GIF8",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
_VIDEO_MAGIC: Final = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"FLV\x01",
    b"OggS",
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG video
)
_QUICKTIME_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis"})
_TS_PACKET: Final = 188

_BY_SUFFIX: Final[dict[str, Kind]] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif"), Kind.STILL),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"), Kind.STILL),
    **dict.fromkeys((".dcm", ".dicom", ".dic", ".ima"), Kind.DICOM),
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"), Kind.VIDEO),
    **dict.fromkeys((".ts", ".m2ts", ".mts", ".vob", ".wmv", ".asf", ".flv", ".ogv", ".h264", ".264"), Kind.VIDEO),
}


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file or a folder as a source of frames; every iteration starts anew.

    Attributes
    ----------
    path
        The file or folder.
    groups
        From a frame's name to its group; None where no table says.
    """

    path: Path
    groups: Groups | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Frame | Skipped]:
        for found in _files(self.path):
            if isinstance(found, Skipped):
                yield found
            else:
                yield from file_frames(found, group=self.groups(found.name) if self.groups else None)


def open_source(path: Path) -> FrameSource:
    """Open a file or a folder, recursively, of stills, DICOM files and videos.

    Files come in natural order (2 before 10), one frame in memory at a time.
    What a file is shows in its content first, then in its extension. Hidden
    files, tables (`groups.csv`, `sequences.csv`, `boxes.csv`,
    `annotations.json`) and the `masks` beside `images` are no images. A frame's
    group is what `groups.csv` or `sequences.csv` says; else a DICOM file's
    Patient ID, a video's file name, and None for stills.

    Returns
    -------
    FrameSource
        Yields `Frame`, and `Skipped` with the reason for what can't be read.

    Raises
    ------
    InputError
        The path is missing, the folder has no file, or a table is malformed.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: check the path")
    if not path.is_dir():
        return FileSource(path)
    if next(walk(path), None) is None:
        raise InputError(f"{path} holds no files to read: name a folder of images, DICOM files or videos")
    return FileSource(path, read_groups(path))


def count(path: Path) -> int | None:
    """The number of frames for a progress bar, from headers alone; None where one doesn't say.

    A still counts as one, an unreadable or unknown file too: `open_source`
    yields one `Skipped` for it.
    """
    total = 0
    for found in _files(path):
        frames = 1 if isinstance(found, Skipped) else _count_file(found.path)
        if frames is None:
            return None
        total += frames
    return total


def file_frames(found: Found, *, group: str | None = None) -> Iterator[Frame | Skipped]:
    """Decode one file of any kind; what goes wrong is the last item, a `Skipped`.

    Parameters
    ----------
    found
        The file.
    group
        Taken over into the frames; where None, a DICOM file's Patient ID or a video's name.
    """
    try:
        kind = recognize(found.path)
        if kind is Kind.STILL:
            yield from still_frames(found.path, name=found.name, group=group)
        elif kind is Kind.DICOM:
            yield from dicom_frames(found.path, name=found.name, group=group)
        else:
            yield from video_frames(found.path, name=found.name, group=group)
    except InputError as error:
        yield Skipped(found.name, str(error))


def recognize(path: Path) -> Kind:
    """Say what a file is, by its first bytes, else by its extension.

    Raises
    ------
    InputError
        The file is empty, not readable, or none of the kinds.
    """
    head = read_head(path, _HEAD_LENGTH)
    by_suffix = _BY_SUFFIX.get(path.suffix.lower())
    by_content = _by_content(head)
    # Bare DICOM is a weak sign: it must not win over a video's extension.
    if by_content is Kind.DICOM and head[128:132] != b"DICM" and by_suffix is not None:
        return by_suffix
    kind = by_content or by_suffix
    if kind is None and head[4:8] == b"ftyp":
        raise InputError("HEIF and AVIF images are not supported: save the image as PNG or JPEG")
    if kind is None:
        named = f"{path.suffix} files are" if path.suffix else "a file without an extension and of unknown content is"
        raise InputError(f"{named} no image, DICOM file or video: nothing was read from it")
    return kind


def _by_content(head: bytes) -> Kind | None:
    if head[128:132] == b"DICM":
        return Kind.DICOM
    riff = head[8:12] if head[:4] == b"RIFF" else b""
    if head.startswith(_STILL_MAGIC) or riff == b"WEBP" or (head[:2] == b"BM" and head[6:10] == bytes(4)):
        return Kind.STILL
    box = head[4:8] in _QUICKTIME_BOXES and head[8:12] not in _HEIF_BRANDS
    packets = len(head) > _TS_PACKET and head[0] == head[_TS_PACKET] == 0x47
    if head.startswith(_VIDEO_MAGIC) or riff == b"AVI " or box or packets:
        return Kind.VIDEO
    return Kind.DICOM if looks_like_dicom(head) else None


def _files(path: Path) -> Iterator[Found | Skipped]:
    return walk(path) if path.is_dir() else iter([Found(path, path.name)])


def _count_file(path: Path) -> int | None:
    try:
        kind = recognize(path)
        if kind is Kind.STILL:
            return 1
        return dicom.count_frames(path) if kind is Kind.DICOM else video.count_frames(path)
    except InputError:
        return 1
