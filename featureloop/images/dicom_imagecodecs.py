"""A pydicom decoding plugin: 12-bit JPEG Extended by imagecodecs (libjpeg-turbo).

The names and signatures are those of pydicom's guide to decoding plugins.
"""

from __future__ import annotations

from importlib.util import find_spec

import imagecodecs
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

DECODER_DEPENDENCIES = {uid.JPEGExtended12Bit: ("numpy", "imagecodecs")}
_LABEL = "imagecodecs"


def is_available(uid: str) -> bool:
    """Say whether this plugin can decode the transfer syntax here."""
    return uid in DECODER_DEPENDENCIES and find_spec("imagecodecs") is not None and bool(imagecodecs.JPEG8.available)


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one JPEG codestream of 8 or 12 bits to little-endian samples.

    Parameters
    ----------
    src
        The codestream (PS3.5, A.4.1).
    runner
        pydicom's decoding run: it is told how wide the samples are and that
        they are interleaved by pixel.
    """
    samples = imagecodecs.jpeg8_decode(src)
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    if samples.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return bytearray(samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes())


def register() -> None:
    """Add the plugin to pydicom, once."""
    decoder = get_decoder(uid.JPEGExtended12Bit)
    if _LABEL not in decoder.available_plugins:
        decoder.add_plugin(_LABEL, (__name__, "decode_frame"))
