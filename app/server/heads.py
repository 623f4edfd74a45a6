"""What the event loop has to know of a request before a thread parses it: where it ends, its class, its framing.

This is a look, not a parse: gunicorn's strict parser reads the same bytes again in the thread and has the last word.
What the loop decides by the look alone (a probe's answer, a refusal) is either of a request that is beyond doubt, or
ends the connection, so that a head that two readers understand differently cannot smuggle a request in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from app.ops.admission import RequestClass

HEAD_BYTES_MAX: Final = 64 * 1024
"""How long a request line and its headers may be together."""

REQUEST_LINE_BYTES_MAX: Final = 4094
"""How long a request line may be; gunicorn's default."""

FIELDS_MAX: Final = 100
"""How many header fields a request may have; gunicorn's default."""

CHUNKS_MAX: Final = 1024
"""Of a body in more chunks the end is not waited for: to follow them all would keep the loop from everybody else."""

_END = b"\r\n\r\n"
_UPLOAD_METHODS = frozenset({b"POST", b"PUT", b"PATCH"})
_UPLOAD_PATHS = (b"/api/v1/photos", b"/api/v1/uploads")
_ASKS_FIRST = frozenset({b"expect", b"repr-digest"})
_OLD_VERSION = b"HTTP/1.0"  # what some balancers ask for health with
_VERSIONS = frozenset({b"HTTP/1.1", _OLD_VERSION})
_PROBE_METHODS = frozenset({b"GET", b"HEAD"})
_PLAIN = re.compile(  # RFC 9112 sections 3 and 5, and no line that the parser would find too long
    rb"[\x20-\x7e]{1,4094}\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}:[^\r\n\0]{0,8000}\r\n)*"
)
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_LENGTH = re.compile(rb"\d{1,18}")
_CLOSE = re.compile(rb"(?:^|,)[ \t]*close[ \t]*(?:,|$)", re.IGNORECASE)
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_BACKGROUND = re.compile(rb"(?:^|,)[ \t]*u=[67][ \t]*(?:,|$)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_CHUNK_LINE_BYTES_MAX = 1024


class Head(NamedTuple):
    """A request as the loop sees it.

    Attributes:
        length: Bytes of the head, its blank line included.
        method: As sent.
        path: Without the query; as sent, nothing decoded.
        request_class: How it is admitted.
        body_bytes: What ``Content-Length`` announces; 0 without one.
        is_chunked: Whether the body comes in chunks.
        waits: Whether the answer may come before the body: the client waits for a word (``Expect``), or says which
            bytes it would send (``Repr-Digest``), which may be known.
        is_plain: Whether nothing in it can be understood in two ways: a GET or HEAD without a body or other framing.
        is_last: Whether the client wants the connection closed after the answer; HTTP/1.0 always counts as that.
        given_id: The ``X-Request-Id`` that the client gave, whatever it is.
    """

    length: int
    method: bytes
    path: bytes
    request_class: RequestClass
    body_bytes: int
    is_chunked: bool
    waits: bool
    is_plain: bool
    is_last: bool
    given_id: bytes

    @property
    def request_id(self) -> str:
        """The id that the client gave, if it is a valid one; else empty."""
        return self.given_id.decode("ascii") if _ID.fullmatch(self.given_id) else ""

    def chunk_scan(self) -> ChunkScan | None:
        """Return what follows its body's framing; None when it does not come in chunks."""
        return ChunkScan() if self.is_chunked else None


class HeadTooLargeError(Exception):
    """More bytes or fields than a head may have."""


def find_head(buffer: bytearray) -> Head | None:
    """Return the head that a buffer begins with.

    Args:
        buffer: What the client has sent so far.

    Returns:
        None while it has not ended. What can never become a valid head (a bare line feed, an endless request line)
        counts as ended, so that the parser refuses it at once.

    Raises:
        HeadTooLargeError: It has not ended within :data:`HEAD_BYTES_MAX`, or has more fields than
            :data:`FIELDS_MAX`: to look at thousands of them would keep the loop from everybody else.
    """
    begin = 2 if buffer.startswith(b"\r\n") else 0  # RFC 9112 section 2.2 lets one empty line go before
    end = buffer.find(_END, begin)
    if buffer.count(b"\r\n", begin, end if end >= 0 else len(buffer)) > FIELDS_MAX + (end < 0):
        raise HeadTooLargeError
    if end - begin > HEAD_BYTES_MAX:
        raise HeadTooLargeError
    if end >= 0:
        return _look(bytes(buffer[begin : end + 2]), end + len(_END))
    if _is_hopeless(buffer, begin):
        return _look(bytes(buffer[begin:]), len(buffer))._replace(body_bytes=0, is_chunked=False)
    if len(buffer) > HEAD_BYTES_MAX:
        raise HeadTooLargeError
    return None


def _is_hopeless(buffer: bytearray, begin: int) -> bool:
    line_end = buffer.find(b"\r\n", begin)
    if line_end == begin and len(buffer) > begin + 1:  # a second empty line
        return True
    if line_end < 0 and len(buffer) - begin > REQUEST_LINE_BYTES_MAX + 2:
        return True
    return buffer.count(b"\n") != buffer.count(b"\r\n")


def _look(head: bytes, length: int) -> Head:
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    method, target, version = words if len(words) == 3 else (b"", b"", b"")  # noqa: PLR2004  # its three parts
    path = target.partition(b"?")[0]
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    announced = fields.get(b"content-length", b"")
    if announced and head.lower().count(b"\ncontent-length") > 1:  # two of them: for the parser to refuse at once
        announced = b""
    coding = fields.get(b"transfer-encoding")
    return Head(
        length=length,
        method=method,
        path=path,
        request_class=_classify(method, path, fields.get(b"priority", b"")),
        body_bytes=int(announced) if _LENGTH.fullmatch(announced) else 0,
        is_chunked=coding is not None and coding.lower() == b"chunked" and b"content-length" not in fields,
        waits=not fields.keys().isdisjoint(_ASKS_FIRST),
        is_plain=version in _VERSIONS and method in _PROBE_METHODS and _is_plain(head, fields),
        is_last=version == _OLD_VERSION or _CLOSE.search(fields.get(b"connection", b"")) is not None,
        given_id=fields.get(b"x-request-id", b""),
    )


def _is_plain(head: bytes, fields: Mapping[bytes, bytes]) -> bool:
    """Tell whether nothing speaks of a body, no two hosts are named, and all readers read every line alike."""
    if not fields.keys().isdisjoint(_FRAMING) or head.lower().count(b"\nhost:") > 1:
        return False
    return _PLAIN.fullmatch(head) is not None


def _classify(method: bytes, path: bytes, priority: bytes) -> RequestClass:
    if priority and _BACKGROUND.search(priority):  # RFC 9218: urgencies 6 and 7 are for what nobody waits for
        return RequestClass.BACKGROUND
    if method in _UPLOAD_METHODS and path.startswith(_UPLOAD_PATHS):
        return RequestClass.UPLOAD
    return RequestClass.READ


class ChunkScan:
    """Follows the framing of a chunked body as it comes in, without keeping any of it."""

    def __init__(self) -> None:
        self._data_left = 0
        self._position = 0
        self._chunks_left = CHUNKS_MAX
        self.is_over = False

    def scan(self, buffer: bytearray, begin: int) -> bool:
        """Look at what has come in since the last look.

        Args:
            buffer: Head and body so far.
            begin: Where the body begins in it.

        Returns:
            Whether there is nothing to wait for: the last chunk has come, there are too many, or the framing is
            broken.
        """
        position = self._position or begin
        while not self.is_over:
            step = min(self._data_left, len(buffer) - position)
            position += step
            self._data_left -= step
            self._position = position
            if self._data_left:
                break
            sized = _CHUNK_SIZE.match(buffer, position)
            if sized is None:
                self.is_over = self._is_broken(buffer, position)
                break
            size = int(sized[1], 16)
            if not size:  # the trailers follow, most often none; looked at again until they have ended
                self.is_over = self._has_ended(buffer, sized.end())
                break
            position = sized.end()
            self._data_left = size + 2
            self._chunks_left -= 1
            self.is_over = not self._chunks_left
        return self.is_over

    @staticmethod
    def _has_ended(buffer: bytearray, position: int) -> bool:
        if buffer.startswith(b"\r\n", position) or buffer.find(_END, position) >= 0:
            return True
        return len(buffer) - position > _CHUNK_LINE_BYTES_MAX

    @staticmethod
    def _is_broken(buffer: bytearray, position: int) -> bool:
        rest = len(buffer) - position
        return rest > _CHUNK_LINE_BYTES_MAX or buffer.find(b"\n", position) >= 0
