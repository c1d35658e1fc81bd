"""The recorder: every request has exactly one record of its access, whatever served it and however it ended.

On the way in a request gets a `Recording`; guard, store and facades say there what they know, and mark it once they
have recorded it themselves. On the way out, before the first byte of the answer leaves, what nobody recorded is
settled, with the outcome that the final status gives. Where that cannot be written the answer is 503 and gives nothing.

What a stranger is refused (no such page, a method that is not known) is recorded as well, and only counted in a flood.
`PUBLIC` is not an access to anybody's data and leaves no record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from auth import metadata
from auth.admission import HOLDER, Holder
from auth.guard import RECORDING, raw_request
from resources import interactions
from store.access import Access, Caller, Interaction, Recording, outcome_of_status
from store.unit_of_work import Store, outcome_of, reason_of

Environ = dict[str, Any]

DEFERRED = "vigie.deferred"
"""Key of the WSGI environment: the list of `Recording.deferred`, where an event loop carries the request out."""

PUBLIC = frozenset({"/", "/livez", "/readyz", "/metrics", metadata.JWKS, metadata.METADATA}) | {
    f"/fhir/{form.path}" for row, form in interactions.forms() if row.public and form.path
}
"""Documents that hold nobody's data and are for everyone: reading them (GET, HEAD) is not recorded (docs/audit.md)."""


class Strangers(Protocol):
    """Who asks without a token, and where what he is refused is recorded. Implemented by `auth.service.Authority`."""

    def stranger(self, environ: Environ) -> Caller: ...

    def refused(self, caller: Caller, access: Access) -> None: ...

    def counted(self, caller: Caller, access: Access) -> None: ...


class Recorder:
    """What the threshold asks before a facade carries a request out, and before its answer leaves."""

    def __init__(self, store: Store, strangers: Strangers) -> None:
        self._store = store
        self._strangers = strangers

    def opened(self, environ: Environ) -> Recording:
        """The `Recording` of a request that comes in; it is in `environ` from now on."""
        recording = environ[RECORDING] = Recording(raw_request(environ))
        recording.deferred = environ.get(DEFERRED)
        return recording

    def settle(self, recording: Recording, environ: Environ, status: int) -> None:
        """Record the request if nobody has. Raises Unavailable."""
        if not recording.is_recorded and not is_public(environ):
            if recording.caller is None:
                recording.caller = self._strangers.stranger(environ)
                if status >= 400:
                    self._strangers.refused(recording.caller, _refusal(recording, status))
                    recording.is_recorded = True
            self._store.settle(recording, status)
        recording.let_go()


def is_public(environ: Environ) -> bool:
    """Whether the request is for a public document. (Preflights do not come so far: `cors` answers them.)"""
    method: str = environ["REQUEST_METHOD"]
    path: str = environ["PATH_INFO"]
    if method == "OPTIONS":
        return path.rstrip("/") == "/fhir"  # R4 §3.1.0.8: as GET metadata
    return method in ("GET", "HEAD") and (path in PUBLIC or path.rstrip("/") in PUBLIC)


def count_refusal(strangers: Strangers, environ: Environ, fault: Exception) -> None:
    """Count what was refused before it came to the recorder (no thread is free, no head to be read).

    Nothing waits for a disk here, since this may be in an event loop: the number is on record a few seconds later.
    """
    access = Access(Interaction.OPERATION, outcome=outcome_of(fault), reason=reason_of(fault))
    caller = strangers.stranger(environ)
    holder: Holder | None = environ.get(HOLDER)
    if holder is not None:
        caller = replace(caller, client_id=holder.client_id, organization=holder.organization)
    strangers.counted(caller, access)


def _refusal(recording: Recording, status: int) -> Access:
    access = recording.accesses[0] if recording.accesses else Access(Interaction.OPERATION, query=recording.request)
    return replace(access, outcome=outcome_of_status(status), reason=recording.reason or str(status))

