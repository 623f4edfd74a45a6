"""One request and its answer, in a thread: parse, call the application, write as far as the client reads.

::

              begin                       go_on, as often as the client has read on
    loop ──► thread ── all is written ──► loop        ▲
                │                                     │
                └───── the client reads slowly ──► PARKED: no thread, the loop watches the socket

An answer that a client reads slowly gives its thread back between two pieces: the application's iterator waits, and
goes on in whichever thread is free when there is room to write again. Each request has a context of its own
(``contextvars``), which goes along.
"""

from __future__ import annotations

import contextvars
import enum
import logging
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, Final

from gunicorn.http import wsgi
from gunicorn.http.errors import InvalidHeader
from gunicorn.http.message import Request

from app.ops.logging import is_reported
from app.ops.requests import COUNTED_KEY, WAITED_KEY
from app.server.streams import ClientReader, ClientWriter

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

DROPPED_BYTES_MAX: Final = 4 * 1024 * 1024
"""How much of a body that nobody has read is dropped to keep the connection; more ends it."""

_VERSION = (1, 1)
_PATIENCE_SECONDS = 0.002  # a client near by reads on within it; for others a thread is not kept

_log = logging.getLogger(__name__)


class Outcome(enum.Enum):
    """What becomes of the connection."""

    KEEP = enum.auto()
    """It may bring another request."""
    CLOSE = enum.auto()
    """It ends, after what the client still sends has been dropped."""
    LOST = enum.auto()
    """The client is gone, or its answer has broken off: it ends at once."""
    PARKED = enum.auto()
    """The answer waits until the client has read on."""


class SettledConfig:
    """gunicorn's configuration, which does not change while a worker lives: each option is worked out once.

    gunicorn looks up 17 of them for each request, each through two functions: 6 % of what a short request costs.

    Args:
        cfg: The configuration.
    """

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        """Return an option and keep it, so that this is not called for it again."""
        value = getattr(self._cfg, name)
        setattr(self, name, value)
        return value


