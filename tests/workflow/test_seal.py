"""The seal of a report's PDF: valid, checked by others, and a time stamp only where one came in time and is true.

ETSI EN 319 142-1 (PAdES), RFC 3161, ISO 32000-1 §12.8.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import keys as asn1_keys
from asn1crypto import tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.timestamps import DummyTimeStamper
from pyhanko.sign.validation import validate_pdf_signature
from pyhanko.sign.validation.status import PdfSignatureStatus
from pyhanko_certvalidator import ValidationContext

from store.engine.keyring import Fixed, KeyFault
from workflow.report_pdf import Layout, Section, render
from workflow.seal import Authority, Seal, certificates, checked, new_identity

NOW = datetime.now(UTC)
IDENTITY = new_identity("Vigie essais", NOW)
PAGE = render(Layout("Compte rendu", "CH", "P", ("Patient",), None, (), (Section("Conclusion", "Rien."),), (), "f"))


def status(pdf: bytes, *, roots: bytes = IDENTITY, tsa: bytes = b"") -> PdfSignatureStatus:
    """What pyHanko's validation says of the file's seal."""
    (signature,) = PdfFileReader(BytesIO(pdf)).embedded_signatures
    trusted = [asn1_x509.Certificate.load(one.public_bytes(serialization.Encoding.DER))
               for pem in filter(None, (roots, tsa)) for one in certificates(pem)]
    return validate_pdf_signature(signature, ValidationContext(trust_roots=trusted, allow_fetching=False))


def test_the_seal_is_valid_and_covers_the_whole_file() -> None:
    """PAdES, a certification that allows no change."""
    found = status(Seal(Fixed(IDENTITY)).sealed(PAGE))
    assert found.bottom_line
    assert found.coverage.name == "ENTIRE_FILE"
    assert found.timestamp_validity is None


def test_another_certificate_does_not_vouch_for_it() -> None:
    """Whoever checks it has the platform's certificate from the platform."""
    assert not status(Seal(Fixed(IDENTITY)).sealed(PAGE), roots=new_identity("Autre", NOW)).bottom_line


def test_any_change_of_the_file_shows() -> None:
    """Before and behind the signature."""
    sealed = bytearray(Seal(Fixed(IDENTITY)).sealed(PAGE))
    place = sealed.index(b"/Producer") + 12
    sealed[place] ^= 1
    assert not status(bytes(sealed)).intact


