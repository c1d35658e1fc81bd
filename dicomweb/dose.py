"""The dose in a Radiation Dose SR: pure, of the DICOM JSON that is kept of every instance.

What an SR holds is what somebody sent: numbers and counts are bounded, only the levels of the template are entered, a
value that is no number, negative or in another unit than its template asks is not read, and nothing here raises.

DICOM PS3.16 TID 10011 (CT Radiation Dose), 10012 (accumulated), 10013 (irradiation event); PS3.3 §C.17.3
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from resources.dose import MGY, MGY_CM, Dose, Event

SOP_CLASSES = frozenset({
    "1.2.840.10008.5.1.4.1.1.88.67",  # X-Ray Radiation Dose SR
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR: what older scanners store it as
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
})
REPORTS_MAX = 20
"""Dose reports of a study that are read."""
EVENTS_MAX = 200
ITEMS_MAX = 20_000
"""Content items of a report that are looked at."""
VALUE_MAX = Decimal(1_000_000)
"""mGy or mGy·cm: a thousand times what has ever been right."""
TEXT_MAX = 120

_CONTENT, _NAME, _VALUE_TYPE = "0040A730", "0040A043", "0040A040"
_CODE, _SCHEME = "00080100", "00080102"
_MEASURED, _NUMBER, _UNITS = "0040A300", "0040A30A", "004008EA"
_TEXT, _UID = "0040A160", "0040A124"

_REPORT, _ACCUMULATED, _ACQUISITION, _CT_DOSE = "113701", "113811", "113819", "113829"
_DLP_TOTAL, _CTDI_VOL, _DLP = "113813", "113830", "113838"
_PROTOCOL, _EVENT_UID = "125203", "113769"
_UNIT_NAMES: Mapping[str, frozenset[str]] = {
    MGY: frozenset({"mGy"}),
    MGY_CM: frozenset({"mGy.cm", "mGycm", "mGy*cm"}),
}

Item = Mapping[str, Any]


def is_dose_report(json: Item) -> bool:
    """Whether the SR's root concept is (113701, DCM, "X-Ray Radiation Dose Report")."""
    return _concept(json) == _REPORT


def of_reports(reports: Iterable[tuple[str, Item]]) -> Dose | None:
    """The dose of a study by its reports, as (SOP Instance UID, DICOM JSON); None where none is a dose report.

    A scanner may send a report after each acquisition, each with all events until then: events are told apart by their
    UID. The total is the greatest accumulated one, or the sum of the events where that is more.
    """
    uids: list[str] = []
    totals: list[Decimal] = []
    events: dict[str, Event] = {}
    for uid, json in sorted(reports, key=lambda one: one[0])[:REPORTS_MAX]:
        if not is_dose_report(json):
            continue
        uids.append(uid)
        for number, (container, item) in enumerate(_sections(json)):
            if container == _ACCUMULATED:
                total = _number(item, _DLP_TOTAL, MGY_CM)
                if total is not None:
                    totals.append(total)
            elif len(events) < EVENTS_MAX:
                event = _event(item, f"{uid}#{number}")
                events[event.uid] = event
    if not uids:
        return None
    known = [event.dlp for event in events.values() if event.dlp is not None]
    if known:
        totals.append(sum(known, Decimal(0)))
    return Dose(tuple(uids), max(totals) if totals else None, tuple(events.values()))


def _sections(json: Item) -> Iterator[tuple[str, Item]]:
    """The containers of accumulated dose and of acquisitions, in their order."""
    for item in _children(json):
        name = _concept(item)
        if name in (_ACCUMULATED, _ACQUISITION):
            yield name, item


def _event(item: Item, otherwise: str) -> Event:
    uid = protocol = ""
    ctdi_vol = dlp = None
    for child in _children(item):
        name = _concept(child)
        if name == _EVENT_UID:
            uid = _text(child, _UID)
        elif name == _PROTOCOL:
            protocol = _text(child, _TEXT)[:TEXT_MAX]
        elif name == _CT_DOSE:
            ctdi_vol, dlp = _number(child, _CTDI_VOL, MGY), _number(child, _DLP, MGY_CM)
    return Event(uid or otherwise, protocol, ctdi_vol, dlp)


def _children(item: Item) -> list[Item]:
    """The content items directly below one, as many as are looked at."""
    return _items(item, _CONTENT)[:ITEMS_MAX]


def _items(item: Item, tag: str) -> list[Item]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []


def _concept(item: Item) -> str:
    """The code of a content item's concept name, if DCM says it."""
    for name in _items(item, _NAME)[:1]:
        if _text(name, _SCHEME) == "DCM":
            return _text(name, _CODE)
    return ""


def _text(item: Item, tag: str) -> str:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    first = values[0] if isinstance(values, list) and values else ""
    return "".join(one for one in first if one.isprintable()).strip() if isinstance(first, str) else ""


def _number(item: Item, concept: str, unit: str) -> Decimal | None:
    """The value of the NUM item with this concept below `item`, in this unit."""
    for child in _children(item):
        if _concept(child) != concept:
            continue
        for measured in _items(child, _MEASURED)[:1]:
            units = [_text(one, _CODE) for one in _items(measured, _UNITS)[:1]]
            if not units or units[0] not in _UNIT_NAMES[unit]:
                return None
            return _decimal(measured.get(_NUMBER))
    return None


def _decimal(element: Any) -> Decimal | None:
    values = element.get("Value") if isinstance(element, Mapping) else None
    first = values[0] if isinstance(values, list) and values else None
    if isinstance(first, bool) or not isinstance(first, str | int | float):
        return None
    text = str(first).strip()
    if len(text) > 32:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or not 0 <= value <= VALUE_MAX:
        return None
    return round(value, 3).normalize() + 0
