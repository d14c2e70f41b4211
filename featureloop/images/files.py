"""Still images: PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, whatever their pixel type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from featureloop.core.errors import InputError
from featureloop.core.types import Bool, Deep, Frame, UInt8
from featureloop.images.deep import deep_of
from featureloop.images.guard import check_frames, check_size, read_head, reading
from featureloop.images.scale import grey_to_rgb, over_black, to_uint8

_Page = tuple[UInt8, Deep | None]
FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are tried, whatever the file is called."""

_PAGED: Final = ("PNG", "TIFF", "WEBP", "GIF")
"""Formats whose pages are frames. (The second page of an MPO is a camera's preview or other eye.)"""

_TIFF_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_CHANNELS: Final = 4
_REDUCED: Final = 0b1
"""NewSubfileType (TIFF 6.0, section 8): a smaller copy of another page, so no frame."""

# TIFF 6.0, Orientation: how to bring the stored array upright.
_UPRIGHT: Final[dict[int, tuple[bool, int]]] = {
    1: (False, 0),
    2: (True, 0),
    3: (False, 2),
    4: (True, 2),
    5: (True, 1),
    6: (False, 3),
    7: (True, 3),
    8: (False, 1),
}


def still_frames(path: Path, *, name: str, group: str | None = None) -> Iterator[Frame]:
    """Decode a still image, one frame per page, one page at a time.

    Everything becomes 8-bit RGB: upright by its EXIF orientation, palettes and
    CMYK converted, transparency laid over black, 1-bit as 0 and 255, deeper
    values by the rules of `featureloop.images.scale.to_uint8`. Pages that a
    TIFF declares to be smaller copies (NewSubfileType) are no frames.

    Parameters
    ----------
    path
        The file.
    name, group
        Taken over into the frames.

    Yields
    ------
    Frame
        pixels uint8 (H, W, 3); `index` counts the pages from 0.

    Raises
    ------
    InputError
        The file is missing, empty, truncated, of another type, too large, or
        holds NaN.
    """
    head = read_head(path, 4)
    image = _open(path)
    pages = _pillow_pages(path, image) if image is not None else _odd_tiff_pages(path, head)
    for index, (pixels, deep) in enumerate(pages):
        yield Frame(pixels, name=name, index=index, group=group, deep=deep)


def read_mask(path: Path) -> Bool:
    """Decode a lesion mask: True where any channel of its first page is above 127.

    Returns
    -------
    Bool
        (H, W).

    Raises
    ------
    InputError
        As `still_frames`; and where something is in the mask, but nothing above
        127: classes (0 and 1, say) instead of black and white, or a lesion in grey.
    """
    pages = still_frames(path, name=path.name)
    pixels = next(pages).pixels
    values = np.maximum(np.maximum(pixels[:, :, 0], pixels[:, :, 1]), pixels[:, :, 2])  # max(axis=2) is 30 times slower
    pages.close()  # type: ignore[attr-defined]
    top = int(values.max())
    if 0 < top <= 127:
        raise InputError(
            f"the mask's largest value is {top}, so nothing in it is above 127: save lesions as 255 and the rest as 0"
        )
    return np.asarray(values > 127)


def _open(path: Path) -> Image.Image | None:
    """Read the header; None for a TIFF of a kind that Pillow doesn't know."""
    with reading("the image"):
        try:
            image = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError as error:
            if read_head(path, 4) in _TIFF_MAGIC:
                return None
            raise InputError(
                "the content is no PNG, JPEG, TIFF, BMP, WebP, GIF or JPEG 2000 image, or its header is damaged: "
                "check that the file is complete and named by its type"
            ) from error
        except Image.DecompressionBombError as error:
            raise InputError(f"the image is too large to be decoded safely: make it smaller ({error})") from error
    return image


def _pillow_pages(path: Path, image: Image.Image) -> Iterator[_Page]:
    with image:
        with reading("the image"):
            check_size(*image.size)
            count = int(getattr(image, "n_frames", 1)) if image.format in _PAGED else 1
            check_frames(count)
        for page in range(count):
            with reading("the image" if count == 1 else f"page {page} of {count}"):
                if count > 1:
                    image.seek(page)
                    check_size(*image.size)
                if count > 1 and int(_tiff_tag(image, Tag.NewSubfileType, 0)) & _REDUCED:
                    continue
                decoded = (_decode_deep(path, image, page), None) if _is_deep_colour(image) else _decode(image)
            yield decoded


