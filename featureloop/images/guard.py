"""One edge where the faults of foreign decoders become `InputError`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from featureloop.core.errors import InputError

MAX_PIXELS: Final = 100_000_000
"""Pixels of one frame, at most: checked on the header, before anything is allocated."""

MAX_FRAMES: Final = 1_000_000
"""Frames of one file, at most: about four hours and a half of video at 60 frames a second."""

_REASON_LENGTH: Final = 300

T = TypeVar("T")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into `InputError`, and keep its warnings inside.

    Parameters
    ----------
    what
        What is being read, as the subject of the message: `the TIFF page`.

    Raises
    ------
    InputError
        For every exception of the body; its own text stands behind the colon.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError("permission denied: let this program's user read the file") from error
    except OSError as error:
        raise InputError(f"{what} can't be read: {_first_line(error.strerror or error)}") from error
    except MemoryError as error:
        raise InputError(f"{what} needs more memory than there is: make it smaller") from error
    except Exception as error:
        # FFmpeg's errors carry the path in their text and the bare reason here.
        raise InputError(
            f"{what} can't be decoded: {_first_line(getattr(error, 'strerror', None) or error)}"
        ) from error


def each(items: Iterable[T], what: str) -> Iterator[T]:
    """The items of a decoder's iterator, every step inside `reading`.

    Raises
    ------
    InputError
        Where the decoder raises; the items before have been yielded.
    """
    iterator = iter(items)
    while True:
        with reading(what):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def read_head(path: Path, length: int) -> bytes:
    """The first bytes of a regular file, fewer where the file is shorter.

    Raises
    ------
    InputError
        The file is missing, not a regular file, empty or not readable.
    """
    with reading("the file"):
        if not path.exists():
            raise InputError("the file does not exist: check the path, or the link that points there")
        if not path.is_file():
            raise InputError("it is no regular file: name a file or a folder")
        with path.open("rb") as file:
            head = file.read(length)
    if not head:
        raise InputError("the file is empty (0 bytes): copy it again from where it came")
    return head


def check_size(width: int, height: int) -> None:
    """Refuse a frame that is empty or too large to decode.

    Raises
    ------
    InputError
        With both sides and the limit `MAX_PIXELS`.
    """
    if width < 1 or height < 1:
        raise InputError(f"the image is {width} x {height} pixels: there is nothing in it")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"the image is {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller"
        )


def check_frames(count: int) -> None:
    """Refuse a file that declares an impossible number of frames.

    Raises
    ------
    InputError
        With the number and the limit `MAX_FRAMES`.
    """
    if not 1 <= count <= MAX_FRAMES:
        raise InputError(f"the file declares {count} frames, not 1 to {MAX_FRAMES}: export it again")


def _first_line(error: object) -> str:
    """What a foreign error says, without its stack of details."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:_REASON_LENGTH]
