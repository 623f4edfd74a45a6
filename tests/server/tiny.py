"""A small application wired the way the factory wires the product, for tests of the server around it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response

from app.http import context
from app.ops.build import VERSION, find_instance
from app.ops.checks import answers, log_check, memory_check
from app.ops.health import HealthMonitor
from app.ops.lifecycle import Lifecycle, State
from app.ops.logging import Logs, configure_logging
from app.ops.metrics import Metrics
from app.ops.probes import PROBE_PATHS, ProbeAnswers
from app.ops.requests import InFlight, RequestRecorder
from app.ops.routes import operations_blueprint
from app.server.listeners import ListenerSplit
from app.server.management import build_operations_app
from app.settings import Settings, load_settings


class Runtime:
    """What the application holds open."""

    def __init__(self, monitor: HealthMonitor, lifecycle: Lifecycle, logs: Logs) -> None:
        self._monitor = monitor
        self._lifecycle = lifecycle
        self._logs = logs

    def close(self) -> None:
        """Leave a mark that says so, for the test that looks for it."""
        self._lifecycle.advance(State.STOPPED)
        self._monitor.close()
        Path(f"closed-{os.getpid()}").touch()
        self._logs.close()


def build(settings: Settings) -> Flask:
    """Build the application."""
    metrics, instance = Metrics(version=VERSION), find_instance("127.0.0.1", "tiny")
    logs = configure_logging(
        level=settings.log.level,
        output=settings.log.format,
        queue_size=settings.log.queue_size,
        instance_ip=instance.ip,
        node_name=instance.node_name,
        observer=metrics,
    )
    lifecycle = Lifecycle(metrics.in_flight_requests)
    monitor = HealthMonitor(
        lifecycle, interval_seconds=0.1, ready=metrics.ready, check_status=metrics.health_check_status
    )
    monitor.register("memory", memory_check(metrics.memory_usage), local=True)
    monitor.register("log", log_check(logs), local=True)
    monitor.register("upstream", answers(_unreachable), local=False)
    hanging = threading.Event()
    monitor.register("hanging", answers(hanging.wait), local=False, limit_seconds=0.1)
    metrics.db_pool_max.set(10)

    app = Flask("tiny")
    recorder = RequestRecorder(metrics)
    context.install(app, recorder, deadline_seconds=10, allowed_hosts=["localhost"])
    _add_routes(app, metrics)
    probes = ProbeAnswers(monitor, instance)
    operations = build_operations_app(
        [
            operations_blueprint(
                monitor=monitor, probes=probes, lifecycle=lifecycle, metrics=metrics, instance=instance
            )
        ]
    )
    app.wsgi_app = ListenerSplit(  # type: ignore[method-assign]  # Flask's documented place for middleware
        InFlight(app.wsgi_app, lifecycle),
        operations,
        management_bind=settings.server.management_bind,
        probe_paths=PROBE_PATHS,
    )
    app.extensions["photo_api"] = Runtime(monitor, lifecycle, logs)
    monitor.start()
    lifecycle.advance(State.READY)
    return app


def _unreachable() -> None:
    raise ConnectionError


def _add_routes(app: Flask, metrics: Metrics) -> None:
    def pid() -> str:
        metrics.dedup.inc()
        return str(os.getpid())

    def stream() -> Response:
        def chunks() -> Iterator[bytes]:
            while True:
                yield b"x" * 65_536

        return Response(chunks())

    def breaks_off() -> Response:
        def chunks() -> Iterator[bytes]:
            yield b"x" * 65_536
            raise RuntimeError("in the middle")

        return Response(chunks())

    def broken() -> str:
        raise RuntimeError("password=hunter2")

    app.add_url_rule("/pid", view_func=pid)
    app.add_url_rule("/stream", view_func=stream)
    app.add_url_rule("/broken", view_func=broken)
    app.add_url_rule("/breaks-off", view_func=breaks_off)


def app_from_environment() -> Flask:
    """Build the application from the process's environment: gunicorn calls this in each worker."""
    return build(load_settings())
