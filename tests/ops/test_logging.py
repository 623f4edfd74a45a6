"""Log lines have the contract's fields, never hold up a request, and their loss is counted."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.ops.logging import (
    CONTEXT_FIELDS,
    ConsoleFormatter,
    JsonFormatter,
    LogPipeline,
    Logs,
    bind,
    bound,
    configure_logging,
    unbind_all,
)

ROOT = Path(__file__).resolve().parents[2]


class Heard:
    """An observer that adds up what it hears."""

    def __init__(self) -> None:
        self.dropped = 0
        self.sizes: list[int] = []

    def log_queued(self, size: int) -> None:
        self.sizes.append(size)

    def log_dropped_lines(self, count: int) -> None:
        self.dropped += count


@pytest.fixture(autouse=True)
def _no_context() -> Iterator[None]:
    unbind_all()
    yield
    unbind_all()


def record(message: str = "hello", *arguments: object, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("test").makeRecord("test", logging.INFO, "f", 1, message, arguments, None, extra=extra)


def line(made: logging.LogRecord) -> dict[str, Any]:
    formatted = JsonFormatter(instance_ip="10.0.0.7", node_name="node-7").format(made)
    parsed: dict[str, Any] = json.loads(formatted)
    return parsed


def pipeline_into(descriptor: int | None, *, size: int = 1000, heard: Heard | None = None) -> LogPipeline:
    formatter = JsonFormatter(instance_ip=None, node_name=None)
    return LogPipeline(formatter, queue_size=size, file_descriptor=descriptor, observer=heard)


def test_a_line_has_every_field_of_the_contract() -> None:
    with bind(request_id="r-1", user_id="u-1"):
        parsed = line(record("request", route="/x/<id>", status=200, duration_ms=1.5))

    assert parsed["message"] == "request"
    assert parsed["severity_text"] == "INFO"
    assert parsed["timestamp"].endswith("Z")
    assert (parsed["instance_ip"], parsed["node_name"]) == ("10.0.0.7", "node-7")
    assert (parsed["request_id"], parsed["user_id"], parsed["trace_id"]) == ("r-1", "u-1", None)
    assert (parsed["route"], parsed["status"], parsed["duration_ms"]) == ("/x/<id>", 200, 1.5)


@pytest.mark.parametrize(
    ("created", "written"),
    [
        (1_767_225_599.9996, "2025-12-31T23:59:59.999Z"),
        (1_767_225_600.0, "2026-01-01T00:00:00.000Z"),
        (1_767_225_600.0625, "2026-01-01T00:00:00.062Z"),
        (0.5, "1970-01-01T00:00:00.500Z"),
    ],
)
def test_a_line_says_when_to_the_millisecond_that_has_begun(created: float, written: str) -> None:
    made = record("now")
    made.created = created

    assert line(made)["timestamp"] == written


def test_outside_of_a_request_its_fields_are_null() -> None:
    parsed = line(record())

    assert [parsed[name] for name in CONTEXT_FIELDS] == [None] * len(CONTEXT_FIELDS)


def test_bindings_nest_and_end() -> None:
    with bind(request_id="outer"):
        with bind(user_id="u"):
            assert bound() == {"request_id": "outer", "user_id": "u"}

        assert bound() == {"request_id": "outer"}

    assert bound() == {}


def test_another_thread_does_not_see_the_bindings() -> None:
    seen: list[object] = []
    with bind(request_id="r"):
        thread = threading.Thread(target=lambda: seen.append(dict(bound())))
        thread.start()
        thread.join()

    assert seen == [{}]


def test_a_line_break_in_a_message_cannot_make_a_second_line() -> None:
    made = record("first\nsecond \x1b[31m")

    assert "\n" not in JsonFormatter(instance_ip=None, node_name=None).format(made)
    assert "\x1b" not in ConsoleFormatter(instance_ip=None, node_name=None).format(made)


@pytest.mark.parametrize("value", ["\ud800", 2**70, object(), {"a": {1}}, float("nan"), b"\xff"])
def test_any_value_makes_a_line_that_is_json(value: object) -> None:
    parsed = line(record("odd", odd=value))

    assert parsed["message"] == "odd"
    assert "odd" in parsed


def test_arguments_that_do_not_fit_cost_no_line() -> None:
    parsed = line(record("%d apples", "many"))

    assert parsed["message"].startswith("%d apples")


def test_secrets_in_messages_fields_and_exceptions_are_cut_out() -> None:
    try:
        raise ValueError("password=hunter2")  # noqa: TRY301  # an exception with a traceback is what is needed
    except ValueError:
        made = record("Bearer abcdef012345", note="see /x?token=hunter2", password="hunter2")
        made.exc_info = sys.exc_info()

    formatted = JsonFormatter(instance_ip=None, node_name=None).format(made)

    assert "hunter2" not in formatted
    assert "abcdef012345" not in formatted
    assert "ValueError" in json.loads(formatted)["exception"]


def test_what_is_logged_arrives_in_order_and_whole() -> None:
    reader, writer = os.pipe()
    pipeline = pipeline_into(writer)

    for number in range(100):
        pipeline.emit(record("%d", number))
    assert pipeline.flush_within(10)

    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        messages = [json.loads(text)["message"] for text in stream]
    assert messages == [str(number) for number in range(100)]
    pipeline.close()


def test_a_reader_that_hangs_fills_the_queue_and_then_lines_are_dropped_and_counted() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # full after a few lines
    heard = Heard()
    pipeline = pipeline_into(writer, size=50, heard=heard)

    started = time.monotonic()
    for _ in range(5000):
        pipeline.emit(record("x" * 100))
    took = time.monotonic() - started

    assert pipeline.queued <= 50
    assert pipeline.dropped == heard.dropped > 1000
    assert max(heard.sizes) >= 50
    assert took < 10  # waiting for the pipe would never end
    assert not pipeline.flush_within(0.05)
    os.close(reader)
    assert pipeline.flush_within(10)
    os.close(writer)
    pipeline.close()


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    heard = Heard()
    descriptor = os.open("/dev/full", os.O_WRONLY)
    pipeline = pipeline_into(descriptor, heard=heard)

    for _ in range(20):
        pipeline.emit(record())

    assert pipeline.flush_within(10)
    assert heard.dropped == 20
    os.close(descriptor)
    pipeline.close()


def test_lines_flow_again_when_the_disk_has_room_again(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    descriptor = os.dup(full)
    pipeline = pipeline_into(descriptor)
    pipeline.emit(record("lost"))
    assert pipeline.flush_within(10)
    target = tmp_path / "log"

    file = os.open(target, os.O_CREAT | os.O_WRONLY)
    os.dup2(file, descriptor)
    pipeline.emit(record("kept"))
    assert pipeline.flush_within(10)

    lines = [json.loads(text) for text in target.read_text().splitlines() if text]
    assert [parsed["message"] for parsed in lines] == ["kept"]
    for opened in (full, descriptor, file):
        os.close(opened)
    pipeline.close()


def test_a_closed_standard_output_drops_and_counts() -> None:
    heard = Heard()
    pipeline = pipeline_into(None, heard=heard)

    pipeline.emit(record())

    assert heard.dropped == pipeline.dropped == 1
    pipeline.close()


def test_a_forked_child_writes_its_own_lines_and_not_its_parents_again() -> None:
    program = """
