"""The size that a JPEG, JPEG-LS or JPEG 2000 codestream declares, read before it is decoded."""

from __future__ import annotations

import struct
from typing import Final

from featureloop.core.errors import InputError

_JP2_SIGNATURE: Final = b"\0\0\0\x0cjP  "
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
# ITU-T T.81, B.1.1.3, SOF0 to SOF15 without DHT, JPG and DAC; T.87, C.1.1, SOF55.
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels; None where the data don't begin such a codestream.

    Raises
    ------
    InputError
        The boxes around a JPEG 2000 codestream are damaged.
    """
    start = _after_boxes(data) if data.startswith(_JP2_SIGNATURE) else 0
    try:
        if data[start : start + 4] == b"\xff\x4f\xff\x51":
            # ITU-T T.800, A.5.1, SIZ: image extent less image offset.
            right, lower, left, upper = struct.unpack(">4I", data[start + 8 : start + 24])
            return right - left, lower - upper
        return _jpeg_size(data) if data[:2] == b"\xff\xd8" else None
    except (struct.error, IndexError):
        return None


def _after_boxes(data: bytes) -> int:
    """Where the codestream begins behind a JP2 file's boxes (ITU-T T.800, I.4).

    A box without a length would be walked for ever by pydicom, so it is refused.
    """
    at = len(_JP2_SIGNATURE) + 4
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"jp2c":
            return at + 8
        if length < 8:
            break
        at += length
    raise InputError("the boxes of a JPEG 2000 frame are damaged: export the file again")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack(">2H", data[at + 5 : at + 9])
            # T.81, B.2.5: a height of 0 is declared later, at the end of the first scan.
            return (width, height) if height else None
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None
