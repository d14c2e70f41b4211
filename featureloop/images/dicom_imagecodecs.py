"""A pydicom decoding plugin: JPEG and JPEG 2000 by imagecodecs (libjpeg-turbo, OpenJPEG).

It reads what no other permissively licensed plugin does (12-bit JPEG Extended,
high-throughput JPEG 2000), and it stays inside Python on hostile data, where
GDCM's JPEG decoder ends the whole process by an uncaught C++ exception. The
names and signatures are those of pydicom's guide to decoding plugins.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

import imagecodecs
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

LABEL: Final = "imagecodecs"

_JPEG: Final = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_2000: Final = (
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)

DECODER_DEPENDENCIES: Final = dict.fromkeys((*_JPEG, *_JPEG_2000), ("numpy", "imagecodecs"))


def is_available(uid: str) -> bool:
    """Say whether this plugin can decode the transfer syntax here."""
    if uid not in DECODER_DEPENDENCIES or find_spec("imagecodecs") is None:
        return False
    return bool(imagecodecs.JPEG8.available if uid in _JPEG else imagecodecs.JPEG2K.available)


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one codestream to little-endian samples, interleaved by pixel.

    Parameters
    ----------
    src
        The codestream (PS3.5, A.4.1 and A.4.4).
    runner
        pydicom's decoding run: it is told how wide the samples are. Colour is
        left as encoded: pydicom converts it by the Photometric Interpretation.
    """
    if runner.transfer_syntax in _JPEG_2000:
        samples = imagecodecs.jpeg2k_decode(src)
    elif runner.samples_per_pixel == 3:
        samples = imagecodecs.jpeg8_decode(src, colorspace="RGB", outcolorspace="RGB")
    else:
        samples = imagecodecs.jpeg8_decode(src)
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    if samples.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return bytearray(samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes())


def register() -> None:
    """Add the plugin to pydicom, once."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, "decode_frame"))
