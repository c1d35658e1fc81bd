"""The recorder: every request has exactly one record of its access, whatever served it and however it ended.

It stands between the threshold and the facades. On the way in it gives the request a `Recording`; guard, store and
facades say there what they know, and mark it once they have recorded it themselves. On the way out, before the first
byte of the answer leaves, it settles what nobody recorded, with the outcome that the final status gives. Where that
cannot be written the answer is 503 and gives nothing.

What a stranger is refused (no such page, a method that is not known) is recorded as well, and only counted in a flood.
`PUBLIC` is not an access to anybody's data and leaves no record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from auth import metadata
from auth.admission import HOLDER, Holder
from auth.guard import RECORDING, raw_request
from fhir_server.edge import errors
from resources import interactions
from resources.outcomes import Unavailable
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
    """WSGI middleware inside the threshold, around all facades."""

    def __init__(self, application: Any, store: Store, strangers: Strangers) -> None:
        self._application = application
        self._store = store
        self._strangers = strangers

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        recording = environ[RECORDING] = Recording(raw_request(environ))
        recording.deferred = environ.get(DEFERRED)
        started: list[Any] = []

        def hold(*told: Any) -> Callable[[bytes], object]:
            started[:] = told
            return _no_write

        result: Iterable[bytes] = self._application(environ, hold)
        try:
            self.settle(recording, environ, int(started[0][:3]))
        except Unavailable as error:
            getattr(result, "close", lambda: None)()
            return errors.wsgi_answer(error, environ, start_response)
        start_response(*started)
        return result

    def settle(self, recording: Recording, environ: Environ, status: int) -> None:
        """Record the request if nobody has. Raises Unavailable."""
        if not (recording.is_recorded or is_public(environ)):
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


def _no_write(data: bytes) -> None:
    raise RuntimeError("The facades give their answers as iterables (PEP 3333's write() is not for them)")
