"""The seal of a report's PDF: PAdES by the platform's certificate, with a time stamp where one comes in time.

A sealed file proves itself: any later change of it shows in any PDF reader. The seal is a certification that allows no
change. The time stamp (RFC 3161) is asked of the authority that the deployment names; it is waited for two seconds in
all, and one that is late, wrong or of somebody else is left out: the document is sealed without it and never altered
later. pyHanko is imported when the first seal is made: it takes half a second.

ETSI EN 319 142-1 (PAdES B-B, B-T), RFC 3161, ISO 32000-1 §12.8
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

import httpx2
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from store.engine.keyring import KeyFault, Keys

if TYPE_CHECKING:
    from pyhanko.sign.signers import SimpleSigner

log = structlog.get_logger("vigie.seal")

KEY = "report-seal"
"""Name of the deployment's key: private key and certificates, the signer's first, as PEM."""
FIELD = "Seal"
"""Name of the signature field."""
WAIT_S = 2.0
"""A time stamp is waited for so long in all: name, connection, answer."""
YEARS = 10
"""Validity of a certificate that is made here."""
_ANSWER_MAX = 65_536
"""Bytes of a time stamp."""
_RESERVED, _RESERVED_STAMPED = 16_384, 49_152
"""Hexadecimal digits that the file keeps for the signature."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A time stamping authority."""

    url: str
    roots: bytes = b""
    """Certificates that its own must lead to, as PEM; empty: any that is sound in itself."""
    wait_s: float = WAIT_S


class Seal:
    """Seals files with the deployment's key."""

    def __init__(self, keys: Keys, authority: Authority | None = None) -> None:
        self._keys = keys
        self._authority = authority
        self._opened: tuple[bytes, SimpleSigner] | None = None
        self._lock = threading.Lock()

    @property
    def described(self) -> str:
        """Who seals: the subject of the certificate and the start of its SHA-256 fingerprint. Raises KeyFault."""
        certificate = certificates(self._keys.of(KEY)[0].secret)[0]
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        print_ = certificate.fingerprint(hashes.SHA256()).hex()[:16]
        name = str(names[0].value) if names else "Vigie"
        return f"{name} ({':'.join(print_[i:i + 2] for i in range(0, 16, 2))}…)"

    def sealed(self, pdf: bytes) -> bytes:
        """The same file with the seal, and a time stamp if one was given in time. Raises KeyFault."""
        from pyhanko.sign.timestamps import TimestampRequestError

        signer = self._signer()
        if self._authority is not None:
            try:
                return _signed(pdf, signer, _stamper(self._authority))
            except (TimestampRequestError, OSError, ValueError) as fault:
                log.warning("a report is sealed without a time stamp", exc_info=fault)
        return _signed(pdf, signer, None)

    def _signer(self) -> SimpleSigner:
        secret = self._keys.of(KEY)[0].secret
        with self._lock:
            if self._opened is None or self._opened[0] != secret:
                self._opened = secret, _simple(secret)
            return self._opened[1]


