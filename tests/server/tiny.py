"""A small application wired the way the factory wires the product, for tests of the server around it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, request

from app.http import context
from app.ops.build import VERSION, find_instance
from app.ops.checks import answers, log_check, memory_check
from app.ops.health import HealthMonitor
from app.ops.lifecycle import HostLife, Lifecycle, State
from app.ops.logging import configure_logging
from app.ops.metric_files import Role
from app.ops.metric_workers import WorkerCollector
from app.ops.metrics import Metrics
from app.ops.probes import PROBE_PATHS, ProbeAnswers
from app.ops.requests import InFlight, RequestRecorder
from app.ops.routes import operations_blueprint
from app.ops.state import find_page
from app.server.management import build_operations_app
from app.server.probe_split import ProbeSplit
from app.server.watching import FRESH_SECONDS, WatchedServer
from app.settings import Settings

ENOUGH = "enough"
"""A file of the working folder: slow answers come to their end when it is there."""


class Runtime:
    """What the application holds open."""

    def __init__(self, settings: Settings, role: Role) -> None:
        self.metrics = Metrics(version=VERSION, role=role)
        self.page = find_page(os.environ)
        self.instance = find_instance("127.0.0.1", "tiny")
        self.logs = configure_logging(
            level=settings.log.level,
            output=settings.log.format,
            queue_size=settings.log.queue_size,
            instance_ip=self.instance.ip,
            node_name=self.instance.node_name,
            observer=self.metrics,
        )


class WorkerRuntime(Runtime):
    """What a worker holds open."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "worker")
        metrics = self.metrics
        self.lifecycle = Lifecycle(metrics.in_flight_requests, page=self.page, master_pid=os.getppid())
        self.monitor = HealthMonitor(
            self.lifecycle, interval_seconds=0.1, ready=metrics.ready, check_status=metrics.health_check_status
        )
        self.monitor.register("memory", memory_check(metrics.memory_usage), local=True)
        self.monitor.register("log", log_check(self.logs), local=True)
        self.monitor.register("upstream", answers(_unreachable), local=False)
        hanging = threading.Event()
        self.monitor.register("hanging", answers(hanging.wait), local=False, limit_seconds=0.1)
        metrics.db_pool_max.set(10)
        self.probes = ProbeAnswers(self.monitor, self.instance)

    def close(self) -> None:
        """Leave a mark that says so, for the test that looks for it."""
        self.lifecycle.advance(State.STOPPED)
        self.monitor.close()
        Path(f"closed-{os.getpid()}").touch()
        self.logs.close()
        self.lifecycle.close()


class ManagementRuntime(Runtime):
    """What the management process holds open."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "management")
        self.server = WatchedServer(HostLife(self.page), os.getppid())
        self.metrics.watch_workers(
            WorkerCollector(
                HostLife(self.page).look,
                master_pid=os.getppid(),
                wanted=settings.server.workers,
                fresh_seconds=FRESH_SECONDS,
            )
        )
        self.monitor = HealthMonitor(self.server)
        self.monitor.register_live("workers", self.server.check_workers, local=True)
        self.monitor.register("memory", memory_check(self.metrics.memory_usage), local=True)
        self.probes = ProbeAnswers(
            self.monitor, self.instance, is_alive=self.server.is_alive, trouble=self.server.trouble
        )

    def close(self) -> None:
        """Leave a mark that says so, for the test that looks for it."""
        self.monitor.close()
        Path(f"closed-management-{os.getpid()}").touch()
        self.logs.close()


def build(settings: Settings) -> Flask:
    """Build the application of a worker."""
    runtime = WorkerRuntime(settings)
    app = Flask("tiny")
    context.install(app, RequestRecorder(runtime.metrics), deadline_seconds=10, allowed_hosts=["localhost"])
    _add_routes(app, runtime.metrics)
    probes = operations_blueprint(
        monitor=runtime.monitor,
        probes=runtime.probes,
        lifecycle=runtime.lifecycle,
        metrics=runtime.metrics,
        instance=runtime.instance,
    )
    app.wsgi_app = ProbeSplit(  # type: ignore[method-assign]  # Flask's documented place for middleware
        InFlight(app.wsgi_app, runtime.lifecycle), build_operations_app([probes]), probe_paths=PROBE_PATHS
    )
    app.extensions["photo_api"] = runtime
    runtime.monitor.start()
    runtime.lifecycle.advance(State.READY)
    return app


def build_when_told(settings: Settings) -> Flask:
    """Build the application of a worker once there is a file ``go``."""
    while not Path("go").exists():
        time.sleep(0.01)  # between two looks, not instead of one
    return build(settings)


def build_unless_told(settings: Settings) -> Flask:
    """Build the application of a worker unless there is a file ``stop``."""
    if Path("stop").exists():
        raise RuntimeError("told to fail")
    return build(settings)


def build_nothing(_settings: Settings) -> Flask:
    """Fail, as the application of a process that cannot start."""
    raise RuntimeError("told to fail")


def build_management(settings: Settings) -> Flask:
    """Build the application of the management process."""
    runtime = ManagementRuntime(settings)
    app = build_operations_app(
        [
            operations_blueprint(
                monitor=runtime.monitor,
                probes=runtime.probes,
                lifecycle=runtime.server,
                metrics=runtime.metrics,
                instance=runtime.instance,
            )
        ]
    )
    app.extensions["photo_api"] = runtime
    runtime.monitor.start()
    return app


def _unreachable() -> None:
    raise ConnectionError


def _slow() -> Response:
    seconds = request.args.get("seconds", 1.0, float)

    def chunks() -> Iterator[bytes]:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not Path(ENOUGH).exists():
            yield b"x" * 1000
            time.sleep(0.05)  # it is slow because it was asked to be

    return Response(chunks())


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

    app.add_url_rule("/slow", view_func=_slow)
    app.add_url_rule("/pid", view_func=pid)
    app.add_url_rule("/stream", view_func=stream)
    app.add_url_rule("/broken", view_func=broken)
    app.add_url_rule("/breaks-off", view_func=breaks_off)
