"""From a DICOM frame's stored values to what a viewer shows, 8-bit RGB.

Grey: Modality LUT or rescale (PS3.3 C.11.1), VOI LUT or window (PS3.3 C.11.2),
MONOCHROME1 or a Presentation LUT Shape of INVERSE inverted (PS3.3 C.7.6.3.1.2 and
C.11.6; both together say the same, and invert once). Colour: palette (PS3.3 C.7.9) or RGB.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi

from featureloop.core.errors import InputError
from featureloop.core.types import UInt8
from featureloop.images.scale import grey_to_rgb, robust_range, stretch, to_uint8

# Functional groups (PS3.3 C.7.6.16) that carry what older objects keep at the top level.
_GROUPS: Final = ("PixelValueTransformationSequence", "FrameVOILUTSequence")

_HOUNSFIELD: Final = (-1000.0, 1000.0)
"""The window of CT that brings none: Hounsfield units mean the same in every image, so they are shown alike, from
air to bone, 8 units a grey level."""


def display(stored: NDArray[Any], photometric: str, header: Dataset, index: int) -> UInt8:
    """Show one frame.

    Parameters
    ----------
    stored
        (H, W) or (H, W, 3), as decoded: integers or floats.
    photometric
        Its Photometric Interpretation after decoding.
    header
        The dataset, for the tables.
    index
        The frame's number, for its functional group.

    Returns
    -------
    UInt8
        (H, W, 3), RGB.

    Raises
    ------
    InputError
        The photometric interpretation or the shape is none of a picture's.
    """
    if photometric == "PALETTE COLOR":
        return _by_depth(apply_color_lut(stored, header)[:, :, :3], _palette_bits(header))
    if stored.ndim == 3 and stored.shape[2] == 3 and not photometric.startswith("YBR_PARTIAL"):
        return _by_depth(stored, int(header.BitsStored))
    if stored.ndim != 2 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(
            f"the photometric interpretation {photometric!r} with samples of shape {stored.shape} is not supported: "
            "export the image as MONOCHROME2 or RGB"
        )
    grey = _grey(stored, _of_frame(header, index))
    inverse = photometric == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE"
    return grey_to_rgb(255 - grey if inverse else grey)


def _grey(stored: NDArray[Any], header: Dataset) -> UInt8:
    """Rescale and window; what is shown without a window is in docs/adr/009."""
    real = apply_modality_lut(stored, header)
    window = _window(header)
    if _has_lut(header):
        shown = apply_voi(np.rint(real).astype(np.int32), header)
        return stretch(shown, 0, 2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    if window is not None:
        return stretch(_windowed(real, *window), 0, 1)
    if stored.dtype.kind in "iu" and int(header.BitsStored) <= 8 and not header.get("ModalityLUTSequence"):
        # A linear rescale changes no brightness: the whole range of the stored values is shown, as without it.
        low = -(2 ** (int(header.BitsStored) - 1)) if int(header.get("PixelRepresentation", 0) or 0) else 0
        ends = apply_modality_lut(np.array([low, low + 2 ** int(header.BitsStored) - 1]), header)
        return stretch(real, float(ends.min()), float(ends.max()))
    if _in_hounsfield_units(header):
        return stretch(real, *_HOUNSFIELD)
    return _by_range(real, stored, header)


def _in_hounsfield_units(header: Dataset) -> bool:
    """Whether rescaled values are Hounsfield units (PS3.3 C.11.1.1.2: of CT, what Rescale Type doesn't say is HU)."""
    rescaled = header.get("RescaleSlope") is not None and not header.get("ModalityLUTSequence")
    return rescaled and header.get("Modality") == "CT" and str(header.get("RescaleType") or "HU").upper() == "HU"


def _by_range(real: NDArray[Any], stored: NDArray[Any], header: Dataset) -> UInt8:
    """From the smallest to the largest value but for outliers; padding (PS3.3 C.7.5.1.1.2) doesn't count."""
    padding = header.get("PixelPaddingValue")
    inside = np.isfinite(real) if real.dtype.kind == "f" else np.ones(real.shape, np.bool_)
    if not inside.all():
        raise InputError(f"{int((~inside).sum())} pixels are NaN or infinite: export the image again")
    if isinstance(padding, int) and (stored != padding).any():
        inside = stored != padding
    return stretch(real, *robust_range(real[inside]))


def _windowed(real: NDArray[Any], center: float, width: float, function: str) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, to [0, 1] before clipping."""
    values = real.astype(np.float64)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -60, 60))))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.asarray((values - center) / width + 0.5)


def _window(header: Dataset) -> tuple[float, float, str] | None:
    """The first window (center, width, function); None where there is none or it is void."""
    center, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    if not np.isfinite([center, width]).all() or width < (1 if function == "LINEAR" else 1e-12):
        return None
    return center, width, function


def _first(value: Any) -> float | None:
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, int | float):
        return float(value)
    return float(value[0]) if len(value) else None


def _has_lut(header: Dataset) -> bool:
    luts = header.get("VOILUTSequence")
    return bool(luts) and "LUTDescriptor" in luts[0] and "LUTData" in luts[0]


def _of_frame(header: Dataset, index: int) -> Dataset:
    """The header with the frame's own tables on top: per frame, else shared, else the file's."""
    shared = header.get("SharedFunctionalGroupsSequence") or []
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*shared[:1], *frames[index : index + 1]]
    items = [group[keyword][0] for group in groups for keyword in _GROUPS if group.get(keyword)]
    if not items:
        return header
    merged = Dataset()
    for keyword in ("BitsStored", "PixelRepresentation", "PixelPaddingValue", "Modality"):
        if keyword in header:
            merged[keyword] = header[keyword]
    for item in items:
        merged.update(item)
    return merged


def _by_depth(colours: NDArray[Any], bits: int) -> UInt8:
    """Colour samples by the range that their depth declares; signed or wider ones by `to_uint8`."""
    if colours.dtype == np.uint8 and bits == 8:
        return np.ascontiguousarray(colours)
    if colours.dtype.kind == "u" and int(colours.max()) < 2**bits:
        return stretch(colours, 0, 2**bits - 1)
    return to_uint8(colours)


def _palette_bits(header: Dataset) -> int:
    """Bits of a palette entry. Some makers declare 16 and fill only the low 8."""
    declared = int(header.RedPaletteColorLookupTableDescriptor[2])
    if declared == 16 and "RedPaletteColorLookupTableData" in header:
        tables = [
            np.frombuffer(header[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")
        ]
        return 8 if max(int(table.max()) for table in tables if table.size) < 256 else 16
    return declared
