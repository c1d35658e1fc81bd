"""The stored resources that a report's page is made from, looked up in the unit of work that signs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from resources import diagnostic_report as rules
from resources import task as tasks
from resources.codes import TaskKind
from resources.json import Json
from resources.report_changes import Changed
from store.access import Version, Work
from workflow import report_text
from workflow.cases import Case
from workflow.context import Context, look_up, zone_of
from workflow.report_pdf import Layout
from workflow.report_text import Sources
from workflow.report_words import words_of

Page = Callable[[datetime], Layout]
"""The page for the time of its signature."""


class Pages:
    """Makes the pages of one report."""

    def __init__(
        self, uow: Work, site: Context, found: Sequence[Case], report_id: str, version: int, sealed_by: str
    ) -> None:
        """`found`: the cases of the orders that the report answers; the first one's hospital decides how it is told."""
        self._uow = uow
        self._site = site
        self._cases = found
        self._report_id = report_id
        self._version = version
        self._sealed_by = sealed_by
        self._words = words_of(str(found[0].policy("language")))
        self._zone = zone_of(str(found[0].policy("zone"))) or site.zone_info()

    @property
    def language(self) -> str:
        """BCP 47 tag of the document."""
        return self._words.tag

    def signed(
        self, report: Json, studies: Sequence[Version], signer: str | None, changes: Sequence[Changed] = ()
    ) -> Page:
        """The page of a report that is signed, or revised: then with what changed."""
        sources = self._sources(report, studies, signer)
        if changes:
            sources = replace(sources, changes=tuple(changes), reason=rules.reason_of(report))
        return partial(report_text.layout, sources, zone=self._zone)

    def withdrawn(self, report: Json, studies: Sequence[Version], signer: str | None, reason: Json | None) -> Page:
        """The page of a report that is no longer in force: as it was, and marked."""
        sources = self._sources(report, studies, signer)
        signed_at = report_text.signed_at(report)

        def page(at: datetime) -> Layout:
            return report_text.layout(replace(sources, withdrawn=at, reason=reason), signed_at or at, self._zone)

        return page

    def _sources(self, report: Json, studies: Sequence[Version], signer: str | None) -> Sources:
        orders = [case.order_json for case in self._cases]
        regulated = [case.task(TaskKind.REGULATE) or {} for case in self._cases]
        protocols = [one for task in regulated for one in tasks.references(task.get("output", []), "ServiceRequest")]
        interpreters = [one.get("reference", "") for one in report.get("resultsInterpreter", [])]
        readers = [person for person in map(self._person, interpreters) if person is not None]
        signed_by = _json(look_up(self._uow, signer))
        people = [one.get("reference", "") for one in report.get("performer", [])]
        responsible = [one for one in people if one.startswith(("Practitioner/", "PractitionerRole/"))]
        return Sources(
            report=report,
            report_id=self._report_id,
            version=self._version,
            orders=orders,
            patient=_json(look_up(self._uow, report.get("subject", {}).get("reference"))),
            hospital=_json(look_up(self._uow, f"Organization/{self._cases[0].order.owner}")),
            platform=_json(look_up(self._uow, self._site.platform_reference)),
            signer=signed_by,
            studies=[study.json() for study in studies],
            protocols=self._all(protocols),
            results=self._all(one.get("reference", "") for one in report.get("result", [])),
            requesters=self._people(order.get("requester", {}).get("reference", "") for order in orders),
            priors=self._all(rules.priors(report)),
            readers=[one for one in readers if signed_by is None or one.get("id") != signed_by.get("id")],
            responsible=self._people(responsible),
            words=self._words,
            sealed_by=self._sealed_by,
        )

    def _all(self, references: Iterable[str]) -> list[Json]:
        found = [look_up(self._uow, one) for one in dict.fromkeys(references)]
        return [version.json() for version in found if version is not None]

    def _people(self, references: Iterable[str]) -> list[Json]:
        found = [self._person(one) for one in dict.fromkeys(references)]
        return [person for person in found if person is not None]

    def _person(self, reference: str) -> Json | None:
        """The person or organisation behind a reference; of a role its person."""
        found = _json(look_up(self._uow, reference))
        if found is not None and found.get("resourceType") == "PractitionerRole":
            return _json(look_up(self._uow, found.get("practitioner", {}).get("reference")))
        return found


def _json(version: Version | None) -> Json | None:
    return version.json() if version is not None else None