class Exchange:
    """A request on its way through a thread, or several. Used by one thread at a time.

    Args:
        connection: The client's, non-blocking.
        peer: Its address, as the kernel says it.
        server: The address of the listener.
        received: What the loop has read: the head, and what came behind it.
        application: What answers.
        cfg: Gunicorn's configuration.
        silence_seconds: How long the client may send or take nothing.
        waited_seconds: How long the request has waited for its turn.
        is_last: Asked when the answer begins: whether the connection shall end with it.
        kept: A file with what of the body came after ``received``; stays the caller's.
        refuse: Answers what is no valid HTTP: ``(request or None, writer, peer, error)``.

    Attributes:
        rest: What came in behind the request: the beginning of the next one.
        unread_bytes: How much of its body is still to come and wanted by nobody, when the connection is kept.
    """

    def __init__(
        self,
        connection: socket.socket,
        peer: Any,
        server: Any,
        received: bytes,
        *,
        application: WSGIApplication,
        cfg: Any,
        silence_seconds: float,
        waited_seconds: float,
        is_last: Callable[[], bool],
        refuse: Callable[[Any, ClientWriter, Any, Exception], None],
        kept: IO[bytes] | None = None,
    ) -> None:
        self.rest = b""
        self.unread_bytes = 0
        self._peer = peer
        self._server = server
        self._application = application
        self._cfg = cfg
        self._waited_seconds = waited_seconds
        self._is_last = is_last
        self._refuse = refuse
        self._reader = ClientReader(connection, received, silence_seconds, kept)
        self._writer = ClientWriter(connection)
        self._context = contextvars.copy_context()
        self._request: Any = None
        self._response: Any = None
        self._pieces: Iterator[bytes] = iter(())
        self._is_complete = False
        self._close: Callable[[], None] | None = None

    def begin(self) -> Outcome:
        """Parse the request, call the application and write its answer."""
        return self._context.run(self._guarded, self._begin)

    def go_on(self) -> Outcome:
        """Write on, after :attr:`Outcome.PARKED`."""
        return self._context.run(self._guarded, self._write)

    def abandon(self) -> Outcome:
        """Give up an answer that waits: its client is gone, or too slow."""
        self._context.run(self._end)
        return Outcome.LOST

    def _guarded(self, step: Callable[[], Outcome]) -> Outcome:
        try:
            outcome = step()
        except OSError as error:
            _log.debug("a connection ended in the middle: %s", type(error).__name__)
            outcome = Outcome.LOST
        except Exception as error:  # noqa: BLE001  # whatever it is costs this connection and nothing else
            outcome = self._break_off(error)
        if outcome is not Outcome.PARKED:
            self._end()
        return outcome

    def _begin(self) -> Outcome:
        self._request = request = Request(self._cfg, self._reader, self._peer)
        request.version = min(request.version, _VERSION)  # an answer has the server's own (RFC 9110 section 6.2)
        if request.version == _VERSION and not any(name == "HOST" for name, _ in request.headers):
            raise InvalidHeader("HOST", req=request)  # RFC 9112 section 3.2
        self._response, environ = wsgi.create(self._request, self._writer, self._peer, self._server, self._cfg)
        environ["wsgi.multithread"] = True
        environ[COUNTED_KEY] = True
        environ[WAITED_KEY] = self._waited_seconds
        body = self._application(environ, self._response.start_response)
        self._close = getattr(body, "close", None)
        if self._is_last() or self._left_bytes() > DROPPED_BYTES_MAX:
            self._response.force_close()
        if isinstance(body, environ["wsgi.file_wrapper"]):
            self._response.write_file(body)
            self._pieces = iter(())
        else:
            self._pieces = chain(body, self._end_of_pieces())
        return self._write()

    def _end_of_pieces(self) -> Iterator[bytes]:
        """Yield nothing, after the last piece; fewer bytes than the head has announced are an error.

        On a connection that goes on, the client would take the next answer for the rest of this one.
        """
        response = self._response
        has_body = self._request.method != "HEAD" and response.status_code != HTTPStatus.NOT_MODIFIED
        if has_body and response.sent < (response.response_length or 0):
            raise EOFError("an answer ended before what was announced of it")
        yield from ()

    def _write(self) -> Outcome:
        while self._is_taken():
            if self._is_complete:
                return self._settle()
            piece = next(self._pieces, None)
            if piece is None:
                self._response.close()
                self._is_complete = True
            else:
                self._response.write(piece)
        return Outcome.PARKED

    def _is_taken(self) -> bool:
        """Send; tell whether the client takes it without a thread having to wait."""
        while not self._writer.flush():
            if not self._writer.wait(_PATIENCE_SECONDS):
                return False
        return True

    def _settle(self) -> Outcome:
        left = self._left_bytes()
        if self._response.should_close() or self._request.body.failed or left > DROPPED_BYTES_MAX:
            return Outcome.CLOSE
        received = self._reader.take_buffered()
        self.rest = received[int(left) :]
        self.unread_bytes = max(0, int(left) - len(received) - self._reader.kept_bytes())
        return Outcome.KEEP

    def _left_bytes(self) -> float:
        """Return how much of the body nobody has read; infinity for chunks that have not ended."""
        reader = self._request.body.reader
        if hasattr(reader, "length"):
            return float(reader.length)
        return float("inf") if getattr(reader, "parser", None) is not None else 0.0

    def _break_off(self, error: Exception) -> Outcome:
        if self._response is not None and self._response.headers_sent:
            if not is_reported(error):
                _log.exception("an answer broke off")
            return Outcome.LOST
        try:
            self._refuse(self._request, self._writer, self._peer, error)
            self._writer.flush()
        except OSError:
            return Outcome.LOST
        return Outcome.CLOSE

    def _end(self) -> None:
        close, self._close = self._close, None
        self._pieces = iter(())
        if close is None:
            return
        try:
            close()
        except Exception:  # noqa: BLE001  # the answer is sent; what its end costs is for the log
            _log.exception("an answer could not be closed")
