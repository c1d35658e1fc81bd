"""Secrets of a subscription: the key that signs its notifications, and the sealing of its channel headers. Pure.

The signing key is derived from the deployment's key, the subscription and its subscriber, so it is in no table, no
backup and no log. Header values are sealed inside the resource: whatever path forgets to mask them shows ciphertext.

Two keys of the deployment, each with its own rotation. After one of `webhooks`, notifications carry a signature by the
secret before as well, for `OVERLAP`: a subscriber reads its new secret meanwhile. What a key of `sealing` sealed is in
versions that are kept, so an older one goes on to open.

Standard Webhooks 1.0.0 https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.engine.keyring import Keys

SECRET_PREFIX = "whsec_"  # noqa: S105  (the standard's prefix, not a secret)
SEALED_PREFIX = "sealed:v1:"
NONCE_BYTES = 12
SIGNING, SEALING = "webhooks", "sealing"
"""Names of the deployment's keys."""
OVERLAP = timedelta(days=7)
"""How long notifications are signed by the former secret too."""


class Keyring:
    """Derives and uses the keys of all subscriptions from the deployment's."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def secret(self, subscription: str, client_id: str) -> str:
        """The subscriber's webhook secret, as Standard Webhooks libraries take it (``whsec_…``)."""
        return _secret(self._keys.of(SIGNING)[0].secret, subscription, client_id)

    def secrets(self, subscription: str, client_id: str, now: datetime) -> tuple[str, ...]:
        """What a notification is signed by at `now`: the subscriber's secret, and one that it may still have."""
        serving = [key for key in self._keys.of(SIGNING) if key.serves(now, OVERLAP)]
        return tuple(_secret(key.secret, subscription, client_id) for key in serving)

    def seal(self, value: str, subscription: str, client_id: str) -> str:
        """`value` encrypted so that it opens only for this subscription and client (AES-256-GCM)."""
        nonce = os.urandom(NONCE_BYTES)
        cipher = _cipher(self._keys.of(SEALING)[0].secret, subscription, client_id)
        sealed = cipher.encrypt(nonce, value.encode("utf-8"), None)
        return SEALED_PREFIX + base64.b64encode(nonce + sealed).decode("ascii")

    def open(self, sealed: str, subscription: str, client_id: str) -> str | None:
        """The value inside `sealed`, or None if it was sealed for somebody else."""
        try:
            raw = base64.b64decode(sealed.removeprefix(SEALED_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            return None
        found = self._opened(raw, subscription, client_id)
        if found is None and self._keys.look_again():
            found = self._opened(raw, subscription, client_id)
        return found

    def _opened(self, raw: bytes, subscription: str, client_id: str) -> str | None:
        for key in self._keys.of(SEALING):
            try:
                cipher = _cipher(key.secret, subscription, client_id)
                return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None).decode("utf-8")
            except (InvalidTag, ValueError):
                continue
        return None


def _secret(key: bytes, subscription: str, client_id: str) -> str:
    return SECRET_PREFIX + base64.b64encode(_derived(key, "webhook", subscription, client_id)).decode("ascii")


def _cipher(key: bytes, subscription: str, client_id: str) -> AESGCM:
    return AESGCM(_derived(key, "header", subscription, client_id))


def _derived(key: bytes, purpose: str, subscription: str, client_id: str) -> bytes:
    name = "\0".join((purpose, subscription, client_id)).encode("utf-8")
    return hmac.new(key, b"vigie-subscription\0" + name, hashlib.sha256).digest()


def webhook_headers(secrets: Sequence[str], message_id: str, at: datetime, body: bytes) -> list[tuple[str, str]]:
    """The three Standard Webhooks headers over ``id.timestamp.body``: a signature by each secret, by spaces."""
    timestamp = str(int(at.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    macs = " ".join(f"v1,{_mac(secret, signed)}" for secret in secrets)
    return [("webhook-id", message_id), ("webhook-timestamp", timestamp), ("webhook-signature", macs)]


def _mac(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")


def message_id(subscription: str, first: int, last: int) -> str:
    """The idempotency key of a notification: the same on every attempt."""
    return f"sub/{subscription}/{first}-{last}"
