"""Secrets of a subscription: the key that signs its notifications, and the sealing of its channel headers. Pure.

The signing key is derived from the server's key, the subscription and its subscriber, so it is in no table, no backup
and no log. Header values are sealed inside the resource: whatever path forgets to mask them shows ciphertext.

Standard Webhooks 1.0.0 https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRET_PREFIX = "whsec_"  # noqa: S105  (the standard's prefix, not a secret)
SEALED_PREFIX = "sealed:v1:"
NONCE_BYTES = 12


class Keyring:
    """Derives and uses the keys of all subscriptions from one server key."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("the subscription key has fewer than 32 bytes")
        self._key = key

    def secret(self, subscription: str, client_id: str) -> str:
        """The subscriber's webhook secret, as Standard Webhooks libraries take it (``whsec_…``)."""
        return SECRET_PREFIX + base64.b64encode(self._derive("webhook", subscription, client_id)).decode("ascii")

    def seal(self, value: str, subscription: str, client_id: str) -> str:
        """`value` encrypted so that it opens only for this subscription and client (AES-256-GCM)."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher(subscription, client_id).encrypt(nonce, value.encode("utf-8"), None)
        return SEALED_PREFIX + base64.b64encode(nonce + sealed).decode("ascii")

    def open(self, sealed: str, subscription: str, client_id: str) -> str | None:
        """The value inside `sealed`, or None if it was sealed for somebody else."""
        try:
            raw = base64.b64decode(sealed.removeprefix(SEALED_PREFIX), validate=True)
            plain = self._cipher(subscription, client_id).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None)
        except (binascii.Error, InvalidTag, ValueError):
            return None
        return plain.decode("utf-8")

    def _cipher(self, subscription: str, client_id: str) -> AESGCM:
        return AESGCM(self._derive("header", subscription, client_id))

    def _derive(self, purpose: str, subscription: str, client_id: str) -> bytes:
        name = "\0".join((purpose, subscription, client_id)).encode("utf-8")
        return hmac.new(self._key, b"vigie-subscription\0" + name, hashlib.sha256).digest()


def webhook_headers(secret: str, message_id: str, at: datetime, body: bytes) -> list[tuple[str, str]]:
    """The three Standard Webhooks headers over ``id.timestamp.body``."""
    timestamp = str(int(at.timestamp()))
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")
    return [("webhook-id", message_id), ("webhook-timestamp", timestamp), ("webhook-signature", f"v1,{mac}")]


def message_id(subscription: str, first: int, last: int) -> str:
    """The idempotency key of a notification: the same on every attempt."""
    return f"sub/{subscription}/{first}-{last}"
