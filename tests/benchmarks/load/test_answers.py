"""Where an answer ends: by length, by chunks, by the connection's end, and never by guess."""

from __future__ import annotations

import pytest

from benchmarks.load.answers import AnswerReader, BrokenAnswerError

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\nbusy"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n3;x=y\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n"
)


@pytest.mark.parametrize("piece_bytes", [1, 3, 1000])
@pytest.mark.parametrize(
    ("content", "status", "retries"),
    [
        (REFUSAL, 503, 1),
        (CHUNKED, 200, 0),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, 0),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, 0),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 201, 0),
    ],
    ids=["length", "chunks", "204", "304", "after 100"],
)
def test_an_answer_ends_where_its_framing_says_however_it_is_cut(
    content: bytes, status: int, retries: int, piece_bytes: int
) -> None:
    reader = AnswerReader()

    wholes = [reader.feed(content[at : at + piece_bytes]) for at in range(0, len(content), piece_bytes)]

    assert wholes == [False] * (len(wholes) - 1) + [True]
    assert (reader.status, reader.has_retry_after) == (status, retries)


def test_without_length_or_chunks_the_connection_s_end_is_the_answer_s() -> None:
    reader = AnswerReader()

    is_whole = reader.feed(b"HTTP/1.0 200 OK\r\n\r\nhello")

    assert not is_whole
    assert reader.closes
    assert reader.ends_whole()


@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 200 OK\r\n", REFUSAL[:-1], CHUNKED[:-2]], ids=range(4))
def test_an_end_before_the_answer_s_is_no_proper_one(received: bytes) -> None:
    reader = AnswerReader()

    reader.feed(received)

    assert not reader.ends_whole()


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (b"SSH-2.0-x\r\n\r\n", "no HTTP"),
        (REFUSAL + b"!", "after the end"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "more than 65536 bytes"),
    ],
    ids=["no HTTP", "too much", "endless head"],
)
def test_what_is_no_answer_is_said_to_be_none(received: bytes, reason: str) -> None:
    with pytest.raises(BrokenAnswerError, match=reason):
        AnswerReader().feed(received)


def test_a_server_that_closes_after_its_answer_is_known() -> None:
    reader = AnswerReader()

    reader.feed(b"HTTP/1.1 200 OK\r\nconnection: Close\r\nContent-Length: 0\r\n\r\n")

    assert reader.closes
