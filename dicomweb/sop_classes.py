"""Which SOP classes are stored here: one rule for C-STORE and STOW-RS.

Any storage class of composite instances is: those of the standard, retired ones, those that are newer than the
dictionary, and private ones. A class of another service is not, nor is the media directory, nor the objects without a
patient (PS3.4 Annex GG): they have no study.

PS3.4 §B.3, §B.5 (standard SOP classes), §B.6 (retired), §GG.3; PS3.6 Annex A (UIDs).
"""

from __future__ import annotations

from collections.abc import Collection

from pydicom._uid_dict import UID_dictionary

from dicomweb import uids

_OF_THE_STANDARD = "1.2.840.10008."
_COMPOSITE = "1.2.840.10008.5.1.4.1.1."
"""The arc of composite storage classes; a few classes of other services have a number in it."""

_ELSEWHERE = frozenset({
    "1.2.840.10008.5.1.1.27",  # Stored Print Storage (retired)
    "1.2.840.10008.5.1.1.29",  # Hardcopy Grayscale Image Storage (retired)
    "1.2.840.10008.5.1.1.30",  # Hardcopy Color Image Storage (retired)
    "1.2.840.10008.5.1.4.34.1",  # RT Beams Delivery Instruction Storage - Trial (retired)
    "1.2.840.10008.5.1.4.34.7",  # RT Beams Delivery Instruction Storage
    "1.2.840.10008.5.1.4.34.10",  # RT Brachy Application Setup Delivery Instruction Storage
})
"""Storage classes outside the arc."""

_WITHOUT_PATIENT = frozenset({
    "1.2.840.10008.5.1.4.1.1.200.1",  # CT Defined Procedure Protocol Storage
    "1.2.840.10008.5.1.4.1.1.200.3",  # Protocol Approval Storage
    "1.2.840.10008.5.1.4.1.1.200.7",  # XA Defined Procedure Protocol Storage
    "1.2.840.10008.5.1.4.1.1.201.1",  # Inventory Storage
})
"""Non-patient objects within the arc (PS3.4 Table GG.3-1)."""


def is_storage(uid: str) -> bool:
    """Whether `uid` is a storage class of composite instances, as far as anybody can know."""
    if not uids.is_uid(uid):
        return False
    if not uid.startswith(_OF_THE_STANDARD):
        return True
    if uid in _ELSEWHERE:
        return True
    if not uid.startswith(_COMPOSITE) or uid in _WITHOUT_PATIENT:
        return False
    name = UID_dictionary.get(uid, ("",))[0]
    return not name or "Storage" in name  # the others of the arc: FIND, MOVE, GET, Inventory Creation, Repository Query


def may_store(uid: str, allowed: Collection[str] = ()) -> bool:
    """Whether an instance of this class is taken from a sender that may store `allowed` (empty: any storage class)."""
    return is_storage(uid) and (not allowed or uid in allowed)
