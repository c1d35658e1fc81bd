"""Names of persons as they are compared: pure. French usage: birth name and used name, compounds, particles, accents.

A name is compared in two traits, the family name and the given names, because siblings share the one and strangers the
other. DICOM PS3.5 §6.2.1.2 (PN, component groups), FHIR R4 HumanName, FR Core birth-list-given-name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from resources.json import Json
from resources.strings import normalise

AGREE, ABSENT, UNCLEAR, DISAGREE = "agree", "absent", "unclear", "disagree"
_ORDER = (AGREE, UNCLEAR, DISAGREE, ABSENT)
"""Of several pairs of names the best counts: a person has a birth name and a used name."""
_LETTERS = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})
_PARTICLES = frozenset({
    "de", "du", "des", "d", "la", "le", "les", "l", "da", "do", "dos", "das", "van", "von", "der", "den", "del",
    "della", "di", "ben", "bin", "ibn", "el", "al",
})
_SHORT = {"st": "saint", "ste": "sainte"}
_NOBODY = frozenset({
    "inconnu", "inconnue", "unknown", "anonyme", "anonymous", "anonymized", "anonymise", "x", "xx", "xxx", "sans",
    "nom", "identite", "nn", "neant", "trauma", "homme", "femme", "masculin", "feminin", "sdf",
})
"""Words in place of a name: two unknown people are not the same because both are unknown."""

Tokens = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """One way in which a person is named."""

    family: Tokens
    given: Tokens
    is_joined: bool = False
    """Family and given name may stand together in `family`: nobody wrote where the one ends."""


def tokens(text: str) -> Tokens:
    """The words of a name: without case, accents, ligatures, punctuation."""
    folded = normalise(normalise(text).translate(_LETTERS))
    words = "".join(c if c.isalnum() else " " for c in folded).split()
    return tuple(_SHORT.get(word, word) for word in words)


def of_dicom(value: Json) -> list[Name]:
    """The names of a PN value: one of each component group (alphabetic, ideographic, phonetic)."""
    found = []
    for group in value.values():
        parts = [*str(group).split("^"), "", ""]
        given = tokens(f"{parts[1]} {parts[2]}")
        found.append(Name(tokens(parts[0]), given, is_joined=not given))
    return found


def of_fhir(name: Json) -> list[Name]:
    """The names of a HumanName: one for each family name that it holds."""
    if name.get("use") == "anonymous":
        return []
    given = [str(one) for one in name.get("given", []) if one]
    given += [
        str(one.get("valueString", ""))
        for one in name.get("extension", [])
        if str(one.get("url", "")).endswith("birth-list-given-name")
    ]
    families = [str(name.get("family", ""))]
    families += [
        str(one["valueString"])
        for one in (name.get("_family") or {}).get("extension", [])
        if isinstance(one, dict) and one.get("valueString")
    ]
    words = tokens(" ".join(given))
    if not any(families) and not words:
        whole = tokens(str(name.get("text", "")))
        return [Name(whole, (), is_joined=True)] if whole else []
    return [Name(tokens(family), words, is_joined=not words) for family in families]


def completed(found: Iterable[Name]) -> tuple[Name, ...]:
    """The names that say something, each once, in an order of their own."""
    cleaned = {_cleaned(name) for name in found}
    return tuple(sorted((one for one in cleaned if one.family or one.given), key=lambda one: (one.family, one.given)))


def _cleaned(name: Name) -> Name:
    """Without words in place of a name; given names in no order, since consoles and registers differ in it."""
    family = () if _is_nobody(name.family) else name.family
    given = () if _is_nobody(name.given) else tuple(sorted(set(name.given)))
    return Name(family, given, name.is_joined and bool(family))


def _is_nobody(words: Tokens) -> bool:
    return all(word in _NOBODY or word.isdigit() for word in words)


def compare(left: Sequence[Name], right: Sequence[Name]) -> tuple[str, str]:
    """The verdicts on family and given name, each the best of all pairs that can be compared."""
    pairs = [_pair(one, other) for one in left for other in right]
    if not pairs:
        return ABSENT, ABSENT
    family, given = (min(verdicts, key=_ORDER.index) for verdicts in zip(*pairs, strict=True))
    return family, given


def _pair(left: Name, right: Name) -> tuple[str, str]:
    for one, other in ((left, right), (right, left)):
        if one.is_joined and other.given and len(one.family) > 1:
            return _joined(one, other)
    family, given = _families(left.family, right.family), _given(left.given, right.given)
    if family in (DISAGREE, UNCLEAR) and given in (DISAGREE, UNCLEAR):
        crossed = _families(left.family, right.given), _families(left.given, right.family)
        if crossed == (AGREE, AGREE):
            return UNCLEAR, UNCLEAR  # swapped at a console, or Martin Paul and Paul Martin
    return family, given


def _joined(one: Name, other: Name) -> tuple[str, str]:
    """A name written in one piece against one in two: what is not the family name must be given names."""
    whole, family = set(_core(one.family)), set(_core(other.family))
    if not family or not _is_comparable(one.family, other.family):
        return ABSENT, ABSENT
    rest = whole - family
    if family <= whole:
        if not rest:
            return AGREE, ABSENT
        return (AGREE, AGREE) if _given(tuple(rest), other.given) == AGREE else (UNCLEAR, UNCLEAR)
    if whole <= family:
        return AGREE, ABSENT
    return (UNCLEAR, UNCLEAR) if whole & family else (_families(one.family, other.family), ABSENT)


def _families(left: Tokens, right: Tokens) -> str:
    if not left or not right or not _is_comparable(left, right):
        return ABSENT
    if "".join(left) == "".join(right):
        return AGREE
    one, other = set(_core(left)), set(_core(right))
    if one <= other or other <= one:
        return AGREE
    if one & other or _near("".join(left), "".join(right)) or _near("".join(_core(left)), "".join(_core(right))):
        return UNCLEAR
    return DISAGREE


def _given(left: Tokens, right: Tokens) -> str:
    if not left or not right or not _is_comparable(left, right):
        return ABSENT
    one, other = set(left), set(right)
    if one <= other or other <= one or one & _glued(other) or other & _glued(one):
        return AGREE
    if one & other or any(_near(a, b) or _is_initial(a, b) or _is_initial(b, a) for a in one for b in other):
        return UNCLEAR
    return DISAGREE


def _glued(words: set[str]) -> set[str]:
    """Compound given names written in one word, in either order."""
    few = sorted(words)[:6]
    return {"".join(pair) for pair in permutations(few, 2)} | {"".join(three) for three in permutations(few, 3)}


def _core(words: Tokens) -> Tokens:
    """The words that tell a family: without particles, unless there is nothing else."""
    return tuple(word for word in words if word not in _PARTICLES) or words


def _is_comparable(left: Tokens, right: Tokens) -> bool:
    """Latin letters say nothing of ideographs, and the other way round."""
    return "".join(left).isascii() == "".join(right).isascii()


def _is_initial(short: str, long: str) -> bool:
    return len(short) == 1 and long.startswith(short)


def _near(left: str, right: str) -> bool:
    """A cut-off name, or one letter more, less, other or exchanged in a longer one."""
    short, long = sorted((left, right), key=len)
    if len(short) >= 2 and (long.startswith(short) or long.endswith(short)):
        return True
    if len(long) < 4 or len(long) - len(short) > 1:
        return False
    first = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[first:] == long[first + 1 :]
    swapped = short[:first] + short[first + 1 : first + 2] + short[first : first + 1] + short[first + 2 :]
    return short[first + 1 :] == long[first + 1 :] or swapped == long
