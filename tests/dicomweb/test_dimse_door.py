"""The DIMSE door on the wire: who gets in, how much a peer may take, what is on record of it."""

from __future__ import annotations

import datetime
import io
import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, ModalityWorklistInformationFind, Verification
from sqlalchemy.exc import OperationalError

from dicomweb import ae
from dicomweb.ae import ApplicationEntity, Registry
from dicomweb.dimse import records, tls
from dicomweb.dimse.limits import Limits
from dicomweb.dimse.listener import Silence
from dicomweb.dimse.scp import Scp
from dicomweb.dimse.services import DECODED_AT_ONCE, SERVICES
from tests.dicomweb.conftest import Service

CALLING, CALLED = 3, 7
LOCAL_LIMIT = (2, 3, 2)
"""Rejected-transient, service provider (presentation), local limit exceeded."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """What is asked here does not depend on the database."""
    return f"sqlite:///{tmp_path}/vigie.sqlite"


@dataclass
class Door:
    service: Service
    scp: Scp
    port: int

    def associate(self, title: str = "MODALITY", *classes: str, called: str = "VIGIE", **more: Any) -> Association:
        entity = AE(title)
        for uid in classes or (Verification,):
            entity.add_requested_context(uid, more.get("syntaxes", [ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
        return entity.associate("127.0.0.1", self.port, ae_title=called)

    def accepts(self, title: str = "MODALITY") -> bool:
        association = self.associate(title)
        accepted = bool(association.is_established)
        if accepted:
            association.release()
        return accepted

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def recorded(self, **detail: str) -> list[Any]:
        """The records of associations and of what they had refused."""
        return [one for one in self.service.trail.disclosed
                if detail.items() <= dict(one.detail).items() or not detail]


@contextmanager
def opened(service: Service, limits: Limits, **more: Any) -> Iterator[Door]:
    service.imaging.register_ae("MODALITY", "hospital-a", "loopback")
    service.imaging.register_ae("OTHER", "hospital-b", "127.0.0.1")
    scp = service.imaging.scp(limits=limits, **more)
    try:
        yield Door(service, scp, scp.start("127.0.0.1", 0))
    finally:
        scp.stop()


@pytest.fixture
def door(service: Service) -> Iterator[Door]:
    with opened(service, Limits(artim_s=20)) as made:
        yield made


def until(holds: Callable[[], bool], what: str, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def request(
    calling: str = "MODALITY", called: str = "VIGIE", *, version: int = 1, classes: tuple[str, ...] = (Verification,)
) -> bytes:
    """An A-ASSOCIATE-RQ by hand; the contexts of `classes` have the ids 1, 3, 5, …"""
    def item(kind: int, data: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(data)) + data

    context = b"".join(
        item(0x20, bytes([2 * number + 1, 0, 0, 0]) + item(0x30, uid.encode())
             + item(0x40, ImplicitVRLittleEndian.encode()))
        for number, uid in enumerate(classes)
    )
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    body = struct.pack(">HH16s16s32x", version, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return struct.pack(">BBI", 1, 0, len(body)) + body


def greeted(door: Door, title: str = "MODALITY") -> bool:
    """Whether a request by hand is accepted (pynetdicom's client knows no descriptor above 1023)."""
    with door.connect() as raw:
        raw.sendall(request(title))
        said = answer(raw)
    assert said[:1] == b"\2", said
    return True


def refusal(door: Door, title: str = "MODALITY", called: str = "VIGIE") -> tuple[int, ...]:
    """(result, source, reason) of the refusal of a request by hand; empty: it was accepted.

    pynetdicom's client takes a refusal that comes too soon for a failed connection, one in a hundred.
    """
    with door.connect() as raw:
        raw.sendall(request(title, called))
        said = answer(raw)
    return tuple(said[7:10]) if said[:1] == b"\3" else ()


def answer(sock: socket.socket) -> bytes:
    """What the peer says until it closes, or the first PDU of it."""
    data = b""
    while len(data) < 10:
        try:
            piece = sock.recv(4096)
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def closed(sock: socket.socket) -> bool:
    """Whether the other side has closed it."""
    readable, _, _ = select.select([sock], [], [], 0)
    try:
        return bool(readable) and sock.recv(1, socket.MSG_PEEK) == b""
    except ConnectionResetError:
        return True


# — before an association —


def test_a_request_that_claims_4_gib_is_refused_unread(door: Door) -> None:
    """PS3.8 §9.3.1 leaves the limit to us: the claim alone decides, before 64 kB have been taken (pynetdicom #1086)."""
    with door.connect() as raw:
        raw.sendall(struct.pack(">BBI", 1, 0, 0xFFFFFFFF))
        assert answer(raw)[:1] in (b"\7", b"")
    with door.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = raw.send(struct.pack(">BBI", 1, 0, 0xFFFFFFFF))
        with pytest.raises(OSError):  # noqa: PT012 - whatever is sent first shows it
            for _ in range(4096):
                sent += raw.send(bytes(65536))
    assert sent < 8 * 1024 * 1024, "what the kernels' buffers take, and no more"
    assert door.accepts()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(100), struct.pack(">BBI", 4, 0, 100), struct.pack(">BBI", 0x22, 0, 5)],
    ids=["http", "zeros", "p-data", "unknown"],
)
def test_what_is_no_association_request_is_aborted(door: Door, garbage: bytes) -> None:
    """PS3.8 Table 9-10: any other PDU in Sta2 is AA-1; §9.3.8 source 2, reason 1."""
    with door.connect() as raw:
        raw.sendall(garbage)
        assert answer(raw) in (bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 1]), b"")
    assert door.accepts()


