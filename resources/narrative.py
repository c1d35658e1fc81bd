"""Narrative: what XHTML a `div` may hold (txt-1, txt-2).

The lists are those of the invariant's own XPath, with the five elements of HTML 4.0 chapters 7 to 11 and 15 that its
text allows and its list forgets. A viewer shows this text as it is, so whatever could run or load is refused, not
cleaned: a cleaned narrative would no longer be what its author wrote.

http://hl7.org/fhir/R4/narrative.html#xhtml
"""

from __future__ import annotations

import re
from xml.parsers import expat

XHTML = "http://www.w3.org/1999/xhtml"

_ELEMENTS = """
    a abbr acronym b big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3 h4 h5 h6 hr i img
    li ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt ul var
    address bdo kbd s u
"""
_ATTRIBUTES = """
    abbr accesskey align alt axis bgcolor border cellhalign cellpadding cellspacing cellvalign char charoff charset
    cite class colspan compact coords dir frame headers height href hreflang hspace id lang longdesc name nowrap rel
    rev rowspan rules scope shape span src start style summary tabindex title type valign value vspace width
"""
ELEMENTS = frozenset(_ELEMENTS.split())
ATTRIBUTES = frozenset(_ATTRIBUTES.split())

_XML = "http://www.w3.org/XML/1998/namespace "
_LINKS = frozenset({"href", "src", "cite", "longdesc"})
_SCHEMES = re.compile(r"(?:https?|mailto|tel|ftp|urn|cid):|data:image/(?:png|jpeg|gif|webp|bmp);", re.IGNORECASE)
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_ACTIVE_STYLE = re.compile(
    r"expression\s*\(|javascript:|vbscript:|@import|behaviou?r\s*:|-moz-binding|\\", re.IGNORECASE
)
_IGNORED_IN_URL = re.compile(r"[\x00-\x20\u00a0\u2028\u2029]")


class _Refused(Exception):
    pass


def problem(text: str) -> str | None:
    """The rule that a narrative breaks, or None."""
    check = _Check()
    # No entity can be declared, hence none expanded: a DOCTYPE is refused as soon as it opens.
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.StartElementHandler = check.start
    parser.CharacterDataHandler = check.characters
    parser.StartDoctypeDeclHandler = check.doctype
    parser.ProcessingInstructionHandler = check.instruction
    try:
        parser.Parse(text.encode(), True)
    except _Refused as refusal:
        return str(refusal)
    except expat.ExpatError as fault:
        return f"The narrative is not well-formed XML: {expat.ErrorString(fault.code)} (txt-1)"
    return None if check.content else "The narrative has no content but white space (txt-2)"


class _Check:
    def __init__(self) -> None:
        self.root = True
        self.content = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, element = name.rpartition(" ")
        if self.root and element != "div":
            raise _Refused("The narrative is not one div element (txt-1)")
        self.root = False
        # Many senders leave the namespace out; JSON gives no place where it could be in doubt.
        if namespace not in ("", XHTML):
            raise _Refused("The narrative holds elements that are not XHTML (txt-1)")
        if element not in ELEMENTS:
            raise _Refused("The narrative holds an element that R4 does not allow (txt-1)")
        for attribute, value in attributes.items():
            self._attribute(attribute, value)
        if element == "img" and attributes.get("src"):
            self.content = True

    def _attribute(self, name: str, value: str) -> None:
        if name.startswith(_XML):
            return
        if name not in ATTRIBUTES:
            raise _Refused("The narrative holds an attribute that R4 does not allow (txt-1)")
        if name in _LINKS:
            url = _IGNORED_IN_URL.sub("", value)
            if _HAS_SCHEME.match(url) and not _SCHEMES.match(url):
                raise _Refused("The narrative holds a link that could run code (txt-1)")
        if name == "style" and _ACTIVE_STYLE.search(value):
            raise _Refused("The narrative holds a style that could run code (txt-1)")

    def characters(self, data: str) -> None:
        if not self.content and data.strip():
            self.content = True

    def doctype(self, *_declaration: object) -> None:
        raise _Refused("The narrative has a DOCTYPE (txt-1)")

    def instruction(self, *_instruction: object) -> None:
        raise _Refused("The narrative has a processing instruction (txt-1)")
