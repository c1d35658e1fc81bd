"""Texts as a string search compares them: without case, without accents.

FHIR R4 §3.1.1.5.9 http://hl7.org/fhir/R4/search.html#string
"""

from __future__ import annotations

import unicodedata


def normalise(text: str) -> str:
    """`text` decomposed (NFKD), without combining marks, casefolded, runs of white space as one space, trimmed."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text).casefold()
        # Casefolding can bring marks back (U+0130 becomes i and a dot above), so marks go last.
        text = "".join(c for c in unicodedata.normalize("NFKD", decomposed) if not unicodedata.combining(c))
    return " ".join(text.lower().split())


def composed(text: str) -> str:
    """`text` as `:exact` compares it: composed (NFC), so that two encodings of one character are one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(code: str) -> str:
    """A code as tokens compare it: without regard to case, which is safer than to miss (§3.1.1.5.11)."""
    return code.lower() if code.isascii() else unicodedata.normalize("NFC", code).casefold()
