"""The reader of multipart bodies against what senders, and attackers, may write (RFC 2046 §5.1.1)."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dicomweb import multipart
from dicomweb.multipart import CHUNK, SPOOL_BYTES
from dicomweb.phantom import Phantom, series
from resources.budgets import PART_HEADER_BYTES, PREAMBLE_BYTES
from resources.outcomes import FhirError, Malformed, TooLarge
from tests.dicomweb.conftest import Service, stow_body

MAX_HEADER_BYTES, MAX_PREAMBLE_BYTES = PART_HEADER_BYTES.value, PREAMBLE_BYTES.value
TYPE = b"Content-Type: application/dicom"


class Pieces:
    """A source that hands over exactly these pieces, one at each read."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        places = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
        self._pieces = [data[a:b] for a, b in pairwise(places) if b > a]

    def read(self, size: int = -1, /) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


Read = list[tuple[dict[str, str], bytes, bool]]


def read(data: bytes, cuts: list[int] | None = None, **limits: int) -> tuple[Read, str]:
    """The parts, and the name of the fault that ended them."""
    found: Read = []
    try:
        for body in multipart.parts(Pieces(data, cuts or []), "b", max_bytes=1 << 40, **limits):
            with multipart.closing(body):
                found.append((body.headers, bytes(body.data[:]), body.ended))
    except FhirError as error:
        return found, type(error).__name__
    return found, ""


def contents(data: bytes) -> list[bytes]:
    found, fault = read(data)
    assert fault == ""
    return [one for _, one, _ in found]


# What may stand where delimiters do, or nearly: a body of these is nearly always nearly well-formed.
ATOMS = st.sampled_from(
    [b"--b", b"\r\n--b", b"\n--b", b"\r\n--b--", b"\n--b--", b"\r\n", b"\n", b"\r", b"-", b"--", b" ", b"\t", b":",
     TYPE + b"\r\n", TYPE + b"\n", b"\r\n\r\n", b"\n\n", b"x", b"\0", b"--b\r\n", b"--b\n", b"b"]
)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([b"", b"--b\r\n" + TYPE + b"\r\n\r\n", b"--b\n" + TYPE + b"\n\n"]),
    st.lists(ATOMS, max_size=30).map(b"".join),
    st.lists(st.integers(0, 300), max_size=20),
)
def test_any_cut_of_the_bytes_into_pieces_gives_the_same_parts(head: bytes, rest: bytes, cuts: list[int]) -> None:
    """A body has one meaning, however the network delivers it."""
    data = head + rest
    whole = read(data)
    assert read(data, cuts) == whole
    assert read(data, list(range(len(data)))) == whole


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.sampled_from([b"\r\n", b"\n"]),
    st.sampled_from([b"", b" ", b"\t  "]), st.lists(st.integers(0, 400), max_size=10),
)
def test_any_content_comes_back_byte_for_byte(
    items: list[bytes], end: bytes, padding: bytes, cuts: list[int]
) -> None:
    """With CRLF or LF, and blanks after the delimiter (transport padding)."""
    assume(not any(b"--b" in one for one in items))
    if end == b"\n":  # the return before a bare line feed cannot be told from the end of a line
        assume(not any(one.endswith(b"\r") for one in items))
    body = b"".join(b"--b" + padding + end + TYPE + end + end + one + end for one in items) + b"--b--" + end
    found, fault = read(b"preamble" + end + body + b"epilogue", cuts)
    assert (fault, [(one, ended) for _, one, ended in found]) == ("", [(one, True) for one in items])
    assert {headers["content-type"] for headers, _, _ in found} == {"application/dicom"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"--b\r\n" + TYPE + b"\r\n\r\none\r\n--b--\r\n" + b"x" * 3 * MAX_HEADER_BYTES, [b"one"]),  # epilogue
        (b"--b\n" + TYPE + b"\n\none\n--b--\n" + b"x" * 3 * MAX_HEADER_BYTES + b"\n--b\n\ntwo\n--b--", [b"one"]),
        (b"--b\n" + TYPE + b"\n\none\n--b--" + b"x" * 3 * MAX_HEADER_BYTES, [b"one"]),
        (b"--b\r\n" + TYPE + b"\r\n\r\na\r\n--bc\r\nd\r\n--b--", [b"a\r\n--bc\r\nd"]),  # a longer boundary is content
        (b"--b\n" + TYPE + b"\n\na\n--bc\nd\n--b--", [b"a\n--bc\nd"]),
        (b"--b\r\n" + TYPE + b"\r\n\r\na\n--b\nc\r\n--b--", [b"a\n--b\nc"]),  # LF is content where lines end in CRLF
        (b"x--b\r\n\r\n\r\n--b\r\n\r\none\r\n--b--", [b"one"]),  # the first delimiter begins a line
        (b"--b\r\nCONTENT-TYPE:x\r\n\r\none\r\n--b--", [b"one"]),
        (b"--b\r\n\r\none\r\n--b\r\n", [b"one"]),
        (b"--b--", []),
    ],
)  # fmt: skip
def test_what_is_delimiter_and_what_is_content(data: bytes, expected: list[bytes]) -> None:
    assert contents(data) == expected


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_part_that_no_delimiter_follows_is_marked(end: bytes) -> None:
    """RFC 2046 §5.1.1 demands the final delimiter: the sender may have stopped anywhere."""
    one = b"--b" + end + TYPE + end + end + b"one" + end
    first, second = read(one + one)[0]
    assert (first[1:], second[1:]) == ((b"one", True), (b"one" + end if end == b"\n" else b"one", False))
    assert [ended for _, _, ended in read(one + one + b"--b")[0]] == [True, True]


