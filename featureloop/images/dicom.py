"""DICOM files: one or many frames, grey or colour, native or encoded, and DICOM videos."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pydicom
from pydicom import uid
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import as_pixel_options, get_decoder

from featureloop.core.errors import InputError
from featureloop.core.types import AnyArray, Frame, Skipped
from featureloop.images import dicom_imagecodecs
from featureloop.images.codestream import encoded_size
from featureloop.images.deep import deep_of
from featureloop.images.dicom_display import display
from featureloop.images.guard import check_frames, check_size, each, read_head, reading
from featureloop.images.video import stream_frames

HEAD_LENGTH: Final = 132
"""Bytes that `looks_like_dicom` wants: the preamble and `DICM` (PS3.10, 7.1)."""

_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFERRED: Final = 64 * 1024
_MAX_INFLATED: Final = 2**30
_VIDEO: Final = frozenset({*uid.MPEGTransferSyntaxes, uid.HEVCMP51, uid.HEVCM10P51})

# One decoder a syntax, and none of GDCM's: see `featureloop.images.dicom_imagecodecs`.
_PLUGINS: Final = {
    **dict.fromkeys(dicom_imagecodecs.DECODER_DEPENDENCIES, dicom_imagecodecs.LABEL),
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.RLELossless: "pydicom",
}

# PS3.4, B.5: their pixel data are measures or regions, not a picture of the patient.
_NO_PICTURE: Final = frozenset(
    {uid.RTDoseStorage, uid.SegmentationStorage, uid.ParametricMapStorage, uid.RealWorldValueMappingStorage}
)


def looks_like_dicom(head: bytes) -> bool:
    """Say whether a file begins like DICOM: with a preamble, or bare with group 0002 or 0008.

    Parameters
    ----------
    head
        The first `HEAD_LENGTH` bytes.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8 or head[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08"):
        return False
    order = "little" if head[0] else "big"
    length = int.from_bytes(head[4:8], "little")
    return int.from_bytes(head[2:4], order) < 0x1200 and (head[4:6].isalpha() or length < 2**16)  # type: ignore[arg-type]


def dicom_frames(path: Path, *, name: str, group: str | None = None) -> Iterator[Frame | Skipped]:
    """Decode a DICOM file, one frame at a time, as a viewer would show it.

    Grey values go through the Modality LUT or rescale, then the first VOI LUT
    or window; without either, values of up to 8 bits are shown by their whole
    range, Hounsfield units from -1000 to 1000, and others from their smallest to
    their largest but for one in a thousand, frame by frame. MONOCHROME1 and a
    Presentation LUT Shape of INVERSE are inverted, palettes are applied, YBR
    becomes RGB.

    Parameters
    ----------
    path
        The file. Without preamble or file meta it is read as implicit or
        explicit VR, whichever its first elements show.
    name
        Taken over into the frames.
    group
        Taken over into the frames; where None, the Patient ID, if there is one.

    Yields
    ------
    Frame
        pixels uint8 (H, W, 3); `index` is the DICOM frame number less 1.
    Skipped
        Where a DICOM video is damaged; see `featureloop.images.video`.

    Raises
    ------
    InputError
        The file is no DICOM, holds no image (a plan, a report, a waveform...),
        is damaged or declares more than the limits allow. Frames before the
        damage have been yielded.
    """
    header = _read(path)
    with reading("the DICOM header"):
        patient = str(header.get("PatientID") or "").strip() or None
        _check_picture(header)
        syntax = header.file_meta.TransferSyntaxUID
        if not isinstance(syntax, uid.UID):
            raise InputError(f"the DICOM file's transfer syntax is {syntax}, no UID: export it again")
        group = patient if group is None else group
    if syntax in _VIDEO:
        yield from stream_frames(_video_stream(path, header), name=name, group=group)
        return
    with _pixel_stream(path, header) as stream:
        with reading("the pixel data"):
            _check_length(stream, header)
            element = _pixel_element(header)
            keyword = keyword_for_tag(element.tag)
            options = as_pixel_options(header, pixel_keyword=keyword, pixel_vr=element.VR or "OW")
            decoded = _decoded(stream, syntax, options)
        for index, (stored, properties) in enumerate(each(decoded, "the pixel data")):
            with reading(f"frame {index}"):
                check_frames(index + 1)
                pixels = display(stored, str(properties["photometric_interpretation"]), header, index)
                deep = deep_of(stored, pixels[:, :, 0]) if stored.ndim == 2 and _grey(properties) else None
            yield Frame(pixels, name=name, index=index, group=group, deep=deep)


def _grey(properties: dict[str, Any]) -> bool:
    """Whether a decoded frame's samples are brightnesses, and no numbers of a palette."""
    return str(properties["photometric_interpretation"]).startswith("MONOCHROME")


def patient_of(path: Path) -> str | None:
    """The Patient ID of a DICOM file; None where there is none.

    Raises
    ------
    InputError
        The file can't be read.
    """
    with reading("the DICOM header"):
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["PatientID"])
        return str(header.get("PatientID") or "").strip() or None


def count_frames(path: Path) -> int:
    """The number of frames that the header declares; 1 where it says nothing.

    Raises
    ------
    InputError
        The file can't be read, or declares something that is no number.
    """
    with reading("the DICOM header"):
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return _declared_frames(header)