def test_others_than_its_maker_find_it_valid(tmp_path: Path) -> None:
    """poppler's pdfsig and OpenSSL, where they are installed."""
    path = tmp_path / "sealed.pdf"
    sealed = Seal(Fixed(IDENTITY)).sealed(PAGE)
    path.write_bytes(sealed)
    if pdfsig := shutil.which("pdfsig"):
        told = subprocess.run([pdfsig, str(path)], capture_output=True, text=True, check=False).stdout
        assert "Signature is Valid" in told
        assert "Total document signed" in told
    if openssl := shutil.which("openssl"):
        (signature,) = PdfFileReader(BytesIO(sealed)).embedded_signatures
        (tmp_path / "cms").write_bytes(signature.pkcs7_content)
        (tmp_path / "ca.pem").write_bytes(IDENTITY)
        first, length, second, rest = signature.byte_range
        (tmp_path / "content").write_bytes(sealed[first : first + length] + sealed[second : second + rest])
        done = subprocess.run(
            [openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", str(tmp_path / "cms"), "-content",
             str(tmp_path / "content"), "-CAfile", str(tmp_path / "ca.pem"), "-purpose", "any", "-out", "/dev/null"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


# An authority of the test's own


def _authority() -> tuple[bytes, DummyTimeStamper]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TSA d'essai")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = asn1_x509.Certificate.load(made.public_bytes(serialization.Encoding.DER))
    return made.public_bytes(serialization.Encoding.PEM), DummyTimeStamper(
        certificate, asn1_keys.PrivateKeyInfo.load(private)
    )


ROOT, STAMPER = _authority()
_, LIAR = _authority()


def granted(request: tsp.TimeStampReq, stamper: DummyTimeStamper = STAMPER) -> bytes:
    return bytes(asyncio.run(stamper.async_request_tsa_response(request)).dump())


def of_another_file(request: tsp.TimeStampReq) -> bytes:
    request["message_imprint"]["hashed_message"] = b"\0" * 32
    return granted(request.copy())


def replayed(request: tsp.TimeStampReq) -> bytes:
    request["nonce"] = 1
    return granted(request.copy())


def refused(request: tsp.TimeStampReq) -> bytes:
    return bytes(tsp.TimeStampResp({"status": {"status": "rejection"}}).dump())


@contextmanager
def served(answer: Callable[[tsp.TimeStampReq], bytes], *, code: int = 200, drip_s: float = 0) -> Iterator[str]:
    """An authority on loopback; with `drip_s` it sends a byte each so many seconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = tsp.TimeStampReq.load(self.rfile.read(int(self.headers["Content-Length"])))
            body = answer(asked)
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                for start in range(0, len(body), 1 if drip_s else len(body) or 1):
                    self.wfile.write(body[start : start + 1] if drip_s else body)
                    self.wfile.flush()
                    time.sleep(drip_s)
            except OSError:
                return

        def log_message(self, *args: Any) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsa"
        finally:
            server.shutdown()


def test_a_time_stamp_that_comes_is_in_the_file() -> None:
    """PAdES B-T."""
    with served(granted) as url:
        sealed = Seal(Fixed(IDENTITY), Authority(url, ROOT, wait_s=20)).sealed(PAGE)
    found = status(sealed, tsa=ROOT)
    assert found.bottom_line
    assert found.timestamp_validity is not None
    assert found.timestamp_validity.trusted


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (of_another_file, 200), (replayed, 200), (refused, 200), (lambda request: b"", 200),
        (lambda request: b"<html>", 200), (granted, 500), (lambda request: granted(request, LIAR), 200),
        (lambda request: b"x" * 100_000, 200),
    ],
    ids=["another file's", "another nonce", "refused", "empty", "a page", "500", "of another authority", "endless"],
)  # fmt: skip
def test_one_that_is_not_true_is_left_out(answer: Callable[[tsp.TimeStampReq], bytes], code: int) -> None:
    """The document is sealed without it."""
    with served(answer, code=code) as url:
        sealed = Seal(Fixed(IDENTITY), Authority(url, ROOT, wait_s=20)).sealed(PAGE)
    found = status(sealed, tsa=ROOT)
    assert found.bottom_line
    assert found.timestamp_validity is None


def test_one_that_hangs_is_waited_for_no_longer_than_the_limit() -> None:
    """A byte each second keeps every limit of a client but the one of all together."""
    with served(granted, drip_s=0.3) as url:
        seal = Seal(Fixed(IDENTITY), Authority(url, ROOT, wait_s=0.5))
        began = time.monotonic()
        found = status(seal.sealed(PAGE), tsa=ROOT)
        took_s = time.monotonic() - began
    assert found.bottom_line
    assert found.timestamp_validity is None
    assert took_s < 60  # the whole answer would take minutes


def test_where_nobody_listens_it_is_sealed_without_one() -> None:
    """The authority is away."""
    assert status(Seal(Fixed(IDENTITY), Authority("http://127.0.0.1:9/", ROOT)).sealed(PAGE)).bottom_line


# The deployment's own certificate


def test_a_key_with_its_certificate_is_taken() -> None:
    assert checked(IDENTITY, NOW) == IDENTITY


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        (b"", "private key"),
        (IDENTITY.partition(b"-----BEGIN CERTIFICATE")[0], "certificate"),
        (IDENTITY.partition(b"-----BEGIN CERTIFICATE")[0]
         + b"-----BEGIN CERTIFICATE" + new_identity("x", NOW).partition(b"-----BEGIN CERTIFICATE")[2], "not that of"),
        (new_identity("x", NOW - timedelta(days=5000)), "not valid today"),
    ],
    ids=["nothing", "no certificate", "another's certificate", "expired"],
)  # fmt: skip
def test_one_that_cannot_seal_is_refused(pem: bytes, text: str) -> None:
    """When it is put into use, not when the first report is signed."""
    with pytest.raises(KeyFault, match=text):
        checked(pem, NOW)
