"""Accept → media type and transfer syntax; media type of the pixels of a transfer syntax.

Tolerant as real viewers need it: quoted or unquoted parameters, any case, no spaces, lists, several multipart/related
alternatives, ``*/*``, no header at all, and ``?accept=`` in place of the header.

PS3.18 §8.7 (media types), §8.7.3.4 (transfer syntax), §8.3.3.1 (accept query parameter), Table 8.7.3-5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dicomweb.part10 import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, NATIVE
from resources.media_types import accepted

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
OCTETS = "application/octet-stream"
MULTIPART = "multipart/related"
STORED = "*"

COMPRESSED: Mapping[str, str] = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.100": "video/mpeg",
    "1.2.840.10008.1.2.4.101": "video/mpeg",
    "1.2.840.10008.1.2.4.102": "video/mp4",
    "1.2.840.10008.1.2.4.103": "video/mp4",
    "1.2.840.10008.1.2.4.104": "video/mp4",
    "1.2.840.10008.1.2.4.105": "video/mp4",
    "1.2.840.10008.1.2.4.106": "video/mp4",
    "1.2.840.10008.1.2.4.107": "video/H265",
    "1.2.840.10008.1.2.4.108": "video/H265",
}
"""Transfer syntax → media type of a frame or of the whole bulk pixel data (Table 8.7.3-5)."""

DEFAULT_SYNTAX: Mapping[str, str] = {
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": "1.2.840.10008.1.2.4.201",
    "image/jxl": "1.2.840.10008.1.2.4.110",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
}


@dataclass(frozen=True, slots=True)
class Range:
    """One media range of an Accept header. `type` is the part type where the range is multipart/related."""

    type: str
    multipart: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def transfer_syntax(self) -> str | None:
        """The transfer syntax that is asked for; None: any."""
        return self.parameters.get("transfer-syntax")

    def covers(self, media_type: str) -> bool:
        """Whether a media type is within this range (RFC 9110 §12.5.1)."""
        if self.type in {"*/*", media_type}:
            return True
        return self.type.endswith("/*") and media_type.startswith(self.type[:-1])


def accept(header: str | None, parameters: Sequence[str] = ()) -> tuple[Range, ...]:
    """The media ranges asked for, best first; ``*/*`` when none. The query parameter takes the header's place."""
    asked = [value for value in parameters if value.strip()]
    text = ",".join(asked) if asked else (header or "")
    if not text.strip():
        return (Range("*/*"),)
    return tuple(
        Range(one.parameters.get("type", "*/*").lower(), True, one.parameters)
        if one.type in {MULTIPART, "multipart/*"}
        else Range(one.type, False, one.parameters)
        for one in accepted(text)
    )


def json_or_xml(ranges: Iterable[Range]) -> str | None:
    """The representation of metadata and query results; None: 406 (PS3.18 §8.7.8)."""
    for wanted in ranges:
        if wanted.covers(DICOM_JSON) or wanted.type == "application/json":
            return DICOM_JSON
        if wanted.type in {DICOM_XML, "application/xml", "text/xml"}:
            return DICOM_XML
    return None


@dataclass(frozen=True, slots=True)
class Choice:
    """How to answer: the media type of each part, in which transfer syntax, in parts or alone."""

    type: str
    transfer_syntax: str
    multipart: bool


def choose_instance(ranges: Iterable[Range], stored: str, *, alone_is_possible: bool) -> Choice | None:
    """For whole instances. Without transfer-syntax Explicit VR Little Endian is asked (§8.7.3.4); ``*`` is as stored.

    Implicit and explicit little endian are both served as stored when the range says nothing but ``*/*``.
    """
    for wanted in ranges:
        if not wanted.covers(DICOM):
            continue
        single = not wanted.multipart and wanted.type != "*/*"
        if single and not alone_is_possible:
            continue
        syntax = wanted.transfer_syntax
        if syntax == STORED or (syntax is None and wanted.type == "*/*" and not wanted.multipart):
            return Choice(DICOM, stored, not single)
        if syntax is None or syntax == EXPLICIT_LE:
            return Choice(DICOM, EXPLICIT_LE, not single)
        if syntax == stored:
            return Choice(DICOM, stored, not single)
    return None


def choose_frames(ranges: Iterable[Range], stored: str) -> Choice | None:
    """For frames and pixel bulk data: as stored where that is asked or allowed, else native."""
    stored_type = OCTETS if stored in NATIVE else COMPRESSED.get(stored, OCTETS)
    for wanted in ranges:
        multipart = wanted.multipart or wanted.type == "*/*"
        syntax = wanted.transfer_syntax
        if wanted.type == "*/*" and syntax in {None, STORED, stored}:
            return Choice(stored_type, served_native(stored), multipart)
        if wanted.type == OCTETS:
            if syntax == STORED:
                return Choice(stored_type, served_native(stored), multipart)
            if syntax in {None, EXPLICIT_LE, IMPLICIT_LE} or (syntax == stored and stored in NATIVE):
                return Choice(OCTETS, EXPLICIT_LE, multipart)
            if syntax == stored:
                return Choice(stored_type, stored, multipart)
        if wanted.covers(stored_type) and syntax in {None, STORED, stored}:
            return Choice(stored_type, served_native(stored), multipart)
    return None


def served_native(stored: str) -> str:
    """Native frames are served little endian, whatever they are stored as."""
    if stored in {EXPLICIT_BE, "1.2.840.10008.1.2.1.99", IMPLICIT_LE}:
        return EXPLICIT_LE
    return stored
