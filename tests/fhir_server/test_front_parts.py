"""The front's parts by themselves: what each holds, lets go of, and never begins (DESIGN §3).

`test_front.py` asks the served process; here the core, the database and the client are the test's, so that each limit
is met exactly: at the limit it is answered, one more is not, and nothing is left of either.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from granian._granian import RSGIProtocolClosed

from auth.admission import Admission, AdmissionLimits, Holder
from fhir_server.edge import errors
from fhir_server.server.front import answers, application, inline, protocol, pulse
from fhir_server.server.front.application import BodySizes, Front, FrontLimits
from fhir_server.server.front.bodies import Bodies, BodyLimits, Disconnected
from fhir_server.server.front.inline import Inline, Settling
from fhir_server.server.front.lanes import Lane
from fhir_server.server.front.sockets import bound_connections
from fhir_server.server.recorder import DEFERRED
from resources.outcomes import FhirError, RequestTimeout, TooLarge, TooManyRequests, Unavailable
from tests.through import Headers, Scope

WITHIN_S = 20.0
Answered = tuple[int, dict[str, str], bytes]


class Peer:
    """A client: its body in pieces, and what it was answered."""

    def __init__(self, *pieces: bytes, stays: bool = True, comes: bool = True) -> None:
        """`stays`: it waits for the answer. `comes`: the body's end does."""
        self._pieces, self._stays, self._comes = pieces, stays, comes
        self.taken = 0
        self.answered: Answered | None = None

    async def __call__(self) -> bytes:
        return b"".join([piece async for piece in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.taken += len(piece)
            yield piece
        if not self._comes:
            await asyncio.get_running_loop().create_future()
        if not self._stays:
            raise RSGIProtocolClosed
        yield b""

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.response_bytes(status, headers, b"")

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert self.answered is None
        self.answered = (status, {name.lower(): value for name, value in headers}, body)

    def response_file(self, status: int, headers: list[tuple[str, str]], file: str) -> None:
        raise AssertionError("no answer is long here")


def run(test: Coroutine[Any, Any, None]) -> None:
    """A test in an event loop, for so long at most."""

    async def bounded() -> None:
        async with asyncio.timeout(WITHIN_S):
            await test

    asyncio.run(bounded())


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


# — bodies —


@asynccontextmanager
async def receiving(folder: Path, **limits: Any) -> AsyncIterator[Bodies]:
    lane = Lane("test-disk", 1)
    bodies = Bodies(BodyLimits(**limits), folder, lane)
    try:
        yield bodies
        assert (bodies.count, bodies.in_memory, bodies.in_files, bodies._by_key) == (0, 0, 0, {}), "all is given back"
    finally:
        lane.close()


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_body_has_its_limit_and_not_a_byte_more(tmp_path: Path, size: int, declared: bool) -> None:
    """RFC 9110 §15.5.14: by its length before a byte of it is taken, by its bytes where no length is told."""

    async def test() -> None:
        async with receiving(tmp_path) as bodies:
            told = size if declared else None
            body = await bodies.receive(Peer(bytes(size)), told, size, "a")
            assert (body.size, body.stream.read()) == (size, bytes(size))
            body.close()
            more = Peer(bytes(size), b"1", b"2")
            with pytest.raises(TooLarge):
                await bodies.receive(more, size + 1 if declared else None, size, "a")
            assert more.taken == (0 if declared else size + 1)

    run(test())


def test_a_body_that_is_longer_than_it_said_or_shorter_is_none(tmp_path: Path) -> None:
    """RFC 9112 §8: an incomplete message is not processed; RSGI gives the end twice where chunks break off."""

    class Broken(Peer):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in super().__aiter__():
                yield piece
            yield b""

    async def test() -> None:
        async with receiving(tmp_path) as bodies:
            for peer, declared in (
                (Peer(bytes(100_000)), 100_001), (Broken(bytes(100)), None), (Peer(b"x", stays=False), None),
                (Peer(b"x", stays=False), 2),
            ):
                with pytest.raises(Disconnected):
                    await bodies.receive(peer, declared, 1_000_000, "a")

    run(test())


@pytest.mark.parametrize("declared", [10, 100_000, None])
def test_a_body_that_stops_coming_is_told_and_forgotten(tmp_path: Path, declared: int | None) -> None:
    """RFC 9110 §15.5.9."""

    async def test() -> None:
        async with receiving(tmp_path, grace_s=0.05, in_memory=0) as bodies:
            with pytest.raises(RequestTimeout):
                await bodies.receive(Peer(b"x", comes=False), declared, 1_000_000, "a")

    run(test())


def test_a_body_that_comes_has_the_time_that_its_rate_gives_and_one_that_crawls_has_not(tmp_path: Path) -> None:
    """RFC 9110 §15.5.9: `grace_s`, and a second more for each `min_rate` bytes that have come."""

    class Paced(Peer):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in super().__aiter__():
                yield piece
                await asyncio.sleep(1.2 if len(piece) > 1 else 0.005)

    async def test() -> None:
        async with receiving(tmp_path, grace_s=1, min_rate=2000) as bodies:
            (await bodies.receive(Paced(*[bytes(40_000)] * 2), None, 100_000, "a")).close()
            with pytest.raises(RequestTimeout):
                await bodies.receive(Paced(*[b"x"] * 5000), None, 10_000, "a")

    run(test())


def test_bodies_share_a_budget_of_memory_and_of_disk(tmp_path: Path) -> None:
    """Beyond the memory they go to files, beyond the disk they are refused; and it is given back with each."""

    async def test() -> None:
        async with receiving(tmp_path, in_memory=100_000, memory=150_000, disk=200_000) as bodies:
            first = await bodies.receive(Peer(bytes(100_000)), None, 1_000_000, "a")
            assert (bodies.in_memory, bodies.in_files) == (100_000, 0)
            second = await bodies.receive(Peer(bytes(100_000)), None, 1_000_000, "a")
            assert (bodies.in_memory, bodies.in_files) == (100_000, 100_000), "of all"
            third = await bodies.receive(Peer(bytes(100_000)), None, 1_000_000, "b")
            assert bodies.in_files == 200_000
            for disk_is_full in (Peer(bytes(100_000)), Peer(bytes(100_001))):
                with pytest.raises(Unavailable):
                    await bodies.receive(disk_is_full, None, 1_000_000, "b")
            assert (bodies.in_memory, bodies.in_files) == (100_000, 200_000), "nothing of the refused"
            second.close()
            for body in (first, third):
                assert len(body.stream.read()) == 100_000
                body.close()
            one = await bodies.receive(Peer(bytes(100_001)), None, 1_000_000, "a")
            assert (bodies.in_memory, bodies.in_files) == (0, 100_001), "of one"
            one.close()

    run(test())


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_server_s_own(tmp_path: Path) -> None:
    """503 with Retry-After: a disk that is full, or away."""

    async def test() -> None:
        async with receiving(tmp_path / "away", in_memory=0) as bodies:
            with pytest.raises(Unavailable):
                await bodies.receive(Peer(b"x"), None, 100, "a")

    run(test())


def test_bodies_on_their_way_have_a_number_in_all_and_for_each(tmp_path: Path) -> None:
    """503 for the number of all, 429 for one's own; both are free again however a body ended."""

    async def test() -> None:
        async with receiving(tmp_path, count=3, per_key=2) as bodies:
            for _ in range(2):
                coming = [asyncio.create_task(bodies.receive(Peer(comes=False), 10, 100, key)) for key in "aab"]
                await until(lambda: bodies.count == 3)
                with pytest.raises(Unavailable):
                    await bodies.receive(Peer(b"x"), 1, 100, "c")
                coming.pop().cancel()
                await until(lambda: bodies.count == 2)
                with pytest.raises(TooManyRequests):
                    await bodies.receive(Peer(b"x"), 1, 100, "a")
                (await bodies.receive(Peer(b"x"), 1, 100, "c")).close()
                for one in coming:
                    one.cancel()
                await asyncio.gather(*coming, return_exceptions=True)

    run(test())


# — heads —


def test_the_target_counts_towards_the_head_and_is_refused_beyond_it() -> None:
    """RFC 6585 §5; RFC 9112 §3 (request line): 32 kB in all, not a byte more."""

    def ask(length: int) -> Any:
        scope = Scope({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http", "HTTP_HOST": "a"})
        scope.query_string = "q" * length
        return protocol.environ_of(scope, protocol.basic_environ(1, "a", None))

    most = protocol.MAX_HEAD_BYTES - len("/") - len("hosta")
    assert len(ask(most)["QUERY_STRING"]) == most
    with pytest.raises(protocol.Refused) as refused:
        ask(most + 1)
    assert refused.value.fault.code == 431  # type: ignore[attr-defined]


def test_a_list_is_no_host_and_the_target_s_own_host_counts() -> None:
    """RFC 9112 §3.2 (one Host), §3.2.2 (absolute form); RFC 9110 §5.3: a list is what two fields would be."""

    def ask(host: str, authority: str | None = None) -> Any:
        scope = Scope({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http", "HTTP_HOST": host})
        scope.authority = authority  # type: ignore[assignment]
        return protocol.environ_of(scope, protocol.basic_environ(1, "a", None))

    assert ask("a:80")["HTTP_HOST"] == "a:80"
    with pytest.raises(protocol.Refused):
        ask("a,b")
    assert ask("other", "target:8080")["HTTP_HOST"] == "target:8080"


def test_names_of_headers_that_clients_make_up_fill_no_memory() -> None:
    """What is remembered of names is bounded; names beyond it are read as well."""
    for number in range(protocol._MAX_KEYS + 100):
        scope = Scope({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http", "HTTP_HOST": "a"})
        scope.headers = Headers([("host", "a"), (f"x-made-up-{number}", "1")])
        environ = protocol.environ_of(scope, protocol.basic_environ(1, "a", None))
        assert environ[f"HTTP_X_MADE_UP_{number}"] == "1"
    assert len(protocol._KEYS) <= protocol._MAX_KEYS


# — lanes —


@asynccontextmanager
async def lane_of(threads: int, per_key: int | None = None) -> AsyncIterator[tuple[Lane, threading.Event]]:
    lane, go = Lane("test", threads, per_key=per_key), threading.Event()
    try:
        yield lane, go
    finally:
        go.set()
        lane.close()


def test_who_gives_up_before_his_turn_is_never_carried_out() -> None:
    """A write that nobody waits for any more must not happen later; what it held is let go of at once."""

    async def test() -> None:
        async with lane_of(1) as (lane, go):
            done: list[str] = []
            after: list[bool] = []
            running = lane.run("a", lambda: go.wait(WITHIN_S))
            late = lane.run("a", lambda: done.append("late"), after.append)
            next_one = lane.run("a", lambda: done.append("next"))
            late.cancel()
            await until(lambda: after)
            go.set()
            await asyncio.gather(running, next_one)
            assert (done, after, lane.abandoned) == (["next"], [False], 0)

    run(test())


def test_a_thread_that_nobody_waits_for_keeps_its_place_and_its_result_is_closed() -> None:
    """The answer that comes too late holds files and places of its own: they are given back, once."""

    class Result:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    async def test() -> None:
        async with lane_of(2, per_key=1) as (lane, go):
            result, after = Result(), list[bool]()

            def slow() -> Result:
                go.wait(WITHIN_S)
                return result

            running = lane.run("a", slow, after.append)
            running.cancel()
            await until(lambda: lane.abandoned)
            other = lane.run("a", lambda: "other")
            await asyncio.sleep(0.05)
            assert (lane.busy, lane.waiting, after) == (1, 1, []), "the place is taken until the thread is back"
            go.set()
            assert await other == "other"
            assert (result.closed, after, lane.abandoned, lane.busy) == (1, [True], 0, 0)
            assert lane._running == {}

    run(test())


def test_organisations_take_turns_however_many_requests_one_has_sent() -> None:
    """Who sends a thousand requests waits for himself alone."""

    async def test() -> None:
        async with lane_of(1) as (lane, go):
            order: list[str] = []
            first = lane.run("a", lambda: go.wait(WITHIN_S))
            work = [lane.run(key, lambda key=key: order.append(key)) for key in "aaabbc"]  # type: ignore[misc]
            go.set()
            await asyncio.gather(first, *work)
            assert sorted(order[:3]) == ["a", "b", "c"]
            assert sorted(order[3:5]) == ["a", "b"]

    run(test())


# — the front —


@dataclass
class Stage:
    """A front whose core, guard and clients are the test's."""

    front: Front
    go: threading.Event
    admission: Admission
    refused: list[str] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, token: str | None = None, peer: Peer | None = None, *, length: int | None = None,
        address: str = "192.0.2.1",
    ) -> Answered:
        """What is answered. Tokens: `a` and `b` are known, `slow` is looked up for as long as `go` is not set."""
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.url_scheme": "http", "HTTP_HOST": "localhost",
            "REMOTE_ADDR": address,
        }
        if token:
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        if length is not None:
            environ["CONTENT_LENGTH"] = str(length)
        peer = peer or Peer()
        await self.front.__rsgi__(Scope(environ), peer)
        assert peer.answered is not None
        return peer.answered


@asynccontextmanager
async def staged(
    folder: Path, *, limits: FrontLimits | None = None, admission: AdmissionLimits | None = None, **more: Any
) -> AsyncIterator[Stage]:
    """The core waits on paths with `slow` in them; it answers with the length of the body."""
    go, admitting = threading.Event(), Admission(admission)

    def core(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        if "slow" in path:
            go.wait(WITHIN_S)
        if "read" in path and DEFERRED in environ:
            environ[DEFERRED].append("a record")
        try:
            size = len(environ["wsgi.input"].read()) if environ["REQUEST_METHOD"] == "POST" else 0
        except FhirError as error:
            return errors.wsgi_answer(error, environ, start)
        start("200 OK", [("X-Size", str(size))])
        return [b"done"]

    class Known:
        admission = admitting

        def remembered(self, environ: dict[str, Any]) -> Holder | None:
            name = environ.get("HTTP_AUTHORIZATION", "")[7:]
            return Holder(name, name) if name in ("a", "b") else None

        def holder(self, environ: dict[str, Any]) -> Holder | None:
            if "slow" in environ["HTTP_AUTHORIZATION"]:
                go.wait(WITHIN_S)
            return None

        def address_of(self, environ: dict[str, Any]) -> str:
            return str(environ["REMOTE_ADDR"])

    refused: list[str] = []
    given: dict[str, Any] = {"ask": lambda: None, "trail": None, **more}
    front = Front(
        core, bases=("http://localhost",), port=1, host="localhost", spool=folder, sizes=BodySizes(1000, 2000, 500),
        limits=limits or FrontLimits(threads=2), guard=Known(),  # type: ignore[arg-type]
        refused=lambda environ, fault: refused.append(type(fault).__name__), stop=lambda: None,
        origins=frozenset, **given,
    )
    await front.open()
    try:
        yield Stage(front, go, admitting, refused)
    finally:
        go.set()
        front.close()


def test_the_look_for_listeners_keeps_no_descriptor(tmp_path: Path) -> None:
    """A copy of one through which a file was just locked kept that lock for the life of the process: no process of
    the folder could read or make figures any more, none became ready, and none that was replaced began."""
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = {*Path("/proc/self/fd").iterdir()}
        assert bound_connections(listener.getsockname()[1], 7) == 1
        assert {*Path("/proc/self/fd").iterdir()} == before
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        with (tmp_path / "lock").open("w") as other:
            held.close()
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_who_waits_for_a_thread_waits_for_a_time_that_has_an_end(tmp_path: Path) -> None:
    """503 with Retry-After, and on record by number; the thread keeps the client's place in flight until it is back."""

    async def test() -> None:
        limits = FrontLimits(threads=2, answer_s=1)
        async with staged(tmp_path, limits=limits, admission=AdmissionLimits(client_in_flight=1)) as stage:
            status, headers, _ = await stage.ask("GET", "/fhir/slow", "a")
            assert (status, headers["retry-after"]) == (503, "5")
            assert stage.refused == ["Unavailable"]
            status, headers, _ = await stage.ask("GET", "/fhir/x", "a")
            assert (status, headers["connection"]) == (429, "close")
            stage.go.set()
            await until(lambda: stage.front.busy == 0)
            assert (await stage.ask("GET", "/fhir/x", "a"))[0] == 200
            assert (await stage.ask("GET", "/fhir/x", "a"))[0] == 200

    run(test())


def test_an_organisation_never_has_the_last_thread(tmp_path: Path) -> None:
    """However many requests it has sent, and however long each takes."""

    async def test() -> None:
        async with staged(tmp_path, limits=FrontLimits(threads=3)) as stage:
            waiting = [asyncio.create_task(stage.ask("GET", "/fhir/slow", "a")) for _ in range(5)]
            await until(lambda: stage.front.lane.waiting == 3)
            assert stage.front.lane.busy == 2
            assert (await stage.ask("GET", "/fhir/x", "b"))[0] == 200
            stage.go.set()
            assert {answer[0] for answer in await asyncio.gather(*waiting)} == {200}

    run(test())


def test_health_and_tokens_are_answered_while_every_other_thread_is_busy(tmp_path: Path) -> None:
    """And one address does not have the last of the reserved threads; /livez needs none."""

    async def test() -> None:
        async with staged(tmp_path) as stage:
            busy = [asyncio.create_task(stage.ask("GET", "/fhir/slow", token)) for token in "aabb"]
            await until(lambda: stage.front.lane.busy == 2)
            assert (await stage.ask("GET", "/oauth/jwks"))[0] == 200
            assert (await stage.ask("GET", "/readyz"))[0] == 200
            busy += [asyncio.create_task(stage.ask("GET", "/oauth/slow")) for _ in range(3)]
            await until(lambda: stage.front.reserved.busy == 2)
            assert (await stage.ask("GET", "/readyz", address="192.0.2.2"))[0] == 200
            busy.append(asyncio.create_task(stage.ask("GET", "/oauth/slow", address="192.0.2.2")))
            await until(lambda: stage.front.reserved.busy == 3)
            assert (await stage.ask("GET", "/livez"))[0] == 200
            stage.go.set()
            assert {answer[0] for answer in await asyncio.gather(*busy)} == {200}

    run(test())


def test_a_token_that_cannot_be_looked_up_is_waited_for_as_long_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is asked whose it is: silent, it keeps nobody waiting."""
    monkeypatch.setattr(application, "_RESERVED_WAIT_S", 0.1)

    async def test() -> None:
        async with staged(tmp_path) as stage:
            status, headers, _ = await stage.ask("GET", "/fhir/x", "slow")
            assert (status, headers["connection"]) == (503, "close")
            assert stage.refused == ["Unavailable"]

    run(test())


def test_while_the_database_is_silent_all_are_told_at_once_but_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait as well as those who come, with a token or without; then it answers again, and so do we."""
    monkeypatch.setattr(pulse, "LATE_S", 0.05)
    monkeypatch.setattr(pulse, "SILENT_S", 0.05)
    monkeypatch.setattr(pulse, "_TICK_S", 0.01)
    speaks = threading.Event()

    async def test() -> None:
        async with staged(tmp_path, ask=lambda: speaks.wait(WITHIN_S)) as stage:
            assert (await stage.ask("GET", "/fhir/slow", "a"))[0] == 503, "who waits"
            began = time.monotonic()
            for path, token in (("/fhir/slow", "b"), ("/fhir/slow", "slow"), ("/fhir/slow", None), ("/oauth/x", None)):
                assert (await stage.ask("GET", path, token))[0] == 503, "who comes"
            body = await stage.ask("POST", "/fhir/x", "b", Peer(b"x" * 100), length=100)
            assert body[0] == 503
            assert (await stage.ask("GET", "/readyz"))[0] == 200
            assert time.monotonic() - began < WITHIN_S / 2
            bodies = stage.front.bodies
            assert (bodies.in_memory, bodies.count) == (0, 0), "what was received is let go of"
            assert stage.front.lane.busy == 1, "nobody else has a thread"
            monkeypatch.setattr(pulse, "SILENT_S", WITHIN_S)
            speaks.set()
            await until(lambda: not stage.front._pulse.is_silent)
            assert (await stage.ask("GET", "/fhir/x", "b"))[0] == 200

    run(test())


@pytest.mark.parametrize("path", ["/fhir/x", "/dicom-web/studies", "/oauth/token", "/elsewhere"])
def test_a_body_that_is_refused_is_not_read_and_the_connection_ends(tmp_path: Path, path: str) -> None:
    """RFC 9110 §15.5.14, RFC 9112 §9.3: what is left of it would be taken for the next request."""
    limit = {"/fhir/x": 1000, "/dicom-web/studies": 2000, "/oauth/token": 500, "/elsewhere": 0}[path]

    async def test() -> None:
        async with staged(tmp_path) as stage:
            if limit:
                status, headers, _ = await stage.ask("POST", path, "a", Peer(bytes(limit)), length=limit)
                assert (status, headers["x-size"], headers.get("connection")) == (200, str(limit), None)
            over = Peer(bytes(limit + 1))
            status, headers, _ = await stage.ask("POST", path, "a", over, length=limit + 1)
            assert (status, headers["connection"], over.taken) == (413, "close", 0)
            status, headers, _ = await stage.ask("POST", path, "a", Peer(b"x", stays=False), length=2)
            assert (status, headers["connection"]) == (413 if not limit else 400, "close")
            assert stage.front.bodies.in_memory == 0

    run(test())


def test_a_stranger_s_body_is_never_read(tmp_path: Path) -> None:
    """401 comes before the body (RFC 9110 §10.1.1), and ends the connection unless there is none."""

    async def test() -> None:
        async with staged(tmp_path) as stage:
            peer = Peer(b"x" * 100)
            status, headers, _ = await stage.ask("POST", "/fhir/x", None, peer, length=100)
            assert (status, headers["connection"], peer.taken) == (401, "close", 0)
            status, headers, _ = await stage.ask("POST", "/fhir/x", None, Peer(), length=0)
            assert (status, "connection" in headers) == (401, False)

    run(test())


def test_a_reader_who_is_fast_gives_the_thread_back_after_his_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one download would have a thread for as long as it takes."""
    monkeypatch.setattr(answers, "_TURN_BYTES", 1000)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pump = answers._Pump(answers.Reply(200, [], b"x" * 400, iter([b"y" * 400] * 5)), writer)
    turns = []
    while not (is_over := pump.turn()):
        turns.append(pump.written)
        assert not pump.is_full
        os.read(reader, 65536)
    os.close(reader)
    os.close(writer)
    assert (is_over, turns, pump.written) == (True, [1200, 2400], 2400)


@pytest.mark.parametrize("takes", [0, 4096], ids=["nothing", "little"])
def test_a_reader_who_takes_too_little_is_let_go_of(takes: int) -> None:
    """The grace once for nothing at all, and a minimum rate besides, however the client's kernel keeps it alive."""
    limits = answers.WriteLimits(grace_s=2, min_rate=10_000_000)

    class Slow(Peer):
        descriptor = -1

        def response_file(self, status: int, headers: list[tuple[str, str]], file: str) -> None:
            self.descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)

        async def read(self) -> None:
            while takes:
                await asyncio.sleep(0.05)
                with suppress(BlockingIOError):
                    os.read(self.descriptor, takes)

    async def test() -> None:
        async with lane_of(1) as (lane, _):
            peer, closed = Slow(), list[str]()
            reply = answers.Reply(
                200, [], b"x", iter(lambda: bytes(65536), None), closers=[lambda: closed.append("closed")]
            )
            sending = asyncio.create_task(answers.send(peer, reply, partial(lane.run, "a"), limits))
            await until(lambda: peer.descriptor >= 0)
            reading = asyncio.create_task(peer.read())
            await sending
            reading.cancel()
            os.close(peer.descriptor)
            assert (closed, lane.busy) == (["closed"], 0)

    run(test())


# — in the event loop —


class Ledger:
    """A trail whose records become durable when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[None]] = []

    def settle_soon(self, deferred: Any, /) -> asyncio.Future[None]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]


def test_no_byte_of_a_read_leaves_before_its_record_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN §3; where it cannot be made durable, or not in time, the answer is 503 and gives nothing."""

    monkeypatch.setattr(inline, "BOUND_OF_ONE_S", WITHIN_S)

    async def test() -> None:
        ledger = Ledger()
        async with staged(tmp_path, trail=ledger, at_once=True, admission=AdmissionLimits(client_in_flight=1)) as stage:
            assert stage.front._inline is not None
            stage.front._inline._bound_s = WITHIN_S  # however slow this machine is

            async def asked(count: int) -> tuple[Peer, asyncio.Task[Answered]]:
                peer = Peer()
                task = asyncio.create_task(stage.ask("GET", "/fhir/Patient/read", "a", peer))
                await until(lambda: len(ledger.asked) == count)
                await asyncio.sleep(0.05)
                assert peer.answered is None, "it is not durable yet"
                return peer, task

            _, task = await asked(1)
            assert (await stage.ask("GET", "/fhir/x", "a"))[0] == 429, "it is in flight"
            ledger.asked[0].set_result(None)
            assert await task == (200, {"x-size": "0"}, b"done")
            _, task = await asked(2)
            ledger.asked[1].set_exception(Unavailable("The disk is full", retry_after_s=1))
            assert (await task)[0] == 503
            assert b"done" not in (await task)[2]
            monkeypatch.setattr(inline, "DURABLE_WITHIN_S", 0.1)
            status, _, body = await stage.ask("GET", "/fhir/Patient/read", "a")
            assert (status, b"done" in body) == (503, False)
            assert stage.refused == ["TooManyRequests", "Unavailable", "Unavailable"]
            assert stage.admission.admit(Holder("a", "a")), "nothing is in flight any more"

    run(test())


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, True), ({"REQUEST_METHOD": "HEAD"}, True), ({"PATH_INFO": "/fhir/Patient/a/_history/1"}, True),
        ({"REQUEST_METHOD": "POST"}, False), ({"REQUEST_METHOD": "DELETE"}, False),
        ({"QUERY_STRING": "_elements=id"}, False), ({"HTTP_ORIGIN": "https://a"}, False),
        ({"PATH_INFO": "/fhir/Patient"}, False), ({"PATH_INFO": "/fhir/Patient/a/_history"}, False),
        ({"PATH_INFO": "/fhir/Patient/a/$validate"}, False), ({"PATH_INFO": "/dicom-web/studies/1"}, False),
        ({"PATH_INFO": "/fhir/AuditEvent/a"}, False), ({"PATH_INFO": "/fhir/Binary/a"}, False),
        ({"PATH_INFO": "/fhir/Patient/a\n"}, False),
    ],
    ids=str,
)
def test_only_reads_of_one_resource_are_carried_out_in_the_event_loop(changed: dict[str, str], taken: bool) -> None:
    """Whatever may take long, or asks somebody else, would hold up every other request of the process."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/fhir/Patient/a", "QUERY_STRING": "", **changed}
    assert Inline(lambda *_: [], Settling(Ledger())).takes(environ) is taken


READ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/fhir/Patient/a", "QUERY_STRING": ""}


def test_reads_that_wait_for_their_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones go to threads, where organisations take turns."""
    monkeypatch.setattr(inline, "AT_ONCE", 2)

    def core(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        environ[DEFERRED].append("a record")
        start("200 OK", [])
        return [b""]

    async def test() -> None:
        ledger = Ledger()
        reads = Inline(core, Settling(ledger), bound_s=WITHIN_S)
        waiting = [asyncio.create_task(reads.reply(dict(READ))) for _ in range(2)]
        await until(lambda: len(ledger.asked) == 2)
        assert not reads.takes(dict(READ))
        ledger.asked[0].set_result(None)
        ledger.asked[1].set_exception(Unavailable("no"))
        await asyncio.gather(*waiting, return_exceptions=True)
        assert reads.takes(dict(READ))

    run(test())


@pytest.mark.parametrize(
    ("slow_s", "bound_of_one_s", "reads"), [(0.03, 0.02, 1), (0.002, WITHIN_S, 64)], ids=["one", "the mean of many"]
)
def test_a_slow_disk_sends_reads_to_threads_until_a_pause_is_over(
    monkeypatch: pytest.MonkeyPatch, slow_s: float, bound_of_one_s: float, reads: int
) -> None:
    """One read that takes long, or the mean of many, is enough: the event loop must not wait for a disk."""
    monkeypatch.setattr(inline, "BOUND_OF_ONE_S", bound_of_one_s)
    monkeypatch.setattr(inline, "PAUSE_S", 1.0)

    def core(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        time.sleep(slow_s)
        start("200 OK", [])
        return [b""]

    async def test() -> None:
        own = Inline(core, Settling(Ledger()), bound_s=0.0015 if reads > 1 else WITHIN_S)
        for _ in range(reads):
            await own.reply(dict(READ))
            if not own.takes(dict(READ)):
                break
        assert not own.takes(dict(READ))
        await until(lambda: own.takes(dict(READ)))

    run(test())


@pytest.fixture(autouse=True)
def remembered_names() -> Iterator[None]:
    """What the tests make up is forgotten."""
    before = dict(protocol._KEYS)
    yield
    protocol._KEYS.clear()
    protocol._KEYS.update(before)
