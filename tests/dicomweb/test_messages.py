"""Multipart bodies and media types, as senders and viewers really write them."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb import media_types, multipart
from dicomweb.media_types import Choice, accept, choose_frames, choose_instance
from resources.outcomes import Malformed

ELE = "1.2.840.10008.1.2.1"
JLS = "1.2.840.10008.1.2.4.80"
HEADERS = b"Content-Type: application/dicom\r\n\r\n"


class Dribble:
    """A source that gives as many bytes at a time as it is told."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = io.BytesIO(data), size

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(self._size)


def split(data: bytes, boundary: str = "b", size: int = 1 << 20) -> list[bytes]:
    found = []
    for body in multipart.parts(Dribble(data, size), boundary, max_bytes=1 << 30):
        with multipart.closing(body):
            found.append(bytes(body.data[:]))
    return found


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=4),
    st.integers(1, 50),
    st.sampled_from(["b", "0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1", "a'()+_,-./:=?z"]),
)
def test_any_parts_come_back_whatever_the_pieces_they_arrive_in(
    contents: list[bytes], size: int, boundary: str
) -> None:
    """RFC 2046 §5.1.1; binary data may hold line ends and dashes."""
    mark = boundary.encode()
    body = b"".join(b"--" + mark + b"\r\n" + HEADERS + data + b"\r\n" for data in contents) + b"--" + mark + b"--\r\n"
    if any(b"--" + mark in data for data in contents):
        return
    assert split(body, boundary, size) == contents


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"preamble\r\n--b\r\n" + HEADERS + b"one\r\n--b--\r\nepilogue", [b"one"]),
        (b"--b\nContent-Type: application/dicom\n\none\n--b--", [b"one"]),  # LF only
        (b"--b\r\n" + HEADERS + b"one", [b"one"]),  # no final delimiter
        (b"--b\r\n\r\none\r\n--b--", [b"one"]),  # no headers
        (b"--b  \r\n" + HEADERS + b"\r\n--b\r\n" + HEADERS + b"two\r\n--b--", [b"", b"two"]),  # an empty part
        (b"--b\r\n" + HEADERS + b"x\r\n--b", [b"x"]),
    ],
)
def test_what_senders_do_is_understood(data: bytes, expected: list[bytes]) -> None:
    """Preamble, epilogue, LF, missing ends: reference/dicomweb.md §8.39."""
    for size in (1, 7, 1 << 20):
        assert split(data, size=size) == expected


def test_a_large_part_is_spooled_to_disk() -> None:
    """Memory stays bounded: beyond 4 MiB a part is a mapped file."""
    data = bytes(range(256)) * (multipart.SPOOL_BYTES // 128)
    source = io.BytesIO(b"--b\r\n" + HEADERS + data + b"\r\n--b--")
    (body,) = multipart.parts(source, "b", max_bytes=1 << 30)
    assert not isinstance(body.data, bytes)
    assert body.data[:] == data
    body.close()


def test_a_body_without_a_part_is_malformed() -> None:
    with pytest.raises(Malformed):
        split(b"nothing here")


def test_what_is_written_is_what_is_read_and_as_long_as_promised() -> None:
    """The header is spelled ``Content-Type:`` letter for letter: Cornerstone searches that text."""
    parts = [multipart.Part("image/jls; transfer-syntax=" + JLS, [b"a", b"b"], 2), multipart.Part("x/y", [b""], 0)]
    written = b"".join(multipart.write("b", parts))

    assert written.startswith(b"--b\r\nContent-Type: image/jls; transfer-syntax=1.2.840.10008.1.2.4.80\r\n\r\nab\r\n")
    assert split(written) == [b"ab", b""]
    assert multipart.length("b", parts) == len(written)


@pytest.mark.parametrize(
    ("header", "stored", "expected"),
    [
        (None, JLS, Choice("image/jls", JLS, True)),
        ("*/*", ELE, Choice("application/octet-stream", ELE, True)),
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", JLS, Choice("image/jls", JLS, True)),
        ('multipart/related; type="application/octet-stream"; transfer-syntax=*', ELE,
         Choice("application/octet-stream", ELE, True)),
        ("application/octet-stream", JLS, Choice("application/octet-stream", ELE, False)),
        ("multipart/related; type=image/jls", JLS, Choice("image/jls", JLS, True)),
        ("multipart/related; type=image/jls", ELE, None),
        ("image/jpeg;q=0.9, application/octet-stream;q=0.5", JLS, Choice("application/octet-stream", ELE, False)),
        ('multipart/related; type="image/jphc", multipart/related; type="image/jls"; transfer-syntax=' + JLS, JLS,
         Choice("image/jls", JLS, True)),
        ("MULTIPART/RELATED;TYPE=\"image/jls\"", JLS, Choice("image/jls", JLS, True)),
        ("text/html", ELE, None),
    ],
)
def test_the_representation_of_frames_is_negotiated(header: str | None, stored: str, expected: Choice | None) -> None:
    """PS3.18 §8.7.3, Table 8.7.3-5."""
    assert choose_frames(accept(header), stored) == expected


def test_an_instance_is_explicit_little_endian_unless_asked_otherwise() -> None:
    """§8.7.3.4."""
    kind = 'multipart/related; type="application/dicom"'
    plain = choose_instance(accept(kind), JLS, alone_is_possible=True)
    stored = choose_instance(accept(kind + "; transfer-syntax=*"), JLS, alone_is_possible=True)
    assert plain is not None
    assert stored is not None
    assert (plain.transfer_syntax, stored.transfer_syntax) == (ELE, JLS)


def test_json_is_chosen_out_of_a_list() -> None:
    """RFC 9110 §12.5.1: as dicomweb-client for Python asks."""
    assert media_types.json_or_xml(accept("application/dicom+json, application/json")) == media_types.DICOM_JSON
