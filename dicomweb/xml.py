"""DICOM JSON → the Native DICOM Model in XML: for Weasis and the dcm4che tools, which ask for nothing else.

PS3.19 §A.1, PS3.18 §8.7.3.2
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from resources.json import Json

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")


def native_model(json: Json) -> bytes:
    """One data set as a NativeDicomModel document."""
    body = "".join(_attribute(tag, element) for tag, element in sorted(json.items()))
    return f'{_HEAD}<NativeDicomModel xml:space="preserve" xmlns="{_NAMESPACE}">{body}</NativeDicomModel>'.encode()


def _attribute(tag: str, element: Json) -> str:
    keyword = keyword_for_tag(int(tag, 16))
    named = f' keyword="{keyword}"' if keyword else ""
    vr = element["vr"]
    return f'<DicomAttribute tag="{tag}" vr="{vr}"{named}>{_content(vr, element)}</DicomAttribute>'


def _content(vr: str, element: Json) -> str:
    if "BulkDataURI" in element:
        return f"<BulkData uri={quoteattr(element['BulkDataURI'])}/>"
    if "InlineBinary" in element:
        return f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    parts = []
    for number, value in enumerate(element.get("Value", []), start=1):
        if vr == "SQ":
            inner = "".join(_attribute(tag, child) for tag, child in sorted(value.items()))
            parts.append(f'<Item number="{number}">{inner}</Item>')
        elif vr == "PN":
            parts.append(f'<PersonName number="{number}">{_person(value or {})}</PersonName>')
        else:
            parts.append(f'<Value number="{number}">{"" if value is None else _text(str(value))}</Value>')
    return "".join(parts)


def _person(value: Json) -> str:
    groups = []
    for group in ("Alphabetic", "Ideographic", "Phonetic"):
        if group in value:
            components = zip(_NAME_PARTS, str(value[group]).split("^"), strict=False)
            inner = "".join(f"<{name}>{_text(part)}</{name}>" for name, part in components if part)
            groups.append(f"<{group}>{inner}</{group}>")
    return "".join(groups)


def _text(value: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return escape("".join(c for c in value if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff")))
