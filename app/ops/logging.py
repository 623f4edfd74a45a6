"""Structured logs: one JSON object a line on standard output, written by a thread of its own.

::

    any thread ── record ── format, redact ── bounded queue ── writer thread ── standard output
                                              full: drop and count    failed: drop and count

A call to a logger never waits for the disk or the reader of the pipe. The queue belongs to a process: after a
fork the child starts with an empty one and its own writer. Here are the fields, the context that binds
request id, route and user to a line (:func:`bind`), and the pipeline; what must not be said is cut out by
:mod:`app.ops.redaction`; who logs what is decided where it happens.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

import orjson

from app.ops.redaction import REDACTED, is_secret_name, redact

CONTEXT_FIELDS: Final = ("request_id", "trace_id", "route", "status", "duration_ms", "user_id")
"""The contract's fields that belong to a request; they stand in every line, null outside of one."""

_MESSAGE_CHARACTERS = 8_192
_EXCEPTION_CHARACTERS = 16_384
_BATCH_BYTES = 4_096  # PIPE_BUF: up to here the lines of several workers do not mix in one pipe
_STUCK_POLL_SECONDS = 0.5
_COLLECT_SECONDS = 0.01
_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TALKATIVE = (
    "alembic",
    "app.db.pool.WatchedPool",  # SQLAlchemy logs under the name of the pool's class
    "boto3",
    "botocore",
    "s3transfer",
    "urllib3",
    "sqlalchemy.engine",
    "sqlalchemy.pool",
    "werkzeug",
)

_JSON_VALUES = (bool, int, float)
_is_secret_name = lru_cache(maxsize=1024)(is_secret_name)

_REPORTED = "Logged where it happened."

_context: ContextVar[Mapping[str, object]] = ContextVar("photo_api_log_context", default={})  # noqa: B039  # never mutated

_log = logging.getLogger(__name__)


class LogObserver(Protocol):
    """Who hears of the queue. Called from any thread: must neither raise, block nor log."""

    def log_queued(self, size: int) -> None:
        """So many lines wait in this process."""
        ...

    def log_dropped_lines(self, count: int) -> None:
        """So many lines were lost."""
        ...


class Binding:
    """Fields bound to the lines of this context until closed; also a context manager. Made by :func:`bind`."""

    __slots__ = ("_previous",)

    def __init__(self, previous: Mapping[str, object]) -> None:
        self._previous = previous

    def close(self) -> None:
        """Take the fields off again, with all that were bound after them."""
        _context.set(self._previous)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()


def bind(**fields: object) -> Binding:
    """Add fields to every line that this context logs from now on.

    Args:
        **fields: Of :data:`CONTEXT_FIELDS`, or any other name; a value of None hides an outer one.

    Returns:
        What takes them off again.
    """
    previous = _context.get()
    _context.set({**previous, **fields})
    return Binding(previous)


def unbind_all() -> None:
    """Take all fields off: a thread that goes on to another request must not carry them along."""
    _context.set({})


def bound() -> Mapping[str, object]:
    """Return the fields bound in this context."""
    return _context.get()


def mark_reported(error: BaseException) -> None:
    """Note on an error that it has been logged where its request was still known."""
    error.add_note(_REPORTED)


def is_reported(error: BaseException) -> bool:
    """Return whether an error has been logged already, so that whoever meets it later says nothing."""
    return _REPORTED in getattr(error, "__notes__", ())


class JsonFormatter(logging.Formatter):
    """One JSON object a record, with the contract's fields first.

    Args:
        instance_ip: Address of this host, as configured.
        node_name: Name of this host, as configured.
    """

    def __init__(self, *, instance_ip: str | None, node_name: str | None) -> None:
        super().__init__()
        self._instance = {"instance_ip": instance_ip, "node_name": node_name}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end. A record that cannot be rendered gives a line that says so."""
        fields = self.fields(record)
        try:
            return orjson.dumps(fields).decode()
        except TypeError:  # lone surrogates, integers above 64 bits
            return json.dumps(fields, default=str)

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Return what the line says, redacted, as JSON values."""
        extra = {name: value for name, value in vars(record).items() if name not in _RECORD_ATTRIBUTES}
        known = {**_context.get(), **extra}
        fields: dict[str, object] = {
            "timestamp": _timestamp(record.created),
            "severity_text": record.levelname,
            "message": redact(_message(record)[:_MESSAGE_CHARACTERS]),
        }
        for name in CONTEXT_FIELDS:  # our own code sets them: nothing to redact
            fields[name] = _json_value(known.pop(name, None))
        fields |= self._instance
        fields["logger"] = record.name
        fields["pid"] = record.process
        for name, value in known.items():
            fields.setdefault(name, _plain(name, value))
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = redact(self.formatException(record.exc_info)[-_EXCEPTION_CHARACTERS:])
        return fields