def _decode(image: Image.Image) -> _Page:
    """Decode the current page of any of Pillow's modes."""
    # A TIFF is turned by Pillow itself while loading, which also drops its tag.
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        values = np.asarray(image)
        shown = to_uint8(values)
        return grey_to_rgb(shown), deep_of(values, shown)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return over_black(rgba[:, :, :3], rgba[:, :, 3]), None
    return np.array(image.convert("RGB")), None


def _is_deep_colour(image: Image.Image) -> bool:
    """Say whether Pillow would cut this page's 16-bit colour down to the high bytes."""
    tiles = getattr(image, "tile", [])
    raw = tiles[0].args if tiles else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return image.mode in ("RGB", "RGBA", "LA", "RGBX") and isinstance(raw, str) and ";16" in raw


def _decode_deep(path: Path, image: Image.Image, page: int) -> UInt8:
    orientation = int(image.getexif().get(Tag.Orientation, 1))
    data = path.read_bytes()
    if image.format == "PNG":
        return _from_array(imagecodecs.png_decode(data), orientation)
    return _from_array(imagecodecs.tiff_decode(data, index=page), orientation)


def _odd_tiff_pages(path: Path, head: bytes) -> Iterator[_Page]:
    """Decode the TIFFs that Pillow doesn't know (float colour, 32-bit, BigTIFF variants), by libtiff."""
    with reading("the TIFF"):
        pages = _tiff_directories(path, head)
        data = path.read_bytes()
    for page, tags in enumerate(pages):
        with reading(f"page {page} of the TIFF"):
            if int(tags.get(Tag.NewSubfileType, 0)) & _REDUCED and len(pages) > 1:
                continue
            channels = int(tags.get(Tag.SamplesPerPixel, 1))
            check_size(int(tags.get(Tag.ImageWidth, 0)), int(tags.get(Tag.ImageLength, 0)))
            if not 1 <= channels <= _MAX_CHANNELS:
                raise InputError(f"the TIFF has {channels} channels, not 1 to {_MAX_CHANNELS}: save it as grey or RGB")
            stored = imagecodecs.tiff_decode(data, index=page)
            if channels > 1 and int(tags.get(Tag.PlanarConfiguration, 1)) == 2 and stored.shape[0] == channels:
                stored = np.moveaxis(stored, 0, -1)
            pixels = _from_array(stored, int(tags.get(Tag.Orientation, 1)))
        yield pixels, None


def _tiff_directories(path: Path, head: bytes) -> list[ImageFileDirectory_v2]:
    """The tags of every page, so that sizes are known before anything is decoded."""
    header_length = 16 if head[2:3] == b"+" or head[3:4] == b"+" else 8
    directories: list[ImageFileDirectory_v2] = []
    seen: set[int] = set()
    with path.open("rb") as file:
        directory = ImageFileDirectory_v2(file.read(header_length))
        offset = directory.next
        while offset and offset not in seen:
            check_frames(len(directories) + 1)
            seen.add(offset)
            file.seek(offset)
            directory.load(file)
            directories.append(directory)
            offset = directory.next
            file.seek(0)
            directory = ImageFileDirectory_v2(file.read(header_length))
    if not directories:
        raise InputError("the TIFF has no page: export it again")
    return directories


def _from_array(stored: NDArray[Any], orientation: int) -> UInt8:
    """Grey, grey and alpha, RGB or RGBA of any depth, as upright RGB."""
    mirrored, turns = _UPRIGHT.get(orientation, (False, 0))
    values = np.rot90(stored[:, ::-1] if mirrored else stored, turns)
    if values.ndim == 2:
        return grey_to_rgb(to_uint8(values))
    if values.ndim != 3 or not 1 <= values.shape[2] <= _MAX_CHANNELS:
        raise InputError(f"an array of shape {stored.shape} is no image: save it as grey or RGB")
    colours = values.shape[2] - (values.shape[2] in (2, 4))
    rgb = to_uint8(values[:, :, :colours])
    rgb = grey_to_rgb(rgb[:, :, 0]) if colours == 1 else rgb
    if colours == values.shape[2]:
        return np.ascontiguousarray(rgb)
    return over_black(rgb, _opacity(values[:, :, colours]))


def _opacity(alpha: NDArray[Any]) -> UInt8:
    """Alpha by its type's whole range: an almost opaque corner must not become opaque by stretching."""
    if alpha.dtype.kind == "f":
        return to_uint8(np.clip(alpha, 0, 1))
    return np.asarray(alpha >> (8 * (alpha.dtype.itemsize - 1)), np.uint8)


def _tiff_tag(image: Image.Image, tag: Tag, default: int) -> int:
    tags = getattr(image, "tag_v2", None)
    return int(tags.get(tag, default)) if tags is not None else default
