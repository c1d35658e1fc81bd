"""TLS for the DIMSE port: PS3.15 §B.12, the BCP 195 (RFC 8996, 9325) TLS secure transport connection profile.

Both sides show a certificate. Which AE title the client's certificate may speak for, the registry says (`dicomweb.ae`).
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""Of TLS 1.2: those that PS3.15 §B.12 asks for, and ChaCha20; those of TLS 1.3 are all fit."""


def server_context(certificate: Path, key: Path, client_authorities: Path) -> ssl.SSLContext:
    """A context that asks the client for a certificate of these authorities. Raises OSError (ssl.SSLError is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(client_authorities)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a DER certificate, as the registry has it."""
    return hashlib.sha256(certificate).hexdigest()
