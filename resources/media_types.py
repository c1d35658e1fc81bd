"""Media types in HTTP fields, for every facade: Content-Type and Accept as values.

Parameters are read by the standard library's header parser. It takes what viewers send: values without quotes though
they hold ``/`` (``type=application/dicom``), any case, blanks or none. Werkzeug's reader, the other candidate, ends an
unquoted value at its first ``/``, ``:`` or ``=``.

RFC 9110 §8.3.1 (media type), §12.4.2 (quality), §12.5.1 (Accept)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import collapse_rfc2231_value
from functools import lru_cache
from types import MappingProxyType

MAX_LENGTH = 1024
"""Characters of one media type; the standard library's work is quadratic in them. A longer one counts as none."""
MAX_RANGES = 100
_KEPT_LENGTH = 1024
"""Longer texts are not kept, so that what a stranger sends cannot fill the memory."""
_ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
"""An item of a list: up to a comma that is not quoted."""
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type, or a range of them, with its parameters but for the quality."""

    type: str = ""
    """In lower case; empty where there is none."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    quality: float = 1.0
    """The parameter ``q``; 0 where it is no quality."""


def parse(text: str | None) -> MediaType:
    """A Content-Type. What cannot be read has an empty type."""
    return _parsed(text) if text and len(text) <= MAX_LENGTH else MediaType()


def accepted(text: str | None) -> tuple[MediaType, ...]:
    """The ranges of an Accept field, best first; those of equal quality in their order, those of quality 0 left out."""
    if not text:
        return ()
    read: Callable[[str], tuple[MediaType, ...]] = _accepted if len(text) <= _KEPT_LENGTH else _accepted.__wrapped__
    return read(text)


@lru_cache(maxsize=512)
def _parsed(text: str) -> MediaType:
    message = Message()
    message["Content-Type"] = text
    (kind, _), *pairs = message.get_params(unquote=True) or [("", "")]
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name:
            parameters.setdefault(name.lower(), collapse_rfc2231_value(value))
    quality = parameters.pop("q", "1").strip()
    return MediaType(
        kind.strip().lower(), MappingProxyType(parameters), float(quality) if _QUALITY.fullmatch(quality) else 0.0
    )


@lru_cache(maxsize=512)
def _accepted(text: str) -> tuple[MediaType, ...]:
    found = [parse(item.strip()) for item in _ITEM.findall(text)[:MAX_RANGES]]
    return tuple(sorted((one for one in found if one.type and one.quality > 0), key=lambda one: -one.quality))