def new_identity(name: str, now: datetime) -> bytes:
    """A new key (P-256) and its self-signed certificate for `name`, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "Vigie")])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - timedelta(hours=1))
        .not_valid_after(now.astimezone(UTC) + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def checked(pem: bytes, now: datetime) -> bytes:
    """`pem` if it is a key with its certificate that can seal at `now`. Raises KeyFault, naming what is wrong."""
    try:
        key = serialization.load_pem_private_key(pem, None)
        chain = certificates(pem)
    except (ValueError, TypeError) as fault:
        raise KeyFault(
            "the file must hold a private key without a password and its certificates, the signer's first, as PEM"
        ) from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise KeyFault("a seal is made with a key of RSA or of an elliptic curve")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _RSA_BITS:
        raise KeyFault(f"an RSA key that seals has at least {_RSA_BITS} bits")
    if not chain or _public(chain[0].public_key()) != _public(key.public_key()):
        raise KeyFault("the first certificate in the file is not that of the key")
    if not chain[0].not_valid_before_utc <= now <= chain[0].not_valid_after_utc:
        raise KeyFault("the certificate is not valid today")
    try:
        usage = chain[0].extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return pem
    if not (usage.digital_signature or usage.content_commitment):
        raise KeyFault("the certificate is not made for signatures (keyUsage)")
    return pem


_RSA_BITS = 2048


def certificates(pem: bytes) -> list[x509.Certificate]:
    """The certificates in a PEM text. Raises ValueError."""
    return x509.load_pem_x509_certificates(pem)


def _public(key: Any) -> bytes:
    found: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def _simple(pem: bytes) -> SimpleSigner:
    from asn1crypto import keys as asn1_keys
    from asn1crypto import x509 as asn1_x509
    from pyhanko.sign.signers import SimpleSigner
    from pyhanko_certvalidator.registry import SimpleCertificateStore

    try:
        key = serialization.load_pem_private_key(pem, None)
        chain = [one.public_bytes(serialization.Encoding.DER) for one in certificates(pem)]
    except (ValueError, TypeError) as fault:
        raise KeyFault(f"the key {KEY} is damaged: restore a backup") from fault
    encoded = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    store = SimpleCertificateStore()  # type: ignore[no-untyped-call]
    store.register_multiple([asn1_x509.Certificate.load(one) for one in chain])
    return SimpleSigner(
        signing_cert=asn1_x509.Certificate.load(chain[0]),
        signing_key=asn1_keys.PrivateKeyInfo.load(encoded),
        cert_registry=store,
    )


def _signed(pdf: bytes, signer: SimpleSigner, stamper: Any) -> bytes:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign.fields import MDPPerm, SigSeedSubFilter
    from pyhanko.sign.signers import PdfSignatureMetadata, PdfSigner

    meta = PdfSignatureMetadata(
        field_name=FIELD,
        md_algorithm="sha256",
        subfilter=SigSeedSubFilter.PADES,
        certify=True,
        docmdp_permissions=MDPPerm.NO_CHANGES,
    )
    output = BytesIO()
    PdfSigner(meta, signer, timestamper=stamper).sign_pdf(
        IncrementalPdfFileWriter(BytesIO(pdf)),
        bytes_reserved=_RESERVED if stamper is None else _RESERVED_STAMPED,
        output=output,
    )
    return output.getvalue()


def _stamper(authority: Authority) -> Any:
    """A pyHanko time stamper that waits no longer than it may and believes only what it asked for."""
    from asn1crypto import cms, tsp
    from asn1crypto import x509 as asn1_x509
    from pyhanko.sign.general import SigningError
    from pyhanko.sign.timestamps import TimeStamper, TimestampRequestError
    from pyhanko.sign.timestamps.common_utils import handle_tsp_response
    from pyhanko.sign.validation.errors import SignatureValidationError
    from pyhanko.sign.validation.generic_cms import validate_tst_signed_data
    from pyhanko_certvalidator import ValidationContext

    class Bounded(TimeStamper):
        async def async_timestamp(self, message_digest: bytes, md_algorithm: str) -> cms.ContentInfo:
            nonce, asked = self.request_cms(message_digest, md_algorithm)  # type: ignore[no-untyped-call]
            answer = _within(authority.wait_s, lambda: _ask(authority, asked.dump()))
            try:
                token = handle_tsp_response(tsp.TimeStampResp.load(answer, strict=True), nonce)
                await self._believe(token, message_digest, md_algorithm)
            except (ValueError, TypeError, KeyError, AttributeError, SigningError, SignatureValidationError) as fault:
                raise TimestampRequestError("the answer is no time stamp of what was asked") from fault
            return token

        async def _believe(self, token: cms.ContentInfo, digest: bytes, md_algorithm: str) -> None:
            data = token["content"]
            imprint = data["encap_content_info"]["content"].parsed["message_imprint"]
            if imprint["hash_algorithm"]["algorithm"].native != md_algorithm:
                raise TimestampRequestError("another digest was stamped")
            roots = [
                asn1_x509.Certificate.load(one.public_bytes(serialization.Encoding.DER))
                for one in (certificates(authority.roots) if authority.roots else [])
            ]
            context = ValidationContext(trust_roots=roots, allow_fetching=False)
            found = await validate_tst_signed_data(data, context, lambda algorithm: digest)
            if not (found["intact"] and found["valid"]) or (roots and found["trust_problem_indic"] is not None):
                raise TimestampRequestError("the time stamp is not sound, or not of the authority")

    return Bounded()  # type: ignore[no-untyped-call]


def _ask(authority: Authority, request: bytes) -> bytes:
    until = time.monotonic() + authority.wait_s
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    with (
        httpx2.Client(trust_env=False, timeout=authority.wait_s, follow_redirects=False) as client,
        client.stream("POST", authority.url, content=request, headers=headers) as answer,
    ):
        if answer.status_code != httpx2.codes.OK:
            raise OSError("the authority did not answer 200")
        body = b""
        for part in answer.iter_bytes():
            body += part
            if len(body) > _ANSWER_MAX:
                raise OSError("the answer is too long for a time stamp")
            if time.monotonic() > until:  # nobody waits for it any more
                raise OSError("the answer is too late")
        return body


def _within(seconds: float, ask: Callable[[], bytes]) -> bytes:
    """What `ask` gives, if it does so in time. Raises OSError. A client's own limits are for each step, not for all."""
    found: list[bytes] = []

    def run() -> None:
        try:
            found.append(ask())
        except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as fault:
            log.info("no time stamp", exc_info=fault)

    thread = threading.Thread(target=run, name="time stamp", daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise OSError("no time stamp in time")
    return found[0]