def test_large_parts_lie_in_the_folder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spool files belong to the data folder: the system's own may be small, or memory."""
    monkeypatch.setattr(multipart.tempfile, "tempdir", str(tmp_path / "absent"))
    source = io.BytesIO(b"--b\r\n" + TYPE + b"\r\n\r\n" + bytes(SPOOL_BYTES + 1) + b"\r\n--b--")
    (body,) = multipart.parts(source, "b", max_bytes=1 << 30, folder=str(tmp_path))
    assert len(body.data) == SPOOL_BYTES + 1
    assert not isinstance(body.data, bytes)
    body.close()


# Limits


PART = b"--b\r\n\r\nx\r\n"


@pytest.mark.parametrize(
    ("at_limit", "beyond", "fault"),
    [
        (PART * 5 + b"--b--", PART * 6 + b"--b--", "TooLarge"),
        (b"p" * (MAX_PREAMBLE_BYTES - 7) + b"\r\n" + PART + b"--b--", b"p" * (MAX_PREAMBLE_BYTES - 6) + b"\r\n" + PART,
         "BadRequest"),
        (b"--b\r\nX: " + b"y" * (MAX_HEADER_BYTES - 1) + b"\r\n\r\n\r\n--b--",
         b"--b\r\nX: " + b"y" * MAX_HEADER_BYTES + b"\r\n\r\n\r\n--b--", "TooLarge"),
        (b"--b\r\n" + b"X: y\r\n" * 32 + b"\r\n\r\n--b--", b"--b\r\n" + b"X: y\r\n" * 33 + b"\r\n\r\n--b--",
         "Malformed"),
        (b"--b" + b" " * 500 + b"\r\n\r\nx\r\n--b--", b"--b" + b" " * MAX_PREAMBLE_BYTES + b"\r\n\r\nx", "BadRequest"),
        (b"--b\r\n\r\nx\r\n--b" + b" " * 500 + b"\r\n\r\ny\r\n--b--", b"--b\r\n\r\nx\r\n--b" + b" " * 4 * CHUNK,
         "Malformed"),
    ],
)  # fmt: skip
def test_each_limit_holds_at_the_limit_and_not_one_beyond(at_limit: bytes, beyond: bytes, fault: str) -> None:
    every = [CHUNK * n for n in range(1, 8)]
    assert read(at_limit, every, max_parts=5)[1] == ""
    assert read(beyond, every, max_parts=5)[1] == fault


