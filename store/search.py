"""Search (in building)."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SearchPage:
    pass
def constraint_clauses(version, visible, type_name, repository): return []
def types_visible(repository, interaction, names):
    from resources.outcomes import Forbidden
    groups = {}
    for name in names:
        try:
            v = repository.visibility(interaction, name)
        except Forbidden:
            continue
        groups.setdefault(v, []).append(name)
    return [(v, tuple(n)) for v, n in groups.items()]
