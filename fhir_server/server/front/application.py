"""The front: an RSGI application that receives requests for the synchronous core and sends its answers.

The event loop reads and writes; threads carry out. `/livez` needs no thread at all; `/readyz`, `/metrics` and the token
endpoints have a lane of their own; all others share a lane by organisation (`lanes`). Whoever waits for a thread waits
for a time that has an end: then the answer is 503, whatever the database does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from auth.admission import ADMITTED, HOLDER, Admitted
from auth.guard import Guard
from fhir_server.edge import errors
from fhir_server.server.cors import Refusals
from fhir_server.server.front import answers, processors
from fhir_server.server.front.answers import Reply, WriteLimits, carry_out
from fhir_server.server.front.bodies import Bodies, Body, BodyLimits, Disconnected, NotReceived
from fhir_server.server.front.inline import Inline, Settling, Trail
from fhir_server.server.front.lanes import Lane
from fhir_server.server.front.protocol import (
    Application,
    Environ,
    HttpProtocol,
    Refused,
    Scope,
    basic_environ,
    environ_of,
)
from fhir_server.server.front.pulse import Pulse
from fhir_server.server.front.repeated import Entered, Held, Repeated
from fhir_server.server.front.sockets import bound_connections
from fhir_server.server.threshold import Threshold
from resources.outcomes import BadRequest, FhirError, TooManyRequests, Unauthenticated, Unavailable

log = structlog.get_logger("vigie.front")

FAULT = "vigie.fault"
"""Key of the WSGI environment: the fault that the front answers itself."""
ALIVE = "/livez"
HEALTH = ("/readyz", "/metrics")
"""Paths that say themselves what does not answer, within a time of their own."""
RESERVED = (*HEALTH, "/oauth/")
"""Paths that answer while every other thread is busy."""
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_RESERVED_THREADS = 3
_RESERVED_WAIT_S = 4.0
_TRY_EVERY_S, _TRIES = 0.02, 500
_LATE_S = 1.0
_CARRIED_OUT_PER_S = 512 * 1024
"""A request with a long body may take longer: a second more for so many bytes."""


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """What requests may cost one process."""

    threads: int = 8
    answer_s: float = 60.0
    """Time for the core to begin its answer."""
    bodies: BodyLimits = field(default_factory=BodyLimits)
    write: WriteLimits = field(default_factory=WriteLimits)


@dataclass(frozen=True, slots=True)
class BodySizes:
    """The largest bodies, by kind of route."""

    fhir: int
    stow: int
    form: int

    def limit(self, path: str) -> int:
        """The largest body of a path, in bytes."""
        if path.startswith("/oauth"):
            return self.form
        if path.startswith("/dicom-web"):
            return self.stow
        return self.fhir if path.startswith("/fhir") else 0


class Front:
    """`__rsgi__` is called for each request, in the event loop of a worker process."""

    def __init__(
        self, application: Application, *, bases: tuple[str, ...], port: int, host: str, spool: Path, sizes: BodySizes,
        limits: FrontLimits, guard: Guard, ask: Callable[[], None], refused: Callable[[Environ, Exception], None],
        stop: Callable[[], None], origins: Callable[[], frozenset[str]], workers: int = 0, trail: Trail | None = None,
        at_once: bool = False, repeated: Repeated | None = None,
    ) -> None:
        """`application`: the synchronous core; `spool`: folder of bodies on their way; `ask`: see `Pulse`; `refused`
        counts for the audit log what the core never hears of; `stop`: what the process does last; `origins`: the
        clients' web origins, as remembered; `workers`: the processes that share the port, of which this is one.

        `trail`: where the records of reads become durable. `at_once`: whether the event loop carries reads out, since
        they ask no server. `repeated`: how reads are carried out whose heads are known.
        """
        self._settling = None if trail is None else Settling(trail)
        self._inline = Inline(application, self._settling) if self._settling is not None and at_once else None
        self._repeated = repeated
        self._guard = guard
        self._ask = ask
        self._refused = refused
        self._stop = stop
        self._core = application
        self._told = Threshold(_tell, bases, cors=Refusals(origins))
        self._basic = basic_environ(port, host, NotReceived(BadRequest("A request of this method has no body here")))
        self._port = port
        self._spool = spool
        self._workers = workers
        self._sizes = sizes
        self.limits = limits

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._workers:
            processors.take_place(self._spool, self._workers)
        loop.run_until_complete(self.open())
        self._bound(loop, _TRIES)

    def _bound(self, loop: asyncio.AbstractEventLoop, tries: int) -> None:
        """Bound the connections, once Granian has made the listener: it says to nobody when."""
        if not bound_connections(self._port, self.limits.write.grace_s) and tries:
            loop.call_later(_TRY_EVERY_S, self._bound, loop, tries - 1)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.close()

    async def open(self) -> None:
        """Start the threads."""
        threads = self.limits.threads
        self.lane = Lane("core", threads, per_key=threads - 1)
        self.reserved = Lane("reserved", _RESERVED_THREADS, per_key=_RESERVED_THREADS - 1)
        self._disk = Lane("disk", 2)
        self._pulse = Pulse(self._ask)
        self.bodies = Bodies(self.limits.bodies, self._spool, self._disk)

    @property
    def busy(self) -> int:
        """How many threads carry out a request."""
        return self.lane.busy + self.reserved.busy

    @property
    def waiting(self) -> int:
        """How many requests wait for a thread."""
        return self.lane.waiting + self.reserved.waiting

    def close(self) -> None:
        """End the threads."""
        for lane in (self.lane, self.reserved, self._disk):
            lane.close()
        self._pulse.close()
        self._stop()

    async def __rsgi__(self, scope: Scope, proto: HttpProtocol) -> None:
        if self._repeated is not None and await self._again(scope, proto, self._repeated):
            return
        try:
            environ = environ_of(scope, self._basic)
        except Refused as refused:
            await self._refuse(proto, refused.environ, refused.fault)
            return
        path = environ["PATH_INFO"]
        if path == ALIVE:
            await self._send(proto, carry_out(self._core, environ), self.reserved, "")
        elif path.startswith(RESERVED):
            await self._serve(proto, environ, self.reserved, self._stranger(environ), _RESERVED_WAIT_S)
        else:
            await self._identified(scope, proto, environ)

    async def _again(self, scope: Scope, proto: HttpProtocol, repeated: Repeated) -> bool:
        """Answer a read whose head is known; False where that takes more, and nothing has happened."""
        kept = repeated.find(scope)
        if kept is None or (self._pulse.is_silent if self._inline is None else not self._inline.is_open):
            return False
        entered = repeated.enter(kept, scope.path)
        if entered is None:
            return False
        if self._inline is None:
            return await self._by_thread(scope, proto, repeated, entered)
        try:
            held = _seen(repeated, entered)
            if held is None:
                return False
            await self._inline.settled(held.owed, entered.began)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is told
            await self._send(proto, self._refusal(environ_of(scope, self._basic), error), self.reserved, "")
        else:
            proto.response_bytes(200, held.headers, held.body)
        finally:
            entered.release()
        return True

    async def _by_thread(self, scope: Scope, proto: HttpProtocol, repeated: Repeated, entered: Entered) -> bool:
        """As `_again`, where a read asks a server: a thread waits for the version, and nobody's for the record."""
        place = _Held(entered)
        place.take()
        try:
            async with self._pulse.waiting(self.limits.answer_s):
                held = await self.lane.run(
                    entered.organization, partial(_seen, repeated, entered), partial(_over, None, place)
                )
                if held is None:
                    return False
                if self._settling is not None:
                    await asyncio.shield(self._settling.soon(held.owed, time.monotonic()))
        except Exception as error:  # noqa: BLE001 - whatever it was, it is told
            fault = _busy() if isinstance(error, TimeoutError) else error
            await self._send(proto, self._refusal(environ_of(scope, self._basic), fault), self.reserved, "")
        else:
            proto.response_bytes(200, held.headers, held.body)
        finally:
            place.release()
        return True

    async def _identified(self, scope: Scope, proto: HttpProtocol, environ: Environ) -> None:
        """Find out for whom a request is, since his organisation is who waits for it, and have it carried out."""
        holder = self._guard.remembered(environ)
        if holder is None and "HTTP_AUTHORIZATION" in environ:
            if self._pulse.is_silent:
                await self._refuse(proto, environ, _busy())
                return
            try:
                async with asyncio.timeout(_RESERVED_WAIT_S):
                    holder = await self.reserved.run(self._stranger(environ), partial(self._guard.holder, environ))
            except TimeoutError:
                await self._refuse(proto, environ, _busy())
                return
            except Exception as error:  # noqa: BLE001 - the database failed: whatever it was, it is told
                await self._refuse(proto, environ, error)
                return
        if holder is None:
            key = self._stranger(environ)
            await self._serve(proto, environ, self.lane, key, self.limits.answer_s, is_stranger=True)
            return
        environ[HOLDER] = holder
        try:
            held = _Held(self._guard.admission.admit(holder))
        except TooManyRequests as error:
            await self._refuse(proto, environ, error)
            return
        environ[ADMITTED] = _NOT_YET
        try:
            if self._inline is not None and self._inline.takes(environ):
                try:
                    reply = await self._inline.reply(environ)
                except Exception as error:  # noqa: BLE001 - whatever it was, it is told
                    reply = self._refusal(environ, error)
                if self._repeated is not None:
                    self._repeated.learn(scope, environ, reply)
                await self._send(proto, reply, self.lane, holder.organization)
            else:
                await self._serve(
                    proto, environ, self.lane, holder.organization, self.limits.answer_s, held=held, scope=scope
                )
        finally:
            held.release()

    def _stranger(self, environ: Environ) -> str:
        """The key of a request that shows no token: no organisation has such an id."""
        return f"@{self._guard.address_of(environ)}"

    async def _serve(
        self, proto: HttpProtocol, environ: Environ, lane: Lane, key: str, wait_s: float, *, is_stranger: bool = False,
        held: _Held | None = None, scope: Scope | None = None,
    ) -> None:
        """Receive the body, have a thread carry the request out, send the answer. `scope`: to learn from."""
        body: Body | None = None
        close = False
        if environ["REQUEST_METHOD"] not in _WITH_BODY:
            pass
        elif is_stranger:
            # 401 before the body: the core refuses before it reads. If it would not, it had nothing to read.
            close = environ.get("CONTENT_LENGTH") != "0"
            environ["wsgi.input"] = NotReceived(Unauthenticated("Send an access token: Authorization: Bearer …"))
        else:
            try:
                body = await self._body(proto, environ, key)
            except Disconnected:
                # Most often nobody is there to hear it; but a body may break off by its own chunks (RFC 9112 §7.1).
                await self._refuse(proto, environ, BadRequest("The body of the request breaks off"))
                return
            except (TooManyRequests, Unavailable) as error:
                await self._refuse(proto, environ, error)
                return
            except FhirError as error:
                # The core says it, in the words of the facade and with its record.
                environ["wsgi.input"] = NotReceived(error)
                close = True
        if body is not None:
            wait_s += body.size / _CARRIED_OUT_PER_S
        if held is not None:
            held.take()
        reply = await self._reply(environ, lane, key, wait_s, partial(_over, body, held))
        if scope is not None and self._repeated is not None:
            self._repeated.learn(scope, environ, reply)
        await self._send(proto, reply, lane, key, close=close)

    async def _body(self, proto: HttpProtocol, environ: Environ, key: str) -> Body:
        """Receive the body into the environment."""
        declared = None
        if "HTTP_TRANSFER_ENCODING" not in environ:
            declared = int(environ.get("CONTENT_LENGTH") or 0)
        body = await self.bodies.receive(proto, declared, self._sizes.limit(environ["PATH_INFO"]), key)
        environ["wsgi.input"] = body.stream
        environ["CONTENT_LENGTH"] = str(body.size)
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return body

    async def _reply(
        self, environ: Environ, lane: Lane, key: str, wait_s: float, after: Callable[[bool], None]
    ) -> Reply:
        if self._pulse.is_silent and environ["PATH_INFO"] not in HEALTH:
            after(False)
            return self._refusal(environ, _busy())
        try:
            async with self._pulse.waiting(wait_s):
                return await lane.run(key, partial(carry_out, self._core, environ), after)
        except TimeoutError:
            return self._refusal(environ, _busy())
        except Exception as error:  # noqa: BLE001 - the core answers its own faults: this one is the composition's
            return self._refusal(environ, error)

    def _refusal(self, environ: Environ, fault: Exception) -> Reply:
        """The answer that the front gives itself, without the core."""
        environ = {**environ, FAULT: fault}
        reply = carry_out(self._told, environ)
        self._refused(environ, fault)  # under the id that the threshold has given it
        return reply

    async def _refuse(self, proto: HttpProtocol, environ: Environ, fault: Exception) -> None:
        """Answer without the core, and close the connection: the request was not read to its end."""
        await self._send(proto, self._refusal(environ, fault), self.reserved, "", close=True)

    async def _send(self, proto: HttpProtocol, reply: Reply, lane: Lane, key: str, *, close: bool = False) -> None:
        if close:
            reply.headers.append(("Connection", "close"))  # the request was not read to its end
        await answers.send(proto, reply, partial(lane.run, key), self.limits.write)


