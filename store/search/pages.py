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
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resources.outcomes import BadRequest, Gone
from store.access import Caller
from store.versions.snapshots import Snapshot

LIFETIME = timedelta(hours=1)
"""After this a token is refused, and the index rows it may need can be swept."""
LEEWAY = timedelta(minutes=1)
"""A page from further in the future was made by a wrong clock: nobody knows how old it is."""

_NONCE_BYTES = 12


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
    """Seals and opens tokens with the secret of the deployment."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(blake2b(key, digest_size=32, person=b"vigie page").digest())

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
        sealed = nonce + self._cipher.encrypt(nonce, content, _bound(caller, subject))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, token: str, caller: Caller, subject: str, now: datetime) -> Page:
        """What `token` carries. Raises BadRequest where it is not this caller's or was altered, Gone after an hour."""
        try:
            raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
            content = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(caller, subject))
        except (binascii.Error, ValueError, InvalidTag):
            raise BadRequest("The page token is not valid for this search") from None
        xmax, in_progress, last_pk, issued_s, total = orjson.loads(content)
        issued = datetime.fromtimestamp(issued_s, tz=now.tzinfo)
        if not -LEEWAY <= now - issued <= LIFETIME:
            raise Gone("The page token has expired; search again", code="expired")
        return Page(Snapshot(xmax, tuple(in_progress)), last_pk, issued, total)


def _bound(caller: Caller, subject: str) -> bytes:
    return orjson.dumps([caller.client_id, caller.organization, subject])
