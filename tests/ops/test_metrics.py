"""Metrics have the contract's names, documented labels and bounded values."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import Metric, values
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from app.ops.admission import Reason
from app.ops.build import VERSION
from app.ops.lifecycle import HostReport, Phase, ServerWord, State, WorkerWord
from app.ops.metric_workers import WorkerCollector
from app.ops.metrics import (
    MULTIPROCESS_VARIABLE,
    OTHER_EXCEPTION,
    STORAGE_FAILURES,
    STORAGE_OPERATIONS,
    MetricFacts,
    Metrics,
)
from app.storage.base import StorageError
from tests.ops.metric_writers import leave_dead_worker

ROOT = Path(__file__).resolve().parents[2]

_ROW = re.compile(r"^\| `(photo_api_\w+)` \| (\w+)[^|]*\| ([^|]*)\|", re.MULTILINE)


def documented() -> set[MetricFacts]:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    return {
        MetricFacts(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in _ROW.findall(page)
    }


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def subclasses_of(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses_of(child)


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    assert set(Metrics(version="1").facts) == documented()


def watcher(report: HostReport | None) -> WorkerCollector:
    return WorkerCollector(lambda: report, master_pid=1, wanted=1, fresh_seconds=5.0, now=lambda: 100.0)


def test_who_watches_the_workers_has_the_last_word_on_readiness() -> None:
    metrics = Metrics(version="1")
    metrics.ready.set(1)
    server = ServerWord(1, State.READY, 0.0)
    alive = WorkerWord(os.getpid(), 1, State.READY, Phase.READY, 0, 0, 0.0, 99.0)

    seen = []
    for worker in (alive, replace(alive, beat_at=90.0)):
        metrics.watch_workers(watcher(HostReport((server,), (worker,))))
        seen.append(samples(metrics)["photo_api_ready", ()])

    assert seen == [1, 0]


def test_the_exposition_has_exactly_the_metrics_that_are_declared() -> None:
    metrics = Metrics(version="1")
    metrics.watch_operations(Flask("operations"))
    metrics.watch_workers(watcher(HostReport((), ())))
    declared = {facts.name.removesuffix("_total") for facts in metrics.facts}

    exposed = {family.name for family in text_string_to_metric_families(metrics.exposition()[0].decode())}

    assert {name for name in exposed if not name.endswith("_created")} == declared


def test_unknown_methods_and_routes_become_one_word() -> None:
    metrics = Metrics(version="1")

    for number in range(50):
        metrics.request_answered(f"M{number}", None, 404, 0.01)

    found = {key: value for key, value in samples(metrics).items() if key[0] == "photo_api_http_requests_total"}
    labels = (("code", "404"), ("method", "OTHER"), ("route", "unmatched"))
    assert found == {("photo_api_http_requests_total", labels): 50.0}


def test_failed_calls_are_timed_and_counted_by_kind() -> None:
    metrics = Metrics(version="1")

    metrics.external_call("storage", "put", outcome="success", seconds=0.1)
    metrics.external_call("storage", "put", outcome="failure", seconds=0.2, kind="timeout")

    found = samples(metrics)
    errors = (("kind", "timeout"), ("operation", "put"), ("service", "storage"))
    timed = (("operation", "put"), ("outcome", "failure"), ("service", "storage"))
    assert found["photo_api_external_request_errors_total", errors] == 1
    assert found["photo_api_external_request_duration_seconds_count", timed] == 1


def test_counters_without_labels_are_there_from_the_start() -> None:
    found = samples(Metrics(version="1"))

    assert found["photo_api_log_dropped_total", ()] == 0
    assert found["photo_api_dedup_total", ()] == 0


def test_what_may_happen_is_counted_from_zero_on_so_that_the_first_event_is_a_rise() -> None:
    found = {
        (name, *sorted(value for _, value in labels)): value
        for (name, labels), value in samples(Metrics(version="1")).items()
    }

    assert {kind.__name__ for kind in subclasses_of(StorageError)} == {*STORAGE_FAILURES, "ObjectNotFoundError"}
    for kind in STORAGE_FAILURES:
        for operation in STORAGE_OPERATIONS:
            assert found["photo_api_external_request_errors_total", *sorted([kind, operation, "storage"])] == 0
    for kind in ("pool_timeout", "disconnect", "statement", "client"):
        assert found["photo_api_db_errors_total", kind] == 0
    for kind in ("TypeError", "KeyError", OTHER_EXCEPTION):
        assert found["photo_api_exceptions_total", kind] == 0
    for result in ("hit", "miss"):
        assert found["photo_api_etag_requests_total", result] == 0
    for reason in ("queue_full", "queue_delay", "deadline", "client_left", "stopping"):
        assert found["photo_api_backpressure_rejected_total", reason] == 0
    for name in ("drain_timeout_total", "db_pool_timeouts_total", "db_pool_wait_seconds_count"):
        assert found[f"photo_api_{name}",] == 0
    assert found["photo_api_metric_files_skipped_total",] == 0
    for during in ("upload", "download"):
        assert found["photo_api_client_disconnect_total", during] == 0


def test_an_unusual_class_of_exception_is_counted_as_other() -> None:
    metrics = Metrics(version="1")

    metrics.unforeseen("SomebodysOwnError")

    assert samples(metrics)["photo_api_exceptions_total", (("exception", OTHER_EXCEPTION),)] == 1


def test_the_observers_move_their_metrics() -> None:
    metrics = Metrics(version="1")

    metrics.query(0.01)
    metrics.slow_query()
    metrics.database_error("statement")
    metrics.pool(3, 2, 1)
    metrics.log_queued(7)
    metrics.log_dropped_lines(2)
    metrics.client_left("upload")
    metrics.conditional_request(current=True)
    metrics.unforeseen("KeyError")
    metrics.backpressure(12)
    metrics.rejected(Reason.QUEUE_FULL)
    metrics.rejected("client_left")
    metrics.drain_timeout(2)
    metrics.pool_wait(0.25)
    metrics.pool_timeout()

    found = samples(metrics)
    assert found["photo_api_backpressure_queue_size", ()] == 12
    assert found["photo_api_backpressure_rejected_total", (("reason", "queue_full"),)] == 1
    assert found["photo_api_backpressure_rejected_total", (("reason", "client_left"),)] == 1
    assert found["photo_api_drain_timeout_total", ()] == 2
    assert found["photo_api_db_pool_wait_seconds_sum", ()] == 0.25
    assert found["photo_api_db_pool_timeouts_total", ()] == 1
    assert found["photo_api_db_query_duration_seconds_count", ()] == 1
    assert found["photo_api_db_slow_queries_total", ()] == 1
    assert found["photo_api_db_errors_total", (("kind", "statement"),)] == 1
    assert found["photo_api_db_pool_active_connections", ()] == 3
    assert found["photo_api_db_pool_waiting_requests", ()] == 1
    assert found["photo_api_log_queue_size", ()] == 7
    assert found["photo_api_log_dropped_total", ()] == 2
    assert found["photo_api_client_disconnect_total", (("during", "upload"),)] == 1
    assert found["photo_api_etag_requests_total", (("result", "hit"),)] == 1
    assert found["photo_api_exceptions_total", (("exception", "KeyError"),)] == 1


def test_two_objects_in_one_process_do_not_meet() -> None:
    first, second = Metrics(version="1"), Metrics(version="1")

    first.dedup.inc()

    assert samples(second)["photo_api_dedup_total", ()] == 0


_ON_A_FULL_DISK = """
import os, resource, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from app.ops.metrics import Metrics
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
metrics = Metrics(version="1")
metrics.duplicate()
print(os.listdir(sys.argv[1]), b"photo_api_dedup_total 1.0" in metrics.exposition()[0])
print(b"photo_api_ready" in metrics.exposition(names=["photo_api_dedup_total"])[0])
"""


def test_without_room_for_its_files_a_process_counts_in_memory_and_leaves_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["[]", "True", "False"]
    assert "no files for metrics (File too large)" in done.stderr


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    metrics = Metrics(version="1")

    body, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_the_answer_can_be_narrowed_to_names() -> None:
    body, _ = Metrics(version="1").exposition(names=["photo_api_ready"])

    assert [family.name for family in text_string_to_metric_families(body.decode())] == ["photo_api_ready"]


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert project["project"]["version"] == VERSION


def test_a_histogram_can_be_asked_for_by_its_own_name_or_a_samples() -> None:
    metrics = Metrics(version="1")

    whole = metrics.exposition(names=["photo_api_db_query_duration_seconds"])[0].decode()
    count = metrics.exposition(names=["photo_api_db_query_duration_seconds_count"])[0].decode()

    assert whole.count("photo_api_db_query_duration_seconds_bucket{") == 12
    assert [line for line in count.splitlines() if line[0] != "#"] == [
        "photo_api_db_query_duration_seconds_count 0.0"
    ]


def test_a_name_that_is_none_of_ours_gives_nothing() -> None:
    assert Metrics(version="1").exposition(names=["nothing"])[0] == b""


def test_answers_of_one_kind_are_one_series_whichever_way_they_are_counted() -> None:
    metrics = Metrics(version="1")

    for seconds in (0.004, 0.02, 99.0):
        metrics.request_answered("GET", "/a", 200, seconds)
    metrics.request_answered("GET", "/a", 404, 0.02)

    found = samples(metrics)
    labels = (("method", "GET"), ("route", "/a"))
    assert found["photo_api_http_requests_total", (("code", "200"), *labels)] == 3
    assert found["photo_api_http_requests_total", (("code", "404"), *labels)] == 1
    assert found["photo_api_http_request_duration_seconds_count", labels] == 4
    assert found["photo_api_http_request_duration_seconds_bucket", (("le", "0.02"), *labels)] == 3


def test_this_processes_figures_are_there_without_a_server() -> None:
    found = samples(Metrics(version="1"))

    assert found["photo_api_process_threads", (("process", "worker-1"),)] >= 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's folder, named in the environment."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv(MULTIPROCESS_VARIABLE, str(tmp_path))
    return tmp_path


def test_the_management_process_counts_and_shows_no_gauges_of_its_own(folder: Path) -> None:
    worker = Metrics(version="1")
    worker.ready.set(1)
    worker.duplicate()
    management = Metrics(version="1", role="management")

    management.ready.set(0)
    management.duplicate()

    for metrics in (worker, management):
        found = samples(metrics)
        assert found["photo_api_ready", ()] == 1
        assert found["photo_api_dedup_total", ()] == 2


def test_all_processes_are_told_in_a_form_that_is_valid_either_way(folder: Path) -> None:
    metrics = Metrics(version="1")
    leave_dead_worker(folder, 3)
    metrics.request_answered("GET", 'a"b\\c\n', 200, 0.1)

    text, _ = metrics.exposition()
    openmetrics, _ = metrics.exposition("application/openmetrics-text; version=1.0.0")

    parse: Callable[[str], Iterable[Metric]] = openmetrics_parser.text_string_to_metric_families
    plain = {family.name for family in text_string_to_metric_families(text.decode())}
    assert plain == {family.name for family in parse(openmetrics.decode())}
    assert plain <= {facts.name.removesuffix("_total") for facts in metrics.facts} | {"things", "level"}
    assert {"things", "photo_api_http_requests", "photo_api_build_info"} <= plain
    assert len(plain) == text.count(b"# TYPE ")


def test_a_damaged_file_is_counted_and_fails_no_scrape(folder: Path) -> None:
    metrics = Metrics(version="1")
    leave_dead_worker(folder, 3).write_bytes(b"garbage")

    assert samples(metrics)["photo_api_metric_files_skipped_total", ()] == 1


def test_a_file_that_was_removed_comes_back_with_the_next_figures_and_no_total_falls(folder: Path) -> None:
    worker = Metrics(version="1")
    worker.duplicate()
    management = Metrics(version="1", role="management")
    seen = [samples(management)["photo_api_dedup_total", ()]]
    for path in folder.glob("worker-*.values"):
        path.unlink()
    worker.duplicate()
    seen.append(samples(management)["photo_api_dedup_total", ()])

    worker.stability.publish()

    seen.append(samples(management)["photo_api_dedup_total", ()])
    assert seen == [1, 1, 2]
    assert samples(management)["photo_api_metric_files_skipped_total", ()] == 1
    assert samples(Metrics(version="1", role="management"))["photo_api_dedup_total", ()] == 2


def test_a_worker_that_starts_takes_in_what_many_dead_ones_left(folder: Path) -> None:
    for _ in range(8):
        leave_dead_worker(folder, 1)

    Metrics(version="1")

    assert len(list(folder.glob("*.values"))) == 1
    assert (folder / "archive").exists()


def test_without_the_variable_nothing_is_written_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MULTIPROCESS_VARIABLE)

    Metrics(version="1").duplicate()

    assert list(folder.iterdir()) == []


def test_where_no_process_has_a_file_management_tells_no_zeros_that_are_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MULTIPROCESS_VARIABLE, str(folder / "gone"))

    found = samples(Metrics(version="1", role="management"))

    assert found["photo_api_process_threads", (("process", "management-1"),)] >= 1
    assert ("photo_api_ready", ()) not in found


def test_the_operations_application_is_measured_by_rule_and_never_by_what_was_asked(folder: Path) -> None:
    metrics, app = Metrics(version="1", role="management"), Flask("operations")
    metrics.watch_operations(app)
    app.add_url_rule("/breakers/<name>", view_func=lambda name: name)
    client = app.test_client()

    for number in range(20):
        client.get(f"/breakers/{number}")
        client.get(f"/nothing/{number}")
        client.open(f"/breakers/{number}", method=f"M{number}")

    found = samples(metrics)
    counted = {
        labels: value for (name, labels), value in found.items() if name.endswith("management_http_request_total")
    }
    assert counted == {(("method", "GET"), ("status", "200")): 20, (("method", "GET"), ("status", "404")): 20}
    assert {dict(labels)["route"] for name, labels in found if "management_http_request_duration" in name} == {
        "/breakers/<name>",
        "unmatched",
    }


def test_what_is_exposed_passes_promtools_lint(folder: Path) -> None:
    """The rules of ``promtool check metrics`` (client_golang, ``prometheus/testutil/promlint/validations``)."""
    metrics = Metrics(version="1")
    metrics.watch_operations(Flask("operations"))
    metrics.request_answered("GET", "/a", 200, 0.1)
    declared = {facts.name: facts for facts in metrics.facts}

    families = list(text_string_to_metric_families(metrics.exposition()[0].decode()))

    for family in families:
        assert family.documentation, family.name
        assert family.type in {"counter", "gauge", "histogram"}, family.name
    for name, facts in declared.items():
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name), name
        assert name.endswith("_total") == (facts.kind == "counter"), name
        assert not re.search(
            r"_(count|sum|bucket|counter|gauge|histogram|milliseconds|ms|minutes|kilobytes|percent)$", name
        )
        assert not {"le", "quantile"} & set(facts.labels), name
        assert all(re.fullmatch(r"[a-z_]+", label) for label in facts.labels), name