def test_the_parts_before_a_fault_are_given_first() -> None:
    """In one piece with the fault, too: they are stored and acknowledged."""
    found, fault = read(PART * 6 + b"--b--", max_parts=5)
    assert ([one for _, one, _ in found], fault) == ([b"x"] * 5, "TooLarge")
    found, fault = read(PART + b"--b\r\nno header\r\n\r\n")
    assert ([one for _, one, _ in found], fault) == ([b"x"], "Malformed")


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", b"--b", b"--b\r\nContent-Type: application/dic", b"--b\r\nno colon\r\n\r\nx\r\n--b--",
     b"--b\n" + b"y" * 2 * MAX_HEADER_BYTES, b"--b\r\n: x\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_multipart_body_is_refused(data: bytes) -> None:
    with pytest.raises((Malformed, TooLarge)):
        list(multipart.parts(io.BytesIO(data), "b", max_bytes=1 << 30))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "blanks after the first delimiter": lambda n: b"--b" + b" " * n,
    "blanks after a later delimiter": lambda n: PART + b"--b" + b" " * n,
    "blank lines": lambda n: b"\r\n" * (n // 2),
    "dashes": lambda n: b"-" * n,
    "lines of dashes": lambda n: PART[:-2] + b"\r\n--" * (n // 4),
    "lines in content": lambda n: PART[:-2] + b"\r\n" * (n // 2),
    "near delimiters": lambda n: PART[:-2] + b"\r\n--bx" * (n // 24),
    "near final delimiters": lambda n: PART[:-2] + b"\r\n--b-x" * (n // 28),
    "returns": lambda n: PART[:-2] + b"\r" * n,
    "near delimiters in LF": lambda n: b"--b\n\n" + b"\n--bx" * (n // 5),
    "lines in LF": lambda n: b"--b\n\n" + b"\n" * n,
    "a header line without end in LF": lambda n: b"--b\n" + b"y" * n,
    "header lines in LF": lambda n: b"--b\n" + b"a:b\n" * (n // 4),
    "colons": lambda n: b"--b\r\n" + b"a:" * (n // 2),
}


@pytest.mark.parametrize("name", FLOODS)
def test_the_work_is_linear_in_the_bytes(name: str) -> None:
    """64 MiB of blanks once cost minutes. Four times the bytes are at most about four times the work; squared: 16."""

    def cost(size: int, piece: int) -> float:
        data = FLOODS[name](size)
        times = []
        for _ in range(3):
            began = time.thread_time()
            read(data, list(range(0, len(data), piece)))
            times.append(time.thread_time() - began)
        return min(times)

    n = 1 << 19
    for piece in (CHUNK, 512):
        small, large = cost(n, piece), cost(4 * n, piece)
        assert large < 8 * small + 0.02, (piece, small, large)


# The same through STOW


@pytest.fixture
def three() -> list[bytes]:
    return series(Phantom(slices=3, side=8))


def send(service: Service, body: bytes) -> tuple[int, int, list[tuple[int, str]]]:
    """Status, instances stored, and for each failed item its reason and SOP instance."""
    answer = service.client().post(
        "/dicom-web/studies", data=body, content_type='multipart/related; type="application/dicom"; boundary=xyz'
    )
    told = answer.get_json(force=True)
    failed = [
        (one["00081197"]["Value"][0], one["00081155"].get("Value", [""])[0])
        for one in told.get("00081198", {}).get("Value", [])
    ]
    return answer.status_code, len(told.get("00081199", {}).get("Value", [])), failed


def stored(service: Service) -> int:
    return sum(one["numberOfInstances"] for one in service.resources("ImagingStudy"))


def test_a_last_part_that_may_be_cut_short_is_a_failed_item(service: Service, three: list[bytes]) -> None:
    """It is named, not stored: a cut object under its UID would keep the whole one out for ever (PS3.7 §C.4.3)."""
    body = stow_body(three).removesuffix(b"--xyz--\r\n")
    uid = Phantom(slices=3, side=8).sop_uid(3)
    assert send(service, body) == (202, 2, [(0xC000, uid)])
    assert stored(service) == 2
    assert send(service, stow_body(three[2:]).removesuffix(b"\r\n--xyz--\r\n")) == (400, 0, [(0xC000, uid)])
    assert send(service, stow_body(three)) == (200, 3, [])


def test_a_body_that_breaks_in_the_middle_keeps_what_came_before(service: Service, three: list[bytes]) -> None:
    body = stow_body(three[:2]).removesuffix(b"--xyz--\r\n") + b"--xyz\r\nno header\r\n\r\n"
    assert send(service, body) == (202, 2, [(0xC000, "")])
    assert stored(service) == 2
