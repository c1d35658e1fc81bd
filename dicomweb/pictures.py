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
ANNOTATIONS = frozenset({"patient", "technique"})
FUNCTIONS = frozenset({"linear", "linear-exact", "sigmoid"})
MAX_SIDE = 8192
THUMBNAIL_SIDE = 256


def annotation(text: str) -> tuple[str, ...]:
    """The annotations asked for (§8.3.5.1.1)."""
    found = tuple(part.strip() for part in text.split(","))
    if not set(found) <= ANNOTATIONS:
        raise BadRequest("annotation is a list of patient and technique (PS3.18 §8.3.5.1.1)")
    return found


def quality(text: str) -> int:
    """The quality of a JPEG (§8.3.5.1.2)."""
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= 100:
        raise BadRequest("quality is an integer from 1 to 100 (PS3.18 §8.3.5.1.2)")
    return int(text)


def icc_profile(text: str) -> str:
    """Only ``no``: no picture given here has a profile (§8.3.5.1.5)."""
    if text != "no":
        raise BadRequest("iccprofile: pictures have no ICC profile here, so that only no is taken (PS3.18 §8.3.5.1.5)")
    return text


def window(text: str) -> tuple[float, float, str]:
    """Centre, width and function (§8.3.5.1.4)."""
    parts = text.split(",")
    if len(parts) != 3 or parts[2].lower() not in FUNCTIONS:
        raise BadRequest("window is centre,width,function with linear, linear-exact or sigmoid (PS3.18 §8.3.5.1.4)")
    centre, width = _number(parts[0], "window"), _number(parts[1], "window")
    if width <= 0 or (width < 1 and parts[2].lower() == "linear"):
        raise BadRequest("The width of window is too small for its function (PS3.3 §C.11.2.1.2)")
    return centre, width, parts[2].lower()


def viewport(text: str) -> tuple[float, ...]:
    """``width,height``, and the region of the picture that is shown (§8.3.5.1.3)."""
    parts = text.split(",")
    if len(parts) not in {2, 6}:
        raise BadRequest("viewport is width,height or width,height,x,y,width,height (PS3.18 §8.3.5.1.3)")
    numbers = tuple(_number(part or "0", "viewport") for part in parts)
    if not all(1 <= side <= MAX_SIDE for side in numbers[:2]):
        raise BadRequest(f"The sides of viewport are 1 to {MAX_SIDE} pixels")
    if any(abs(number) > 1e6 for number in numbers) or any(number < 0 for number in numbers[2:4]):
        raise BadRequest("The region of viewport lies outside the picture")
    return numbers


def thumbnail_viewport(text: str) -> tuple[float, ...]:
    """``width,height`` alone (§8.3.5.1.3, §8.3.5.2)."""
    if text.count(",") != 1:
        raise BadRequest("viewport of a thumbnail is width,height (PS3.18 §8.3.5.2)")
    return viewport(text)


def rendering_task(asked: Mapping[str, Any], *, thumbnail: bool) -> Json:
    """What the pixel worker is told: window, viewport and quality, where they were asked."""
    task: Json = {name: asked[name] for name in ("window", "viewport", "quality") if asked.get(name) is not None}
    if thumbnail and "viewport" not in task:
        task["maxSide"] = THUMBNAIL_SIDE
    return task


def without_effect(asked: Mapping[str, Any], kind: str) -> list[str]:
    """What a client is told of parameters that change nothing in a picture of this media type."""
    found = []
    if asked.get("annotation"):  # §8.3.5.1.1 has this text
        found.append(f"The following annotation values are not supported: {','.join(asked['annotation'])}")
    if asked.get("quality") is not None and kind != "image/jpeg":
        found.append(f"The quality parameter has no effect on {kind}")
    return found


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