class ConsoleFormatter(JsonFormatter):
    """The same facts for a person at a terminal: time, severity, message, then what else is known."""

    _COMMON = frozenset({"timestamp", "severity_text", "message", "instance_ip", "node_name", "exception", "pid"})

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and below it the exception if there is one."""
        fields = self.fields(record)
        rest = " ".join(
            f"{name}={value}" for name, value in fields.items() if value is not None and name not in self._COMMON
        )
        line = f"{fields['timestamp']} {fields['severity_text']:<8} {fields['message']}  {rest}"
        line = line.translate(_CONTROL_CHARACTERS)
        return f"{line}\n{fields['exception']}" if "exception" in fields else line


_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def _timestamp(seconds: float) -> str:
    milliseconds = int(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=2)  # many lines of one second
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat()[:-6]


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # a wrong format string must not cost the line
        return f"{record.msg!s} (its arguments do not fit)"


def _plain(name: str, value: object) -> object:
    value = _json_value(value)
    if not isinstance(value, str):
        return value
    return REDACTED if _is_secret_name(name) else redact(value)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, _JSON_VALUES):
        return value
    return str(value)[:_MESSAGE_CHARACTERS]


class LogPipeline(logging.Handler):
    """A handler that puts lines on a bounded queue; a daemon thread writes them. Thread-safe, survives a fork.

    Args:
        formatter: What turns a record into a line.
        queue_size: How many lines may wait, at least 1; more are dropped, the newest first.
        file_descriptor: Where to; None drops and counts everything (standard output is closed).
        observer: Who hears of the queue's size and of dropped lines.
    """

    def __init__(
        self,
        formatter: logging.Formatter,
        *,
        queue_size: int,
        file_descriptor: int | None,
        observer: LogObserver | None = None,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._queue_size = queue_size
        self._file_descriptor = file_descriptor
        self._observer = observer
        self._dropped = 0
        self._torn = False  # the last write ended inside a line
        self._closing = False
        self._start_lock = threading.Lock()
        self._drop_lock = threading.RLock()
        self._queue: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        self._writer_pid = 0

    def createLock(self) -> None:  # noqa: N802  # logging's name
        """Use no lock: emitting is thread-safe by itself, and a lock could be held over a fork."""
        self.lock = None

    @property
    def dropped(self) -> int:
        """How many lines were lost in this process."""
        return self._dropped

    @property
    def queued(self) -> int:
        """How many lines wait."""
        return self._queue.qsize()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line, or drop and count it; never waits, never raises."""
        try:
            if self._writer_pid != os.getpid():
                self._start_writer()
            if self._file_descriptor is None or self._queue.qsize() >= self._queue_size:
                self._drop(1)
                return
            self._queue.put(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # noqa: BLE001  # a line is never worth a request
            self._drop(1)

    def flush_within(self, seconds: float) -> bool:
        """Wait until what is queued now has been written (or has failed to be).

        Returns:
            False when the time ran out first. True at once when this process queued nothing, or after
            :meth:`close`, which lets the writer finish by itself.
        """
        if self._closing or self._writer_pid != os.getpid():
            return True
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(seconds)

    def close(self) -> None:
        """Let the writer end after what is queued, without waiting for it; see :meth:`flush_within`."""
        self._closing = True
        self._queue.put(None)
        super().close()

    def _start_writer(self) -> None:
        with self._start_lock:
            if self._writer_pid == os.getpid():
                return
            self._queue = SimpleQueue()  # a forked child must not write its parent's lines again
            self._drop_lock = threading.RLock()  # the parent's writer may have held it at the fork
            threading.Thread(target=self._write_forever, args=(self._queue,), name="log-writer", daemon=True).start()
            self._writer_pid = os.getpid()

    def _write_forever(self, queue: SimpleQueue[bytes | threading.Event | None]) -> None:
        lines: list[bytes] = []
        while True:
            item = queue.get()
            if isinstance(item, bytes):
                if sum(map(len, lines)) + len(item) > _BATCH_BYTES:
                    self._write(lines)
                    lines = []
                lines.append(item)
                if queue.empty():
                    # While it sleeps nobody has to wake it: one wake-up for many lines instead of one for each.
                    time.sleep(_COLLECT_SECONDS)
                if not queue.empty():
                    continue
            self._write(lines)
            lines = []
            if self._observer is not None:
                self._observer.log_queued(queue.qsize())
            if isinstance(item, threading.Event):
                item.set()
            elif item is None:
                return

    def _write(self, lines: list[bytes]) -> None:
        if self._file_descriptor is None or not lines:
            self._drop(len(lines))
            return
        waiting = memoryview((b"\n" if self._torn else b"") + b"".join(lines))
        while waiting:
            try:
                waiting = waiting[os.write(self._file_descriptor, waiting) :]
            except BlockingIOError:
                select.select([], [self._file_descriptor], [], _STUCK_POLL_SECONDS)
                if self._closing:
                    self._drop(len(lines))
                    return
            except OSError:  # disk full, reader gone, descriptor closed: the next batch tries again
                self._torn = True
                self._drop(len(lines))
                return
        self._torn = False

    def _drop(self, count: int) -> None:
        if not count:
            return
        with self._drop_lock:
            self._dropped += count
        if self._observer is not None:
            self._observer.log_dropped_lines(count)
            self._observer.log_queued(self._queue.qsize())


class Logs:
    """The process's logging while it is configured: what :func:`configure_logging` returns.

    Args:
        pipeline: Where root records go.
    """

    def __init__(self, pipeline: LogPipeline) -> None:
        self._pipeline = pipeline
        self._thread_hook = threading.excepthook
        self._process_hook = sys.excepthook
        threading.excepthook = self._report_thread
        sys.excepthook = self._report_process
        atexit.register(self.flush)  # the last lines of a process that fails to start are the ones needed

    @property
    def dropped(self) -> int:
        """How many lines were lost in this process."""
        return self._pipeline.dropped

    @property
    def queued(self) -> int:
        """How many lines wait."""
        return self._pipeline.queued

    def flush(self, seconds: float = 2.0) -> bool:
        """Wait until the queued lines are out, at most so long; False when the time ran out."""
        return self._pipeline.flush_within(seconds)

    def close(self, seconds: float = 2.0) -> None:
        """Flush within the limit, then take handler and hooks away. May be called again."""
        self._pipeline.flush_within(seconds)
        atexit.unregister(self.flush)
        logging.getLogger().removeHandler(self._pipeline)
        self._pipeline.close()
        if threading.excepthook == self._report_thread:
            threading.excepthook = self._thread_hook
        if sys.excepthook == self._report_process:
            sys.excepthook = self._process_hook

    def _report_thread(self, arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is SystemExit or arguments.exc_value is None:
            return
        name = arguments.thread.name if arguments.thread is not None else "unknown"
        error = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        _log.error("uncaught exception in a thread", exc_info=error, extra={"thread_name": name})

    def _report_process(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._process_hook(kind, error, traceback)
            return
        _log.critical("uncaught exception", exc_info=(kind, error, traceback))
        self.flush()


def configure_logging(
    *,
    level: str,
    output: Literal["json", "console"],
    queue_size: int,
    instance_ip: str | None = None,
    node_name: str | None = None,
    observer: LogObserver | None = None,
) -> Logs:
    """Send all of the process's logging through one pipeline to standard output.

    An earlier pipeline of this process is replaced, so a worker may configure again what it inherited.

    Args:
        level: A name of :mod:`logging`: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        output: ``json`` for NDJSON, ``console`` for a person.
        queue_size: How many lines may wait, at least 1.
        instance_ip: Stands in every line.
        node_name: Stands in every line.
        observer: Who hears of the queue, usually :class:`app.ops.metrics.Metrics`.
    """
    kind: Any = JsonFormatter if output == "json" else ConsoleFormatter
    pipeline = LogPipeline(
        kind(instance_ip=instance_ip, node_name=node_name),
        queue_size=queue_size,
        file_descriptor=_standard_output(),
        observer=observer,
    )
    root = logging.getLogger()
    for earlier in [handler for handler in root.handlers if isinstance(handler, LogPipeline)]:
        root.removeHandler(earlier)
        earlier.flush_within(1.0)
        earlier.close()
    root.addHandler(pipeline)
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    return Logs(pipeline)


def _standard_output() -> int | None:
    # Closed at start, descriptor 1 may since belong to a database file: writing there would destroy it.
    if sys.__stdout__ is None:
        return None
    try:
        return sys.__stdout__.fileno()
    except (OSError, ValueError):
        return None
