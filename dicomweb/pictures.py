"""Which frame stands for what was asked, and how it is to be rendered: pure.

DICOM PS3.18 §8.3.5 (rendering parameters), §10.4.1.1.4.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from resources.json import Json
from resources.outcomes import BadRequest, NotFound

PICTURES = ("image/jpeg", "image/png", "image/gif")
FUNCTIONS = frozenset({"linear", "linear-exact", "sigmoid"})
MAX_SIDE = 8192
THUMBNAIL_SIDE = 256


def rendering_task(parameters: Mapping[str, str], *, thumbnail: bool) -> Json:
    """Window, viewport and quality of a request. Raises BadRequest."""
    task: Json = {}
    if window := parameters.get("window"):
        task["window"] = _window(window)
    if viewport := parameters.get("viewport"):
        task["viewport"] = _viewport(viewport)
    elif thumbnail:
        task["maxSide"] = THUMBNAIL_SIDE
    if quality := parameters.get("quality"):
        if not quality.isdigit() or not 1 <= int(quality) <= 100:
            raise BadRequest("quality is an integer from 1 to 100 (PS3.18 §8.3.5.1.2)")
        task["quality"] = int(quality)
    return task


def _window(text: str) -> list[Any]:
    parts = text.split(",")
    if len(parts) != 3 or parts[2].lower() not in FUNCTIONS:
        raise BadRequest("window is centre,width,function with linear, linear-exact or sigmoid (PS3.18 §8.3.5.1.4)")
    centre, width = _number(parts[0], "window"), _number(parts[1], "window")
    if width <= 0 or (width < 1 and parts[2].lower() == "linear"):
        raise BadRequest("The width of window is too small for its function (PS3.3 §C.11.2.1.2)")
    return [centre, width, parts[2].lower()]


def _viewport(text: str) -> list[float]:
    parts = text.split(",")
    if len(parts) not in {2, 6}:
        raise BadRequest("viewport is width,height or width,height,x,y,width,height (PS3.18 §8.3.5.1.3)")
    numbers = [_number(part or "0", "viewport") for part in parts]
    if not all(1 <= side <= MAX_SIDE for side in numbers[:2]):
        raise BadRequest(f"The sides of viewport are 1 to {MAX_SIDE} pixels")
    if any(abs(number) > 1e6 for number in numbers) or any(number < 0 for number in numbers[2:4]):
        raise BadRequest("The region of viewport lies outside the picture")
    return numbers


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadRequest(f"{name} holds something other than numbers")
    return number


def pick_frame(rows: Sequence[Any], number: int | None) -> tuple[Any, int]:
    """The instance and frame to render; (None, 0) where nothing has pixels. Raises NotFound for a frame too many.

    For a series or study the middle instance stands: it shows more than the first slice.
    """
    pictured = [row for row in rows if row.frame_count]
    if not pictured:
        return None, 0
    row = pictured[len(pictured) // 2]
    if number is None:
        return row, (row.frame_count + 1) // 2 if len(rows) > 1 else 1
    if number > row.frame_count:
        raise NotFound("The instance has no such frame")
    return row, number


def blank() -> bytes:
    """A grey PNG of one pixel, for what has no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")