def test_a_request_too_short_for_titles_is_aborted(door: Door) -> None:
    with door.connect() as raw:
        raw.sendall(struct.pack(">BBI", 1, 0, 4) + b"\0\1\0\0")
        assert answer(raw)[:1] == b"\7"


@pytest.mark.parametrize(("less", "said"), [(0, b"\2"), (1, b"\7")])
def test_a_request_of_the_longest_length_is_read_and_a_byte_more_is_not(
    service: Service, less: int, said: bytes
) -> None:
    """PS3.8 §9.3.2: the length is looked at before anything of it is read."""
    with opened(service, Limits(artim_s=600, request_bytes=len(request()) - 6 - less)) as door, door.connect() as raw:
        raw.sendall(request() if not less else request()[:6])
        assert answer(raw)[:1] == said


def test_a_silent_connection_is_closed_by_the_artim_timer(service: Service) -> None:
    """PS3.8 §9.1.5: a half request has no more time than none, however it drips."""
    with opened(service, Limits(artim_s=2)) as door, ExitStack() as stack:
        silent, dripping = (stack.enter_context(door.connect()) for _ in range(2))
        until(lambda: door.scp._listeners[0].waiting == 2, "both are known")
        began = time.monotonic()
        for byte in request()[:100]:
            try:
                dripping.send(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
            if closed(dripping):
                break
        until(lambda: closed(silent) and closed(dripping), "the timer ends them")
        assert time.monotonic() - began >= 0.3
        until(lambda: door.scp._listeners[0].waiting == 0, "nothing is left of them")


def test_silent_and_half_open_connections_shut_nobody_out(service: Service) -> None:
    """70 silent and 600 half-open ones from the modality's own address: it is accepted at once, memory is flat."""
    with opened(service, Limits(artim_s=60)) as door, ExitStack() as stack:
        assert greeted(door)
        before = resident(os.getpid())
        others = [stack.enter_context(door.connect()) for _ in range(70)]
        for number in range(600):
            sock = stack.enter_context(door.connect())
            sock.sendall(request()[: number % (len(request()) - 1)])
            others.append(sock)
        threads = threading.active_count()
        assert greeted(door)
        assert greeted(door, "OTHER")
        assert door.scp._listeners[0].waiting <= Limits().connections
        assert door.scp.places.taken <= 2
        assert threads < 60, "no connection has a thread"
        assert resident(os.getpid()) - before < 64 * 1024 * 1024


@pytest.mark.parametrize("limits", [Limits(connections=5, artim_s=60), Limits(connections_per_address=5, artim_s=60),
                                    Limits(buffered_bytes=1000, artim_s=60)], ids=["all", "address", "bytes"])
def test_beyond_each_cap_of_waiting_connections_the_oldest_goes(
    service: Service, limits: Limits
) -> None:
    """Who has just come is let in: the caps cost those who wait longest, or hold most."""
    with opened(service, limits) as door, ExitStack() as stack:
        waiting = [stack.enter_context(door.connect()) for _ in range(8)]
        for sock in waiting:
            sock.sendall(request()[:-1])
        until(lambda: any(map(closed, waiting)), "one of them is closed")
        assert door.accepts()


def test_the_sequence_of_reads_does_not_matter(door: Door) -> None:
    """A request in single bytes is the same request."""
    with door.connect() as raw:
        for byte in request():
            raw.sendall(bytes([byte]))
        assert answer(raw)[:1] == b"\2"
    with door.connect() as raw:
        door.service.trail.clear()
        raw.sendall(request(version=2))
        assert answer(raw) == bytes([3, 0, 0, 0, 0, 4, 0, 1, 2, 2])
    told = {(one.outcome, one.reason) for one in door.service.trail.disclosed}
    assert ("4", "protocol version") in told


# — who —


def test_who_is_refused_is_told_why_by_the_standard_and_it_is_on_record(service: Service) -> None:
    """PS3.8 §9.3.4; one record of each refusal, with its reason and outcome 8 (ATNA)."""
    registry = service.imaging.registry
    for title, addresses in (("ELSEWHERE", ["192.0.2.7"]), ("NOWHERE", []), ("OFF", ["loopback"])):
        registry.register(ae.checked(title, "hospital-a", addresses=addresses))
    registry.set_active("OFF", False)
    with opened(service, Limits()) as door:
        for title, called, reason in (
            ("STRANGER", "VIGIE", CALLING), ("ELSEWHERE", "VIGIE", CALLING), ("NOWHERE", "VIGIE", CALLING),
            ("OFF", "VIGIE", CALLING), ("MODALITY", "ANOTHER", CALLED),
        ):
            service.trail.clear()
            assert refusal(door, title, called) == (1, 1, reason), title
            (record,) = service.trail.disclosed
            assert record.outcome == "8"
            assert f"calling={title}" in record.query
            assert dict(record.detail)["operation"] == "dimse-association"
        registry.set_active("OFF", True)
        assert door.accepts("OFF")


def test_any_called_title_is_answered_to_where_the_deployment_says_so(service: Service) -> None:
    """PS3.8 §9.3.2: the check of the called AE title is a setting."""
    with opened(service, Limits(), ae_titles=("ONE", "*")) as door:
        association = door.associate(called="WHATEVER")
        assert association.is_established
        association.release()


@pytest.mark.parametrize(
    ("addresses", "peer", "believed"),
    [
        (("192.0.2.7/32",), "192.0.2.7", True), (("192.0.2.0/24",), "192.0.2.9", True),
        (("192.0.2.0/24",), "198.51.100.1", False), (("loopback",), "127.0.0.9", True), (("loopback",), "::1", True),
        (("loopback",), "192.0.2.7", False), ((), "127.0.0.1", False), (("2001:db8::/32",), "2001:db8::5", True),
        (("192.0.2.7/32",), "::ffff:192.0.2.7", True), (("192.0.2.7/32",), "not an address", False),
        (("fe80::/10",), "fe80::1%eth0", True),
    ],
)
def test_without_tls_a_title_is_believed_from_its_addresses_alone(
    addresses: tuple[str, ...], peer: str, believed: bool
) -> None:
    """An AE title is a claim (PS3.15 §B.12 is the remedy): without an address it is believed from nowhere."""
    entity = ApplicationEntity("A", "hospital-a", addresses, ("00" * 32,))
    assert entity.is_believed(peer, None) is believed
    assert not ApplicationEntity("A", "hospital-a", addresses, active=False).is_believed(peer, None)


@pytest.mark.parametrize(
    "wrong",
    [{"title": ""}, {"title": "x" * 17}, {"title": "a\\b"}, {"title": "é"}, {"addresses": ["300.1.1.1"]},
     {"addresses": ["10.0.0.0/40"]}, {"certificates": ["abc"]}, {"sop_classes": ["CT"]}],
    ids=str,
)
def test_what_cannot_be_registered_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"AE title|address|fingerprint|UID"):
        ae.checked(**{"title": "A", "organization": "hospital-a", **wrong})