def _decoded(stream: BinaryIO, syntax: uid.UID, options: dict[str, Any]) -> Iterator[tuple[AnyArray, dict[str, Any]]]:
    """Decode frame by frame, each with what it turned out to be."""
    dicom_imagecodecs.register()
    decoder = get_decoder(syntax)
    plugin = _PLUGINS.get(syntax, "")
    if syntax.is_encapsulated and not plugin:
        raise InputError(f"the transfer syntax {syntax.name} is not supported: export the file uncompressed")
    decoded = decoder.iter_array(stream, decoding_plugin=plugin, **options)
    return cast(Iterator[tuple[AnyArray, dict[str, Any]]], decoded)


def _read(path: Path) -> FileDataset:
    """Everything but the pixels, which stay in the file until they are decoded."""
    head = read_head(path, HEAD_LENGTH)
    if not looks_like_dicom(head):
        raise InputError(
            "the content is no DICOM: neither 'DICM' after a preamble nor a data element at the start; "
            "check that the file is complete and named by its type"
        )
    with reading("the DICOM header"):
        deflated = False
        if head[128:132] == b"DICM":
            meta = read_file_meta_info(path)
            deflated = meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian
            if deflated:
                _check_inflated(path, 144 + int(meta.get("FileMetaInformationGroupLength", 0)))
        # A deferred value is read from the file later, which can't be done inside a deflated one.
        header = pydicom.dcmread(path, force=True, defer_size=None if deflated else _DEFERRED)
        if not header.file_meta.get("TransferSyntaxUID"):
            implicit, little = header.original_encoding
            native = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
            header.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else native
    return cast(FileDataset, header)


def _check_inflated(path: Path, start: int) -> None:
    """Refuse a deflated file that would unpack to more than `_MAX_INFLATED` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    done = 0
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(_DEFERRED):
            done += len(inflater.decompress(chunk, _MAX_INFLATED - done + 1))
            if done > _MAX_INFLATED:
                raise InputError(f"the deflated file unpacks to more than {_MAX_INFLATED} bytes: export it undeflated")


def _check_picture(header: FileDataset) -> None:
    """Refuse what holds no image, and images too large to decode."""
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    has_pixels = any(keyword in header for keyword in _PIXELS)
    if not has_pixels or kind in _NO_PICTURE:
        what = f"{kind.name if kind else 'unknown SOP class'}, modality {header.get('Modality') or 'unknown'}"
        raise InputError(f"the DICOM file holds no image ({what}): send image objects")
    needed = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
    missing = [keyword for keyword in needed if header.get(keyword) is None]
    if missing:
        raise InputError(f"the DICOM file has pixel data but no {', '.join(missing)}: export it again")
    check_size(int(header.Columns), int(header.Rows))
    check_frames(_declared_frames(header))


def _declared_frames(header: pydicom.Dataset) -> int:
    element = header.get_item("NumberOfFrames")
    value = element.value if element is not None else None
    text = (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")).strip(" \0")
    if not re.fullmatch(r"[0-9]{0,12}", text):
        raise InputError(f"the DICOM file's Number of Frames is {text!r}, no number: export it again")
    return int(text or 1)


def _pixel_element(header: FileDataset) -> DataElement | RawDataElement:
    keyword = next(keyword for keyword in _PIXELS if keyword in header)
    return cast(DataElement | RawDataElement, header.get_item(keyword, keep_deferred=True))


def _pixel_stream(path: Path, header: FileDataset) -> BinaryIO:
    """The encoded pixel data, at its first byte: from the file where it was deferred."""
    with reading("the pixel data"):
        element = _pixel_element(header)
        if isinstance(element, RawDataElement) and element.value is None:
            file = path.open("rb")
            file.seek(element.value_tell)
            return file
        return io.BytesIO(element.value)


def _check_length(stream: BinaryIO, header: FileDataset) -> None:
    """Compare what the header declares with what the pixel data hold, before decoding."""
    start = stream.tell()
    size = (int(header.Columns), int(header.Rows))
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        # Exactly the frames that will be decoded, however they are cut into fragments.
        offsets = as_pixel_options(header).get("extended_offsets")
        frames = generate_frames(stream, number_of_frames=_declared_frames(header), extended_offsets=offsets)
        for frame in frames:
            found = encoded_size(frame)
            if found is not None and found != size:
                raise InputError(f"an encoded frame is {found} pixels where the header says {size}: export it again")
    else:
        bits = size[0] * size[1] * int(header.SamplesPerPixel) * int(header.BitsAllocated) * _declared_frames(header)
        if header.PhotometricInterpretation == "YBR_FULL_422":
            bits = bits * 2 // 3
        held = stream.seek(0, io.SEEK_END) - start
        if held < (bits + 7) // 8:
            raise InputError(f"the pixel data are cut off: {held} of {(bits + 7) // 8} bytes are there; copy it again")
    stream.seek(start)


def _video_stream(path: Path, header: FileDataset) -> io.BytesIO:
    """The fragments of an MPEG or HEVC object (PS3.5, 8.2.5 to 8.2.11), joined to one video."""
    with reading("the video"), _pixel_stream(path, header) as stream:
        parse_basic_offsets(stream)
        return io.BytesIO(b"".join(generate_fragments(stream)))