import logging, os
from app.ops.logging import configure_logging
logs = configure_logging(level="INFO", output="json", queue_size=100)
logging.info("parent")
child = os.fork()
if child == 0:
    logging.info("child")
    logs.flush(30)
    os._exit(0)
os.waitpid(child, 0)
logs.close(30)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60)

    assert sorted(json.loads(text)["message"] for text in ran.stdout.splitlines()) == ["child", "parent"]
    assert ran.stderr == b""


def test_an_exception_that_ends_a_thread_or_the_process_is_a_line() -> None:
    program = """
import threading
from app.ops.logging import configure_logging
configure_logging(level="INFO", output="json", queue_size=100)
def fail(): raise RuntimeError("in a thread")
thread = threading.Thread(target=fail, name="worker-bee"); thread.start(); thread.join()
raise LookupError("in the process")
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False, timeout=60)

    thread_line, process_line = (json.loads(text) for text in ran.stdout.splitlines())
    assert (thread_line["severity_text"], thread_line["thread_name"]) == ("ERROR", "worker-bee")
    assert "in a thread" in thread_line["exception"]
    assert process_line["severity_text"] == "CRITICAL"
    assert "in the process" in process_line["exception"]
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_what_was_logged_just_before_the_end_is_written() -> None:
    program = """
import logging, sys
from app.ops.logging import Logs, configure_logging
Logs.flush.__defaults__ = (30.0,)  # a machine that stands still at the end is waited for
configure_logging(level="INFO", output="json", queue_size=1000)
for number in range(200): logging.info("%d", number)
sys.exit(3)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False, timeout=60)

    assert (ran.returncode, len(ran.stdout.splitlines())) == (3, 200)


def test_a_process_without_standard_output_runs_and_does_not_write_into_the_next_file(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    program = f"""
import logging, os
descriptor = os.open({str(target)!r}, os.O_CREAT | os.O_RDWR)
from app.ops.logging import configure_logging
logs = configure_logging(level="INFO", output="json", queue_size=100)
logging.info("hello")
logs.close()
os._exit(0 if descriptor == 1 and logs.dropped == 1 else 3)
"""
    ran = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, program], cwd=ROOT, check=False, timeout=60
    )

    assert ran.returncode == 0
    assert target.read_bytes() == b""


def test_flushing_a_closed_pipeline_does_not_wait() -> None:
    reader, writer = os.pipe()
    pipeline = pipeline_into(writer)
    pipeline.emit(record())
    pipeline.close()

    started = time.monotonic()
    flushed = pipeline.flush_within(30)

    assert flushed
    assert time.monotonic() - started < 15
    with os.fdopen(reader, "rb") as stream:
        assert stream.readline().endswith(b"\n")
    os.close(writer)


def test_configuring_again_replaces_the_pipeline_and_closing_restores_the_hooks() -> None:
    root, hook, level = logging.getLogger(), threading.excepthook, logging.getLogger().level
    before = list(root.handlers)
    first = configure_logging(level="INFO", output="json", queue_size=10)

    second: Logs = configure_logging(level="WARNING", output="console", queue_size=10)

    assert len([handler for handler in root.handlers if isinstance(handler, LogPipeline)]) == 1
    assert root.level == logging.WARNING
    second.close()
    first.close()
    assert root.handlers == before
    assert threading.excepthook == hook
    root.setLevel(level)
