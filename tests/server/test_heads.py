"""The loop's look at a request: where it ends, what it is, and when it is beyond doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ops.admission import RequestClass
from app.server.heads import (
    CHUNKS_MAX,
    FIELDS_MAX,
    HEAD_BYTES_MAX,
    REQUEST_LINE_BYTES_MAX,
    ChunkScan,
    Head,
    HeadTooLargeError,
    find_head,
)

HOST = b"Host: localhost\r\n"


def look(line: bytes, *fields: bytes) -> Head:
    """Return the head of a request of these lines."""
    head = find_head(bytearray(b"\r\n".join([line, b"Host: localhost", *fields]) + b"\r\n\r\n"))
    assert head is not None
    return head


@pytest.mark.parametrize("cut", range(len(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")))
def test_a_head_that_has_not_ended_is_none_whatever_its_cut(cut: int) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    assert find_head(bytearray(raw[:cut])) is None


def test_a_head_ends_with_its_blank_line_and_leaves_the_rest() -> None:
    raw = b"POST /api/v1/photos?x=1 HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n"

    head = find_head(bytearray(raw + b"hello"))

    assert head is not None
    assert (head.length, head.method, head.path, head.body_bytes) == (len(raw), b"POST", b"/api/v1/photos", 5)


def test_one_empty_line_may_go_before_the_request() -> None:
    raw = b"\r\nGET /health HTTP/1.1\r\n" + HOST + b"\r\n"

    head = find_head(bytearray(raw))

    assert head is not None
    assert (head.length, head.path) == (len(raw), b"/health")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n",
        b"\r\n\r\nGET",
        b"GET /" + b"a" * (REQUEST_LINE_BYTES_MAX + 3),
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\nX: a\nb: c\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: a\nb: c\r\n",
    ],
    ids=["bare_line_feeds", "a_bare_line_feed", "two_empty_lines", "endless_request_line", "a_length", "chunks"],
)
def test_what_can_never_become_a_head_is_left_to_the_parser_at_once(raw: bytes) -> None:
    head = find_head(bytearray(raw))

    assert head is not None
    assert (head.is_plain, head.body_bytes, head.is_chunked) == (False, 0, False)


def test_a_head_that_grows_beyond_the_bound_is_refused() -> None:
    endless = bytearray(b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_BYTES_MAX)

    with pytest.raises(HeadTooLargeError):
        find_head(endless)


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["begun", "ended"])
def test_a_head_of_too_many_fields_is_refused(end: bytes) -> None:
    fields = [b"X-%d: a\r\n" % number for number in range(FIELDS_MAX + 1)]
    most = bytearray(b"GET / HTTP/1.1\r\n" + b"".join(fields[:-1]) + end)
    more = bytearray(b"GET / HTTP/1.1\r\n" + b"".join(fields) + end)

    head = find_head(most)

    assert (head is not None) == bool(end)
    with pytest.raises(HeadTooLargeError):
        find_head(more)


@pytest.mark.parametrize(
    ("line", "fields", "expected"),
    [
        (b"GET /api/v1/photos HTTP/1.1", (), RequestClass.READ),
        (b"DELETE /api/v1/photos/1 HTTP/1.1", (), RequestClass.READ),
        (b"POST /api/v1/auth/tokens HTTP/1.1", (), RequestClass.READ),
        (b"POST /api/v1/photos HTTP/1.1", (), RequestClass.UPLOAD),
        (b"PATCH /api/v1/uploads/1 HTTP/1.1", (), RequestClass.UPLOAD),
        (b"GET /api/v1/photos HTTP/1.1", (b"Priority: u=7",), RequestClass.BACKGROUND),
        (b"POST /api/v1/photos HTTP/1.1", (b"priority: i, u=6",), RequestClass.BACKGROUND),
        (b"GET /api/v1/photos HTTP/1.1", (b"Priority: u=3",), RequestClass.READ),
    ],
)
def test_the_class_follows_from_method_path_and_priority(
    line: bytes, fields: tuple[bytes, ...], expected: RequestClass
) -> None:
    assert look(line, *fields).request_class is expected


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_bare_get_or_head_is_plain(method: bytes, version: bytes) -> None:
    head = look(method + b" /health HTTP/" + version, b"Accept: */*")

    assert (head.is_plain, head.is_last) == (True, version == b"1.0")


def test_a_balancer_that_names_no_host_is_answered() -> None:
    head = find_head(bytearray(b"GET /health/readiness HTTP/1.0\r\n\r\n"))

    assert head is not None
    assert head.is_plain


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 0",),
        (b"Transfer-Encoding: chunked",),
        (b"Transfer-Encoding : chunked",),
        (b"X: a", b" Transfer-Encoding: chunked"),
        (b"X: a\rTransfer-Encoding: chunked",),
        (b"Expect: 100-continue",),
        (b"Upgrade: h2c",),
        (b"X: a\0",),
        (b"Host: other",),
        (b"X: " + b"a" * 8200,),
        (b"Content-Length\x0b: 5",),
        (b"Content-Length",),
        (b"X Y: a",),
        (b": a",),
    ],
)
def test_whatever_two_readers_could_read_differently_is_not_plain(fields: tuple[bytes, ...]) -> None:
    assert not look(b"GET /health HTTP/1.1", *fields).is_plain


@pytest.mark.parametrize(
    "line",
    [b"POST /health HTTP/1.1", b"GET /health?\r HTTP/1.1", b"GET /health HTTP/1.2", b"GET  /health HTTP/1.1", b"GET"],
)
def test_another_method_or_version_or_a_broken_line_is_not_plain(line: bytes) -> None:
    assert not look(line).is_plain


def test_a_request_line_that_the_parser_would_find_too_long_is_not_plain() -> None:
    assert not look(b"GET /health?" + b"a" * REQUEST_LINE_BYTES_MAX + b" HTTP/1.1").is_plain


def test_a_head_that_ends_beyond_the_bound_is_refused_too() -> None:
    with pytest.raises(HeadTooLargeError):
        find_head(bytearray(b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n"))


def test_framing_and_wishes_are_read_whatever_their_case() -> None:
    head = look(b"POST / HTTP/1.1", b"EXPECT: 100-continue", b"transfer-ENCODING: Chunked", b"connection: TE, Close")

    assert (head.waits, head.is_chunked, head.is_last) == (True, True, True)


def test_bytes_that_may_be_known_are_not_waited_for() -> None:
    assert look(b"POST /api/v1/photos HTTP/1.1", b"Content-Length: 9", b"Repr-Digest: sha-256=:aa=:").waits


def test_a_body_announced_twice_is_not_taken_for_chunks() -> None:
    head = look(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3")

    assert (head.is_chunked, head.chunk_scan()) == (False, None)


def test_a_body_of_two_lengths_is_not_waited_for() -> None:
    assert look(b"POST / HTTP/1.1", b"Content-Length: 4", b"content-length: 44").body_bytes == 0


@pytest.mark.parametrize("announced", [b"-1", b"1, 1", b"0x10", b"9" * 19, b""])
def test_a_length_that_is_none_is_not_waited_for(announced: bytes) -> None:
    assert look(b"POST / HTTP/1.1", b"Content-Length: " + announced).body_bytes == 0


@pytest.mark.parametrize(
    ("given", "expected"), [(b"abc-1.2:3_4", "abc-1.2:3_4"), (b"a b", ""), (b"", ""), (b"a" * 129, "")]
)
def test_only_a_valid_request_id_is_kept(given: bytes, expected: str) -> None:
    assert look(b"GET / HTTP/1.1", b"X-Request-Id: " + given).request_id == expected


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """Return a body in these chunks."""
    return b"".join(b"%X;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_a_chunked_body_has_ended_with_its_last_byte_and_not_before(chunks: list[bytes], data: st.DataObject) -> None:
    body = chunked(*chunks, trailers=data.draw(st.sampled_from([b"", b"A: b\r\n"])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body) - 1), max_size=6)))
    scan, buffer = ChunkScan(), bytearray(b"head")

    early = []
    for cut in cuts:
        buffer[4:] = body[:cut]
        early.append(scan.scan(buffer, 4))
    buffer[4:] = body

    assert not any(early)
    assert scan.scan(buffer, 4)


@pytest.mark.parametrize("body", [b"zz\r\n", b"\r\n", b"3\nabc", b"-1\r\n", b"1" * 2000])
def test_broken_framing_is_not_waited_for(body: bytes) -> None:
    assert ChunkScan().scan(bytearray(body), 0)


def test_of_too_many_chunks_the_end_is_not_waited_for() -> None:
    body = bytearray(b"1\r\na\r\n" * (CHUNKS_MAX - 1))
    scan = ChunkScan()

    before = scan.scan(body, 0)
    body += b"1\r\na\r\n"

    assert (before, scan.scan(body, 0)) == (False, True)


def test_trailers_without_an_end_are_not_waited_for() -> None:
    assert ChunkScan().scan(bytearray(b"0\r\n" + b"A: b\r\n" * 300), 0)
