"""Versions of the rules by which index rows are made.

Rows on disk were made by the rules of their day. A rule that changes what they say (a path, a writer, how text is
normalised, a parameter more) is given a new version here, and `./vigie reindex` makes the rows of that type anew; until
it has, searches of the type say so. A test holds the rules against their versions, so that none changes unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from resources.search_parameters import parameters

OF_ALL = 1
"""Raised when the rows of every type change: a writer, the way text is normalised."""
OF_TYPE: Mapping[str, int] = {
    "DiagnosticReport": 1,  # imaging-study
    "ServiceRequest": 1,  # priority-rank, owner-hospital, modality, region
    "Task": 1,  # deadline, priority-rank, owner-hospital, escalation, modality, region
}
"""Type → how often its own parameters have changed since."""


def version(type_name: str) -> int:
    """The version of the rules of a type; it only rises."""
    return OF_ALL + OF_TYPE.get(type_name, 0)


def fingerprint(type_name: str) -> str:
    """What the parameters of a type are: numbers, kinds, paths, targets, components."""
    told = [
        (row.id, row.code, row.kind, row.paths, row.targets,
         [(part.expression, part.kind, part.targets) for part in row.components], *([row.via] if row.via else []))
        for row in parameters(type_name).values()
    ]  # fmt: skip
    return sha256(repr(told).encode()).hexdigest()[:16]
