"""Page tokens: where a page ended, sealed for the caller it was given to.

A token names a snapshot and the last row; it is encrypted and authenticated (AES-GCM) together with the client, its
organisation and the query, so that it tells nothing (row numbers count other organisations' rows) and fits nobody else.
It is no proof of any right: authorisation is evaluated again on each page.

RFC 5116 https://www.rfc-editor.org/rfc/rfc5116
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resources.outcomes import BadRequest, Gone
from store.access import Caller
from store.engine.keyring import Keys
from store.versions.snapshots import Snapshot

LIFETIME = timedelta(hours=1)
"""After this a token is refused, and the index rows it may need can be swept."""
LEEWAY = timedelta(minutes=1)
"""A page from further in the future was made by a wrong clock: nobody knows how old it is."""

_FOREIGN = "The page token is not valid for this search"
KEY = "pages"
"""Name of the deployment's key."""
_NONCE_BYTES = 12
_OVERLAP = LIFETIME + LEEWAY
"""So long after a rotation the key before opens what it sealed."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a token carries."""

    snapshot: Snapshot
    last_pk: int
    """The last version of the page before."""
    issued: datetime
    """When the first page was made: a snapshot is not kept longer by paging on."""
    total: int | None = None


class PageSeal:
    """Seals tokens with the deployment's key `pages`; opens those of the key before while they live."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._ciphers: dict[bytes, AESGCM] = {}

    def seal(self, page: Page, caller: Caller, subject: str) -> str:
        """The token of `page`, for `caller` and `subject` (the query, or the history) alone."""
        nonce = os.urandom(_NONCE_BYTES)
        content = orjson.dumps(
            [
                page.snapshot.xmax,
                list(page.snapshot.in_progress),
                page.last_pk,
                page.issued.timestamp(),
                page.total,
            ]
        )
        cipher = self._cipher(self._keys.of(KEY)[0].secret)
        sealed = nonce + cipher.encrypt(nonce, content, _bound(caller, subject))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, token: str, caller: Caller, subject: str, now: datetime) -> Page:
        """What `token` carries. Raises BadRequest where it is not this caller's or was altered, Gone after an hour."""
        try:
            raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest(_FOREIGN) from None
        bound = _bound(caller, subject)
        content = self._opened(raw, bound, now)
        if content is None and self._keys.look_again():  # another node seals with a newer key already
            content = self._opened(raw, bound, now)
        if content is None:
            raise BadRequest(_FOREIGN)
        xmax, in_progress, last_pk, issued_s, total = orjson.loads(content)
        issued = datetime.fromtimestamp(issued_s, tz=now.tzinfo)
        if not -LEEWAY <= now - issued <= LIFETIME:
            raise Gone("The page token has expired; search again", code="expired")
        return Page(Snapshot(xmax, tuple(in_progress)), last_pk, issued, total)


    def _opened(self, raw: bytes, bound: bytes, now: datetime) -> bytes | None:
        for cipher in self._serving(now):
            try:
                return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound)
            except (InvalidTag, ValueError):
                continue
        return None

    def _serving(self, now: datetime) -> Iterator[AESGCM]:
        for key in self._keys.of(KEY):
            if key.serves(now, _OVERLAP):
                yield self._cipher(key.secret)

    def _cipher(self, key: bytes) -> AESGCM:
        cipher = self._ciphers.get(key)
        if cipher is None:
            cipher = self._ciphers[key] = AESGCM(blake2b(key, digest_size=32, person=b"vigie page").digest())
        return cipher


def _bound(caller: Caller, subject: str) -> bytes:
    return orjson.dumps([caller.client_id, caller.organization, subject])
