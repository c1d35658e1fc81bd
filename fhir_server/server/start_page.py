"""`/`: a small page that says what runs here and where to go. It holds nothing of what is stored."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from flask import Blueprint, Response, render_template

from fhir_server.edge.capability import SOFTWARE_VERSION
from fhir_server.server.settings import Settings

STYLE = """
:root{color-scheme:light dark;--ink:#14222e;--paper:#fbfaf7;--line:#d8d3c8;--mark:#0b6e6e;--tint:#eef4f2}
@media(prefers-color-scheme:dark){:root{--ink:#e8e6e1;--paper:#14191d;--line:#38424a;--mark:#6cc7c0;--tint:#1c262b}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:52rem;margin:0 auto;padding:2.5rem 1.25rem}
h1{margin:0;font-size:2.2rem;letter-spacing:.02em;color:var(--mark)}
h2{margin:2rem 0 .6rem;font-size:1.1rem}
a{color:var(--mark)}
table{width:100%;border-collapse:collapse}
th,td{text-align:left;padding:.45rem .8rem .45rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-size:.85rem;font-weight:600}
td:first-child{white-space:nowrap;font-family:ui-monospace,monospace;font-size:.92em}
code{font-family:ui-monospace,monospace;font-size:.92em;background:var(--tint);padding:.1rem .35rem;border-radius:.2rem}
dt{font-weight:600;margin-top:.9rem}dd{margin:.15rem 0 0}dd code{display:inline-block;margin-top:.25rem}
.demo{background:var(--tint);border-left:4px solid var(--mark);padding:.7rem 1rem}
footer{margin-top:2.5rem;font-size:.9rem;border-top:1px solid var(--line)}
@media(max-width:38rem){td:first-child{white-space:normal;word-break:break-word}}
""".strip()
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: no script, no foreign source, no frame."""


@dataclass(frozen=True, slots=True)
class Door:
    """One way in. `link`: where a browser can look without a token."""

    address: str
    speaks: str
    whom: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """What somebody may want, and the command that does it."""

    wish: str
    told: str
    command: str


WAYS = (
    Way("Connect a hospital's software", "Register it as an OAuth2 client; it signs its own assertions.",
        './vigie client add NAME --organization ID --scope "system/ServiceRequest.cruds"'),
    Way("Call the API by hand", "Fetch a token of at most five minutes, then send it as a Bearer token.",
        "./vigie token CLIENT_ID --key FILE"),
    Way("Ask whether all is well", "Each check is a line; the exit status is the number of what is wrong.",
        "./vigie doctor"),
    Way("Prove that the audit log is whole", "Verified against its signed checkpoints, here or without the server.",
        "./vigie audit verify"),
)  # fmt: skip


def doors(settings: Settings) -> list[Door]:
    """The doors that these settings open."""
    found = [
        Door("/fhir", "FHIR R4, JSON", "hospitals' EHR and RIS, radiologists' consoles, auditors", "/fhir/metadata"),
        Door("/dicom-web", "STOW-RS, QIDO-RS, WADO-RS", "viewers, gateways"),
        Door("/oauth", "OAuth2, SMART backend services", "every client", "/fhir/.well-known/smart-configuration"),
        Door("/readyz, /livez, /metrics", "health", "operators", "/readyz"),
    ]
    if settings.dimse_port:
        found.insert(2, Door(f"port {settings.dimse_port}", "DICOM: C-ECHO, C-STORE", "scanners"))
    return found


def blueprint(settings: Settings) -> Blueprint:
    """The page, as a Flask blueprint."""
    views = Blueprint("start", __name__, template_folder="templates")

    @views.get("/")
    def start() -> Response:
        page = render_template(
            "start.html", style=STYLE, version=SOFTWARE_VERSION, demo=settings.demo, doors=doors(settings), ways=WAYS
        )
        return Response(page, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})

    return views