# — how many —


def test_one_title_address_or_organisation_never_holds_all_places(service: Service) -> None:
    """PS3.8 Table 9-21: rejected-transient, local limit exceeded; the place is free again after the association."""
    with opened(service, Limits(associations=4, per_ae=2, per_address=10, artim_s=30)) as door:
        held = [door.associate() for _ in range(2)]
        assert all(one.is_established for one in held)
        assert refusal(door) == LOCAL_LIMIT
        assert door.accepts("OTHER"), "another title has its places"
        held.pop().release()
        until(door.accepts, "the place is free again")
        for one in held:
            one.release()
        until(lambda: door.scp.places.taken == 0, "all places are free")


@pytest.mark.parametrize("limits", [Limits(associations=1), Limits(per_address=1), Limits(per_organization=1)],
                         ids=["all", "address", "organisation"])
@pytest.mark.parametrize("ending", ["release", "abort", "close"])
def test_each_cap_of_associations_holds_and_each_end_frees(
    service: Service, limits: Limits, ending: str
) -> None:
    """State × limit: however an association ends, its place is free for the next."""
    service.imaging.register_ae("SECOND", "hospital-a", "loopback")
    with opened(service, limits) as door:
        held = door.associate()
        assert held.is_established
        assert refusal(door, "SECOND") == LOCAL_LIMIT
        if ending == "release":
            held.release()
        elif ending == "abort":
            held.abort()
        else:
            held.dul.socket.socket.close()
        until(lambda: door.accepts("SECOND"), "the place is free again")
        until(lambda: door.scp.places.taken == 0, "and counted right")


def test_requests_that_wait_to_be_looked_up_are_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """PS3.8 Table 9-21: rejected-transient, temporary congestion; a slow registry does not pile up connections."""
    go, decide = threading.Event(), Scp._decide

    def slow(*given: Any) -> None:
        go.wait(20)
        decide(*given)

    monkeypatch.setattr(Scp, "_decide", slow)
    with opened(service, Limits(waiting=2, artim_s=600)) as door, ExitStack() as stack:
        try:
            waiting = [stack.enter_context(door.connect()) for _ in range(2)]
            for sock in waiting:
                sock.sendall(request())
            until(lambda: door.scp._pending == 2, "they are being looked up")
            assert refusal(door) == (2, 3, 1)
        finally:
            go.set()
        assert [answer(sock)[:1] for sock in waiting] == [b"\2", b"\2"]
        for _ in range(3):
            assert greeted(door), "and those who waited are forgotten"


def test_a_registry_that_cannot_be_asked_is_a_refusal_on_record(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PS3.8 §9.3.4: it may be tried again; the record says that the fault is the server's (outcome 12)."""
    def away(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("gone"))

    with opened(service, Limits()) as door:
        service.trail.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "find", away)
            assert refusal(door) == (2, 3, 1)
        (record,) = service.trail.disclosed
        assert (record.outcome, record.reason) == ("12", "the database is not available")
        assert door.accepts()


