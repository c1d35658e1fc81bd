"""A pydicom decoder plug-in over imagecodecs, for the JPEG processes that no permissively licensed plug-in reads.

Lossless (.57, .70) and 12-bit extended (.51): pylibjpeg-libjpeg is GPL, pillow reads 8-bit only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydicom.pixels.decoders.base import (
    JPEGExtended12BitDecoder,
    JPEGLosslessDecoder,
    JPEGLosslessSV1Decoder,
)

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

DECODER_DEPENDENCIES: dict[Any, tuple[str, ...]] = {
    decoder.UID: ("imagecodecs",)
    for decoder in (JPEGLosslessDecoder, JPEGLosslessSV1Decoder, JPEGExtended12BitDecoder)
}
"""Asked for by pydicom of a plug-in module."""


def is_available(uid: str) -> bool:
    """Whether the plug-in can decode this transfer syntax."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytearray:
    """One frame of compressed pixel data as little-endian bytes, colour by pixel."""
    import imagecodecs
    import numpy as np

    if runner.transfer_syntax == JPEGExtended12BitDecoder.UID:
        array = imagecodecs.jpeg_decode(source)
    else:
        array = imagecodecs.ljpeg_decode(source)
    stored = array.dtype.itemsize * 8
    if stored != runner.bits_allocated:
        array = array.astype(np.uint16 if runner.bits_allocated == 16 else np.uint8)
    return bytearray(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())


def register() -> None:
    """Make the plug-in known to pydicom, once per process."""
    for decoder in (JPEGLosslessDecoder, JPEGLosslessSV1Decoder, JPEGExtended12BitDecoder):
        if "imagecodecs" not in decoder.available_plugins:
            decoder.add_plugin("imagecodecs", (__name__, "decode_frame"))
