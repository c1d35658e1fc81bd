"""A frame as a picture: rescale, window, crop, scale, encode. Runs only in the pixel workers.

PS3.18 §8.3.5 (rendering parameters), PS3.3 §C.11.1 (Modality LUT), §C.11.2 (VOI LUT), PS3.4 §N.2 (pipeline).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array

from resources.json import Json

Array = np.ndarray[Any, Any]
MAX_SIDE = 8192
"""Pixels of a rendered picture, each way."""


def picture(source: Any, header: Dataset, task: Json) -> bytes:
    """The rendered frame `task["frame"]` (from 1), encoded as ``task["type"]``."""
    array = pixel_array(source, index=task["frame"] - 1)
    shown = _shown(array, header, task)
    image = Image.fromarray(shown)
    image = _viewport(image, task.get("viewport"), task.get("maxSide"))
    output = io.BytesIO()
    if task["type"] == "image/png":
        image.save(output, "PNG")
    elif task["type"] == "image/gif":
        image.save(output, "GIF")
    else:
        image.save(output, "JPEG", quality=task.get("quality") or 90)
    return output.getvalue()


def _shown(array: Array, header: Dataset, task: Json) -> Array:
    """8-bit grey or RGB."""
    photometric = header.get("PhotometricInterpretation", "MONOCHROME2")
    if photometric == "PALETTE COLOR":
        array = apply_color_lut(array, header)
        return (array >> 8).astype(np.uint8) if array.dtype.itemsize == 2 else array.astype(np.uint8)
    if array.ndim == 3:
        bits = int(header.get("BitsStored", 8))
        return (array >> max(0, bits - 8)).astype(np.uint8) if array.dtype.itemsize > 1 else array
    source = _frame_attributes(header, task["frame"])
    values = apply_modality_lut(array, source)
    grey = _windowed(values, source, task.get("window"))
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _frame_attributes(header: Dataset, frame: int) -> Dataset:
    """What the rescale and the window of one frame are: enhanced objects keep them in functional groups (§C.7.6.16)."""
    groups = []
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame and frame <= len(per_frame):
        groups.append(per_frame[frame - 1])
    groups.extend(header.get("SharedFunctionalGroupsSequence") or [])
    if not groups:
        return header
    source = Dataset()
    for name in ("BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation"):
        if name in header:
            setattr(source, name, header[name].value)
    for group in reversed(groups):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name) or []:
                source.update(item)
    return source


def _windowed(values: Array, source: Dataset, window: list[Any] | None) -> Array:
    if window:
        centre, width, function = float(window[0]), float(window[1]), str(window[2])
        return _apply(values.astype(np.float64), centre, width, function)
    if "VOILUTSequence" in source or "WindowCenter" in source:
        if "VOILUTSequence" in source:
            mapped = apply_voi_lut(values, source, index=0).astype(np.float64)
            return _stretched(mapped)
        centre = float(_first(source.WindowCenter))
        width = float(_first(source.WindowWidth))
        function = str(source.get("VOILUTFunction", "LINEAR")).lower().replace("_", "-")
        if width >= 1:
            return _apply(values.astype(np.float64), centre, width, function)
    return _stretched(values.astype(np.float64))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) or hasattr(value, "__getitem__") else value


def _stretched(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return ((values - low) * scale).astype(np.uint8)


def _apply(values: Array, centre: float, width: float, function: str) -> Array:
    """PS3.3 §C.11.2.1.2.1 (linear), §C.11.2.1.3.2 (linear exact), §C.11.2.1.3.1 (sigmoid), to 0…255."""
    if function == "sigmoid":
        return np.asarray(255.0 / (1.0 + np.exp(-4.0 * (values - centre) / width))).astype(np.uint8)
    if function == "linear-exact":
        result = (values - centre) / width + 0.5
    else:
        result = (values - (centre - 0.5)) / max(width - 1.0, 1e-9) + 0.5
    return np.asarray(np.clip(result, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _viewport(image: Image.Image, viewport: list[float] | None, max_side: int | None) -> Image.Image:
    """``width,height[,sx,sy,sw,sh]``: a region, flipped where its size is negative, fitted into width × height."""
    if not viewport:
        if max_side and max(image.size) > max_side:
            image.thumbnail((max_side, max_side))
        return image
    width, height, *region = viewport
    if region:
        left, top, across, down = region
        across = across or image.width - left
        down = down or image.height - top
        right, bottom = left + abs(across), top + abs(down)
        image = image.crop((round(left), round(top), round(right), round(bottom)))
        if across < 0:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if down < 0:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR) if size != image.size else image
