"""What an instance is on its way in: where it came from, what was read of it, with which others it came."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from dicomweb.status import StoredOutcome
from resources.json import Json
from store.access import Caller
from store.objects import Staged


@dataclass(frozen=True, slots=True)
class Origin:
    """By which door an instance came."""

    door: str
    """stow-rs, c-store or demo."""
    client: str = ""
    address: str = ""
    calling_ae: str = ""
    called_ae: str = ""

    def json(self) -> str:
        """The origin as JSON text, for its column."""
        pairs = (("door", self.door), ("client", self.client), ("address", self.address),
                 ("callingAE", self.calling_ae), ("calledAE", self.called_ae))
        return orjson.dumps({name: value for name, value in pairs if value}).decode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """An instance whose bytes are durable and whose header is read; it has no object and no row yet."""

    transfer_syntax_uid: str
    json: Json
    layout: Json
    outcome: StoredOutcome
    staged: Staged
    dataset_digest: str
    size_bytes: int
    frame_count: int
    origin: Origin
    compared: str = ""
    """Data set digest of the stored instance that it was compared with, if one stands under its UID."""
    is_same: bool = False
    """Whether it is that instance in another encoding."""


@dataclass(slots=True)
class Batch:
    """The instances of one request or association: what is published, and recorded, at its end."""

    caller: Caller
    origin: Origin
    stored: dict[str, int] = field(default_factory=dict)
    """StudyInstanceUID → number of instances newly stored."""
    resent: dict[str, int] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    """Studies for which the record that storing began is durable."""