def _busy() -> Unavailable:
    return Unavailable("The server cannot answer at present", retry_after_s=5)


class _Held:
    """A request in flight, until all who hold it let go: who sends its answer, and the thread that is at work for it.

    A thread that nobody waits for any more counts as long as it takes.
    """

    __slots__ = ("_admitted", "_count")

    def __init__(self, admitted: Admitted | Entered) -> None:
        self._admitted, self._count = admitted, 1

    def take(self) -> None:
        self._count += 1

    def release(self) -> None:
        self._count -= 1
        if not self._count:
            self._admitted.release()


class _NotYet(Admitted):
    """What the threshold lets go of when the core has answered: here the answer is still to be sent."""

    def __init__(self) -> None:
        pass

    def release(self) -> None:
        pass

    def __del__(self) -> None:
        pass


_NOT_YET = _NotYet()


def _over(body: Body | None, held: _Held | None, has_run: bool) -> None:
    """The thread has come back, or none will take the request any more: what it held is free."""
    if body is not None:
        body.close()
    if held is not None:
        held.release()


def _seen(repeated: Repeated, entered: Entered) -> Held | None:
    """The read; None: at length. Raises Unavailable where it failed late: it would take as long again."""
    try:
        return repeated.carry_out(entered)
    except Exception as error:  # whatever it was, the core meets it again and tells it
        if time.monotonic() - entered.began > _LATE_S:
            raise _busy() from error
        return None


def _tell(environ: Environ, start_response: Callable[..., object]) -> object:
    return errors.wsgi_answer(environ[FAULT], environ, start_response)