def test_an_association_that_cannot_begin_holds_no_place(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is left, say: the peer is told, and the next one is let in."""
    def broken(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with opened(service, Limits(associations=1)) as door:
        with monkeypatch.context() as patch:
            patch.setattr(Scp, "_begin", broken)
            for _ in range(2):
                assert refusal(door) == (2, 3, 1)
        assert door.scp.places.taken == 0
        assert door.accepts()


# — within an association —


@contextmanager
def associated(door: Door, *classes: str) -> Iterator[socket.socket]:
    with door.connect() as raw:
        raw.sendall(request(classes=classes or (Verification,)))
        accepted = raw.recv(4096)
        assert accepted[:1] == b"\2"
        yield raw


def pdv(data: bytes, control: int, context: int = 1) -> bytes:
    return pdu(fragment(data, control, context))


def fragment(data: bytes, control: int, context: int = 1) -> bytes:
    """A presentation-data-value item (PS3.8 §9.3.5.1)."""
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def pdu(items: bytes) -> bytes:
    """A P-DATA-TF PDU (PS3.8 §9.3.5)."""
    return struct.pack(">BBI", 4, 0, len(items)) + items


NO_DATA_SET, WITH_DATA_SET = b"\1\1", b"\0\0"
ECHO, STORE, FIND, CANCEL = 0x30, 0x01, 0x20, 0xFFF


def command(field: int, data_set: bytes = NO_DATA_SET, *, sop_class: str = Verification, **more: int) -> bytes:
    """A command set by hand (PS3.7 §6.3.1); `number`: its Message ID."""
    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0, number, len(value)) + value

    uid = sop_class.encode()
    number = struct.pack("<H", more.get("number", 1))
    body = element(2, uid + b"\0" * (len(uid) % 2)) + element(0x100, struct.pack("<H", field))
    body += element(0x120 if field == CANCEL else 0x110, number)
    if field in (STORE, FIND):
        body += element(0x700, b"\0\0")
    body += element(0x800, data_set)
    if field == STORE:
        body += element(0x1000, b"1.2.3.4\0")
    return element(0, struct.pack("<I", len(body))) + body


def echo() -> bytes:
    """A C-ECHO-RQ command set."""
    return command(ECHO)


def store() -> bytes:
    """A C-STORE-RQ command set of a CT image; the data set is to follow."""
    return command(STORE, WITH_DATA_SET, sop_class=CTImageStorage)


PATIENT = Limits(artim_s=600, pdu_s=600, network_s=600, dataset_grace_s=600)
"""Nothing ends by time while a test runs: what ends is ended by its size or form."""
ABORT, DATA = b"\7", b"\4"
LONGEST = 131072 + 12


@pytest.mark.parametrize(
    "pdus",
    [
        struct.pack(">BBI", 4, 0, 0xFFFFFFFF),
        struct.pack(">BBI", 4, 0, LONGEST + 1),
        struct.pack(">BBI", 5, 0, 0xFFFFFFFF),
        struct.pack(">BBI", 6, 0, 5),
        struct.pack(">BBI", 7, 0, 5),
        struct.pack(">BBI", 1, 0, PATIENT.request_bytes + 1),
        struct.pack(">BBI", 2, 0, PATIENT.request_bytes + 1),
        pdv(bytes(60_000), 1) * 2,
        pdv(echo(), 3).replace(b"\x30\0\0\0\x10\1", b"\xff\xff\0\0\x10\1"),
        pdv(echo(), 3, context=99),
        pdv(b"\0" * 10, 2),
        pdv(b"no command", 3),
        pdv(command(FIND, WITH_DATA_SET), 3),
        pdv(store(), 3),
        pdv(command(STORE, WITH_DATA_SET), 3),
        pdv(store(), 3, context=3) + pdv(b"\0" * 10, 2, context=1),
        pdv(store()[:20], 1, context=5) + pdv(store()[20:], 3, context=3),
        pdv(store(), 3, context=3) + pdv(echo(), 3, context=3),
        pdv(b"\0" * 10, 0),
    ],
    ids=["4 GiB", "a byte too long", "release of 4 GiB", "release response", "abort", "request in an association",
         "accept in an association", "command set", "unknown command", "unknown context", "data set first", "garbage",
         "service that is not offered, before its data set", "store in the context of verification",
         "store of verification", "data set in another context", "command set in two contexts",
         "two command sets", "data set first, and more of it"],
)
def test_what_is_beyond_the_limits_is_aborted_at_once(service: Service, pdus: bytes) -> None:
    """PS3.8 §9.2.3 (AA-8), §9.3.1 (PDU length), §9.3.5.1 (a fragment's context), §D.1; PS3.7 §6.3: A-ABORT without
    waiting for what was claimed, and nobody else is disturbed."""
    with opened(service, PATIENT) as door:
        with associated(door, Verification, CTImageStorage, "1.2.840.10008.5.1.4.1.1.4") as raw:
            raw.sendall(pdus)
            assert answer(raw)[:1] == ABORT
            until(lambda: door.scp.places.taken == 0, "its place is free")
        assert door.accepts()


def test_who_goes_on_after_what_is_too_long_is_not_read(service: Service) -> None:
    """PS3.8 §9.2.3 (Sta13): the connection is closed once the A-ABORT is said, whatever still comes."""
    with opened(service, PATIENT) as door, associated(door) as raw:
        raw.sendall(struct.pack(">BBI", 4, 0, LONGEST + 1))
        with pytest.raises(ConnectionError):  # noqa: PT012 - whichever of them shows it
            for _ in range(4096):
                raw.sendall(bytes(65536))
        until(lambda: door.scp.places.taken == 0, "its place is free")


def test_a_pdu_of_the_longest_length_is_read_and_a_byte_more_is_not(service: Service) -> None:
    """PS3.8 §D.1: the maximum length received; 12 bytes more for those who count the headers beside it."""
    head = fragment(store(), 3)
    for length, said in ((LONGEST, DATA), (LONGEST + 1, ABORT)):
        with opened(service, PATIENT) as door, associated(door, CTImageStorage) as raw:
            raw.sendall(pdu(head + fragment(bytes(length - len(head) - 6), 2)))
            assert answer(raw)[:1] == said, length


@pytest.mark.parametrize(
    ("name", "pdus", "classes"),
    [
        ("command_bytes", pdv(echo(), 3), (Verification,)),
        ("identifier_bytes", pdv(command(ECHO, WITH_DATA_SET), 3) + pdv(bytes(1000), 2), (Verification,)),
        ("dataset_bytes", pdv(store(), 3) + pdv(bytes(1000), 2), (CTImageStorage,)),
    ],
)
def test_each_part_of_a_message_may_have_its_limit_and_not_a_byte_more(
    service: Service, name: str, pdus: bytes, classes: tuple[str, ...]
) -> None:
    """PS3.7 §6.3.1: a message is a command set and perhaps a data set; an instance's limit is not an identifier's."""
    size = 1 + (len(echo()) if name == "command_bytes" else 1000)  # with the message control header
    others = {"identifier_bytes": 10 if name == "dataset_bytes" else 10_000, "dataset_bytes": 10_000}
    for limit, said in ((size, DATA), (size - 1, ABORT)):
        limits = replace(PATIENT, **{**others, name: limit})
        with opened(service, limits) as door, associated(door, *classes) as raw:
            raw.sendall(pdus)
            assert answer(raw)[:1] == said, limit


def test_cancels_of_nothing_do_not_pile_up(service: Service) -> None:
    """PS3.7 §9.3.2.3: a C-CANCEL has no answer, so nothing else bounds how many a peer sends."""
    with opened(service, PATIENT) as door, associated(door) as raw:
        raw.sendall(b"".join(pdv(command(CANCEL, number=number), 3) for number in range(50)))
        (association,) = door.scp._sessions
        until(lambda: bool(association.dimse.cancel_req), "they are read")
        raw.sendall(pdv(command(CANCEL, number=99), 3) + pdv(b"\0", 2))  # and what comes after them ends it
        assert answer(raw)[:1] == ABORT
        assert len(association.dimse.cancel_req) <= PATIENT.requests


def test_the_fragments_of_a_message_are_of_one_context(door: Door) -> None:
    """PS3.8 §E.1: what comes under another context is no part of the message, and is never stored as one."""
    association = door.associate("MODALITY", CTImageStorage, "1.2.840.10008.5.1.4.1.1.4")
    assert len(association.accepted_contexts) == 2
    raw = association.dul.socket.socket
    raw.sendall(pdv(store(), 3, context=1) + pdv(bytes(100), 2, context=3))
    until(lambda: bool(association.is_aborted), "it is aborted")
    assert door.service.trail.disclosed == [] or door.service.trail.disclosed[-1].interaction != "dicom-store"


@pytest.mark.parametrize("more", [0, 1])
def test_requests_without_waiting_for_answers_are_bounded(
    service: Service, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """PS3.7 §D.3.3.3: asynchronous operations are not negotiated; a flood does not pile up in memory."""
    busy, go = threading.Event(), threading.Event()
    serve = Scp._serve

    def slow(*given: Any) -> Any:
        busy.set()
        go.wait(20)
        return serve(*given)

    monkeypatch.setattr(Scp, "_serve", slow)
    with opened(service, PATIENT) as door:
        try:
            with associated(door) as raw:
                raw.sendall(pdv(echo(), 3))
                assert busy.wait(20)
                raw.sendall(pdv(echo(), 3) * (PATIENT.requests + more))
                if more:
                    assert answer(raw)[:1] == ABORT
                else:
                    go.set()
                    one, said = len(answer(raw)), b""
                    while len(said) < PATIENT.requests * one and (piece := raw.recv(4096)):
                        said += piece
                    assert len(said) == PATIENT.requests * one
        finally:
            go.set()
        until(lambda: door.scp.places.taken == 0, "its place is free")


def test_a_pdu_that_drips_and_a_data_set_that_crawls_end_the_association(service: Service) -> None:
    """A deadline for a PDU that has begun, a minimum rate for an instance."""
    limits = Limits(pdu_s=0.5, dataset_grace_s=0.5, dataset_bytes_per_s=1_000_000)
    with opened(service, limits) as door:
        with associated(door) as raw:
            raw.sendall(struct.pack(">BBI", 4, 0, 100) + b"\0")
            until(lambda: closed(raw), "the deadline of the PDU")
        association = door.associate("MODALITY", CTImageStorage)
        raw = association.dul.socket.socket
        raw.sendall(pdv(store(), 3))
        with pytest.raises(OSError):  # noqa: PT012 - whichever of them shows it
            for _ in range(500):
                raw.sendall(pdv(bytes(10), 0))
                time.sleep(0.05)
        association.kill()
        until(lambda: door.scp.places.taken == 0, "its place is free")


def test_an_idle_association_ends(service: Service) -> None:
    with opened(service, Limits(network_s=0.5)) as door, associated(door) as raw:
        until(lambda: closed(raw) or answer(raw)[:1] == b"\7", "without a word")
        until(lambda: door.scp.places.taken == 0, "its place is free")


# — what is stored —


def ct(**changes: Any) -> pydicom.Dataset:
    from tests.dicomweb.conftest import PYDICOM_FILES

    dataset = pydicom.dcmread(PYDICOM_FILES / "CT_small.dcm")
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize(
    "sop_class",
    ["1.3.12.2.1107.5.9.1", "1.2.840.113619.4.26", "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.999.1"],
    ids=["siemens", "ge", "retired", "newer"],
)
def test_any_storage_class_is_stored(door: Door, sop_class: str) -> None:
    """PS3.4 §B.3: private, retired and newer classes, as at STOW-RS."""
    from pynetdicom import _config

    dataset = ct(SOPClassUID=sop_class, SOPInstanceUID=f"1.2.3.{len(sop_class)}")
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    association = door.associate("MODALITY", sop_class)
    assert [str(one.abstract_syntax) for one in association.accepted_contexts] == [sop_class]
    assert not _config.UNRESTRICTED_STORAGE_SERVICE
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()


def test_what_is_no_storage_class_or_not_this_titles_gets_no_context(service: Service) -> None:
    """PS3.8 §9.3.3.2 result 3: neither other services nor a class that the title may not store."""
    service.imaging.registry.register(
        ae.checked("CT-ONLY", "hospital-a", addresses=["loopback"], sop_classes=[CTImageStorage])
    )
    asked = (CTImageStorage, "1.2.840.10008.5.1.4.1.1.4", ModalityWorklistInformationFind, "1.2.840.10008.1.3.10")
    with opened(service, Limits()) as door:
        for title, accepted in (("MODALITY", set(asked[:2])), ("CT-ONLY", {CTImageStorage})):
            association = door.associate(title, *asked)
            assert {str(one.abstract_syntax) for one in association.accepted_contexts} == set(map(str, accepted))
            association.release()


def test_a_class_that_is_not_that_of_the_context_is_refused(door: Door) -> None:
    """PS3.7 §9.1.1.1.9: 0122."""
    association = door.associate("MODALITY", CTImageStorage)
    dataset = ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    for context in association._accepted_cx.values():
        context.abstract_syntax = "1.2.840.10008.5.1.4.1.1.4"
    assert association.send_c_store(dataset).Status == 0x0122
    association.release()


def test_a_refusal_says_why(door: Door) -> None:
    """PS3.7 §9.1.1.2: Error Comment; C111 for another object under a stored UID."""
    association = door.associate("MODALITY", CTImageStorage)
    assert association.send_c_store(ct()).Status == 0x0000
    refused = association.send_c_store(ct(ImageComments="another"))
    assert refused.Status == 0xC111
    assert refused.ErrorComment == "another object is stored under this SOP Instance UID"
    association.release()


def test_a_full_disk_is_a_status_and_the_association_goes_on(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PS3.4 Table B.2-1: A700, out of resources; the next instance may fit."""
    import dicomweb.dimse.datasets as datasets

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    association = door.associate("MODALITY", CTImageStorage)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "IN_MEMORY_BYTES", 100)
        patch.setattr("tempfile.TemporaryFile", full)
        assert association.send_c_store(ct()).Status == 0xA700
    assert association.send_c_store(ct()).Status == 0x0000
    association.release()


def test_instances_that_are_read_at_once_are_bounded(door: Door) -> None:
    """The header of an instance is in memory while it is read: those beyond the number wait for their turn."""
    association = door.associate("MODALITY", CTImageStorage)
    turns, statuses = door.scp._desk.turns, list[int]()
    for _ in range(DECODED_AT_ONCE):
        assert turns.acquire(blocking=False)
    assert not turns.acquire(blocking=False)
    storing = threading.Thread(target=lambda: statuses.append(association.send_c_store(ct()).Status))
    storing.start()
    storing.join(0.3)
    assert statuses == []
    for _ in range(DECODED_AT_ONCE):
        turns.release()
    storing.join(20)
    assert statuses == [0x0000]
    association.release()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MODALITY = """
import sys, pydicom
from pynetdicom import AE, _config
_config.STORE_SEND_CHUNKED_DATASET = True
entity = AE("MODALITY")
entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.1.2.1")
association = entity.associate("127.0.0.1", int(sys.argv[1]), ae_title="VIGIE")
print(hex(association.send_c_store(sys.argv[2]).Status))
association.release()
"""


def test_a_large_object_lies_in_a_file_while_it_arrives(door: Door, tmp_path: Path) -> None:
    """images.md D: what one object of 256 MB costs in memory is not its size; nothing is left in the spool."""
    frames, side = 512, 512
    dataset = ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", SOPInstanceUID="1.2.3.256", NumberOfFrames=frames,
                 Rows=side, Columns=side)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PixelData = b""
    del dataset[0xFFFCFFFC]
    file = tmp_path / "large.dcm"
    with file.open("wb") as target:
        dataset.save_as(target, enforce_file_format=True)
        size = frames * side * side * 2
        target.seek(-12, 2)  # the empty pixel data: tag, VR, reserved, length
        target.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size))
        for number in range(size // 65536):
            target.write(bytes([number % 256]) * 65536)
    before, most = resident(os.getpid()), 0
    sender = subprocess.Popen(
        [sys.executable, "-c", MODALITY, str(door.port), str(file)], stdout=subprocess.PIPE, text=True
    )
    while sender.poll() is None:
        most = max(most, resident(os.getpid()))
        time.sleep(0.02)
    assert sender.communicate()[0].split() == ["0x0"]
    assert most - before < 64 * 1024 * 1024, f"{(most - before) // 1024**2} MB"
    assert not [one for one in tmp_path.iterdir() if one.is_file() and one != file and one.suffix not in (
        ".db", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".lock") and "sqlite" not in one.name]


# — records —


def test_an_association_is_one_record_unless_its_studies_are(door: Door, files: list[bytes]) -> None:
    """ATNA: C-ECHO and an association without a request are recorded; what is stored has the record of its study."""
    trail = door.service.trail
    trail.clear()
    association = door.associate()
    association.send_c_echo()
    association.send_c_echo()
    association.release()
    until(lambda: len(trail.disclosed) == 1, "the association is recorded")
    assert dict(trail.disclosed[0].detail) == {
        "operation": "dimse-association", "Verification": "2", "ended": "released",
    }
    trail.clear()
    door.associate().abort()
    until(lambda: len(trail.disclosed) == 1, "one without a request")
    assert dict(trail.disclosed[0].detail) == {"operation": "dimse-association", "ended": "aborted"}
    trail.clear()
    association = door.associate("MODALITY", CTImageStorage)
    for data in files:
        assert association.send_c_store(pydicom.dcmread(io.BytesIO(data))).Status == 0x0000
    association.release()
    until(lambda: door.scp.places.taken == 0, "it is over")
    assert [(one.interaction, one.type) for one in trail.disclosed] == [("dicom-store", "ImagingStudy")]
    assert [one for one in trail.appended if one.interaction == "dicom-store"] == []


def test_what_an_association_had_refused_is_one_record(door: Door, files: list[bytes]) -> None:
    """One record of all that failed, with the statuses: not one more per instance, and none in the commits."""
    trail = door.service.trail
    first = pydicom.dcmread(io.BytesIO(files[0]))
    association = door.associate("MODALITY", CTImageStorage)
    assert association.send_c_store(first).Status == 0x0000
    trail.clear()
    for comment in ("a", "b", "c"):
        first.ImageComments = comment
        assert association.send_c_store(first).Status == 0xC111
    door.service.permit.forbidden.add(("hospital-a", "ImagingStudy"))
    first.SOPInstanceUID = "1.2.3.4.5"
    assert association.send_c_store(first).Status == 0x0124
    door.service.permit.forbidden.clear()
    association.release()
    until(lambda: door.scp.places.taken == 0, "it is over")
    record, stored = sorted(trail.disclosed, key=lambda one: one.outcome, reverse=True)
    assert (record.interaction, record.outcome) == ("dicom-store", "8")
    assert (stored.interaction, stored.outcome) == ("dicom-store", "0")
    detail = dict(record.detail)
    assert (detail["refused"], detail["reasons"]) == ("4", "0124 C111")
    assert [one for one in trail.appended if one.outcome != "0"] == []


def test_a_scanner_of_ports_does_not_fill_the_log(service: Service) -> None:
    """Counted, and written by time or at the end: a flood is told by its number."""
    with opened(service, Limits(artim_s=20)) as door:
        service.trail.clear()
        for _ in range(100):
            with door.connect() as raw:
                raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer(raw)
        for _ in range(60):
            assert refusal(door, "STRANGER") == (1, 1, CALLING)
        assert len(service.trail.disclosed) <= 21
    attempts = [int(dict(one.detail).get("attempts", 1)) for one in service.trail.disclosed]
    assert sum(attempts) == 160
    assert len(attempts) <= 24


def test_networks_that_say_nothing_are_counted_in_bounded_memory(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond so many networks they are counted together; none is lost."""
    monkeypatch.setattr(records, "_MOST", 3)
    with opened(service, Limits()) as door:
        service.trail.clear()
        for number in range(10):
            door.scp._records.silent(f"198.51.{number}.1", Silence.LATE)
        assert len(door.scp._records._silences) == 4
    assert sum(int(dict(one.detail)["attempts"]) for one in service.trail.disclosed) == 10


# — TLS —


@dataclass
class Party:
    certificate: Path
    key: Path

    @property
    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Party]:
    """Certificates of one authority, made when first asked for; a name that begins with "self" signs itself."""
    folder = tmp_path_factory.mktemp("certificates")
    made: dict[str, Party] = {}
    authority_key = ec.generate_private_key(ec.SECP256R1())

    def issue(name: str) -> Party:
        if name in made:
            return made[name]
        own = authority_key if name == "authority" else ec.generate_private_key(ec.SECP256R1())
        is_own = name == "authority" or name.startswith("self")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if is_own else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_own, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(own if is_own else authority_key, hashes.SHA256())
        )
        made[name] = Party(folder / f"{name}.pem", folder / f"{name}.key")
        made[name].certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made[name].key.write_bytes(own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))
        return made[name]

    issue("authority")
    return issue


@pytest.fixture
def secure(service: Service, parties: Callable[[str], Party]) -> Iterator[Door]:
    registry = service.imaging.registry
    prints = {name: tls.fingerprint(parties(name).der) for name in ("modality", "other")}
    registry.register(ae.checked("SECURE", "hospital-a", certificates=[prints["modality"]]))
    registry.register(ae.checked("SECURE_B", "hospital-b", certificates=[prints["other"]]))
    registry.register(
        ae.checked("SECURE_FAR", "hospital-a", addresses=["192.0.2.7"], certificates=[prints["modality"]])
    )
    registry.register(ae.checked("PLAIN", "hospital-a", addresses=["loopback"]))
    scp = service.imaging.scp(limits=Limits(artim_s=20))
    server = parties("server")
    context = tls.server_context(server.certificate, server.key, parties("authority").certificate)
    try:
        yield Door(service, scp, scp.start_tls("127.0.0.1", 0, context))
    finally:
        scp.stop()


def dcmtk(program: str, door: Door, title: str, parties: Callable[[str], Party], who: str | None, *more: str) -> Any:
    if shutil.which(program) is None and not os.environ.get("CI"):
        pytest.skip(f"{program} (dcmtk) is not installed")
    command = [program, "-aet", title, "-aec", "VIGIE", "+cf", str(parties("authority").certificate)]
    if who is None:
        command += ["+tla"]
    else:
        command += ["+tls", str(parties(who).key), str(parties(who).certificate)]
    return subprocess.run(
        [*command, "127.0.0.1", str(door.port), *more], capture_output=True, text=True, timeout=60, check=False
    )


def test_storescu_stores_over_tls(
    secure: Door, parties: Callable[[str], Party], files: list[bytes], tmp_path: Path
) -> None:
    """PS3.15 §B.12: both sides show certificates; the fingerprint is bound to the AE title."""
    file = tmp_path / "one.dcm"
    file.write_bytes(files[0])
    done = dcmtk("storescu", secure, "SECURE", parties, "modality", str(file))
    assert done.returncode == 0, done.stderr
    until(lambda: bool(secure.service.resources("ImagingStudy")), "it is stored")


@pytest.mark.parametrize(
    ("title", "who", "told"),
    [
        ("SECURE", "other", "Calling AE Title Not Recognized"),
        ("SECURE", "self-made", None),
        ("SECURE", None, None),
        ("PLAIN", None, None),
        ("SECURE_FAR", "modality", "Calling AE Title Not Recognized"),
        ("PLAIN", "modality", "Calling AE Title Not Recognized"),
        ("UNKNOWN", "modality", "Calling AE Title Not Recognized"),
    ],
    ids=["another's certificate", "unknown authority", "no certificate", "no certificate from its address",
         "wrong address", "no certificate registered", "unknown title"],
)
def test_whoever_is_not_the_holder_of_the_title_is_refused(
    secure: Door, parties: Callable[[str], Party], title: str, who: str | None, told: str | None
) -> None:
    """A certificate of the authority is not enough: it must be that of the title, from its address."""
    done = dcmtk("echoscu", secure, title, parties, who)
    assert done.returncode != 0
    assert told is None or told in done.stderr
    secure.scp._records.flush()
    (record,) = secure.service.trail.disclosed
    assert record.outcome == "8"
    assert dcmtk("echoscu", secure, "SECURE", parties, "modality").returncode == 0


def test_plain_dimse_and_half_handshakes_on_the_tls_port_shut_nobody_out(
    secure: Door, parties: Callable[[str], Party]
) -> None:
    with ExitStack() as stack:
        for number in range(100):
            sock = stack.enter_context(secure.connect())
            sock.sendall(b"\x16\3\1" if number % 2 else request())
        assert dcmtk("echoscu", secure, "SECURE", parties, "modality").returncode == 0


@pytest.mark.parametrize(
    ("cipher", "accepted"),
    [("ECDHE-ECDSA-AES256-GCM-SHA384", True), ("ECDHE-ECDSA-AES256-SHA384", False), ("ECDHE-ECDSA-AES128-SHA", False)],
)
def test_tls_1_2_is_spoken_with_authenticated_ciphers_alone(
    secure: Door, parties: Callable[[str], Party], cipher: str, accepted: bool
) -> None:
    """PS3.15 §B.12; RFC 9325 §4.2 (no CBC), §3.5 (no renegotiation)."""
    context = ssl.create_default_context(cafile=str(parties("authority").certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    context.load_cert_chain(parties("modality").certificate, parties("modality").key)
    with secure.connect() as raw:
        if accepted:
            with context.wrap_socket(raw, server_hostname="localhost") as spoken:
                assert spoken.version() == "TLSv1.2"
        else:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(raw, server_hostname="localhost")
    server = parties("server")
    own = tls.server_context(server.certificate, server.key, parties("authority").certificate)
    assert own.options & ssl.OP_NO_RENEGOTIATION


def test_a_large_data_set_comes_whole_over_tls(
    secure: Door, parties: Callable[[str], Party], tmp_path: Path
) -> None:
    """Bytes that TLS has decrypted already are seen, though the socket has none."""
    dataset = ct(Rows=2048, Columns=2048, SOPInstanceUID="1.2.3.77")
    dataset.PixelData = os.urandom(2048 * 2048 * 2)
    file = tmp_path / "large.dcm"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(file, enforce_file_format=True)
    done = dcmtk("storescu", secure, "SECURE", parties, "modality", str(file))
    assert done.returncode == 0, done.stderr


# — the table —


def test_every_row_of_the_table_is_in_the_conformance_statement() -> None:
    """PS3.2: what is offered is what is stated; docs/dicom-conformance.md has one line for each service."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "dicom-conformance.md").read_text(encoding="utf-8")
    for row in SERVICES:
        assert f"| {row.name} | {row.role} | {row.operation} | {row.sop_classes} |" in page
