"""Gunicorn's configuration file, made from the settings: ``gunicorn -c app/server/gunicorn_conf.py wsgi:app``.

``python -m app serve`` calls exactly that. Gunicorn runs this file in the master, at start and on every reload,
and reads the names at the bottom of it; it is no module to import. Two binds, threaded workers, no access log
and no control socket. Each worker builds the application for itself after the fork (nothing is preloaded), and
closes it on its way out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from app.errors import ConfigurationError
from app.ops.build import find_instance
from app.ops.logging import configure_logging
from app.server import refusals
from app.server.metrics_folder import forget_worker, open_metrics_folder
from app.server.state_folder import STATE_FOLDER, open_state_folder
from app.settings import Settings, load_settings

_METRICS_PARENT: Final = Path("var/run/metrics")
_EXIT_CONFIGURATION = 78  # EX_CONFIG, as every command has it
_KEEP_ALIVE_SECONDS = 75  # longer than nginx keeps an idle upstream connection, so that nginx closes first
_PRIVATE = 0o077  # whatever the server makes first, such as var, is for its user alone
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # gunicorn makes its heartbeat files there, unlinked at once


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """Return gunicorn's settings for ours.

    Args:
        settings: Valid ones.
    """
    server = settings.server
    return {
        "bind": [server.bind, server.management_bind],
        "worker_class": "gthread",
        "workers": server.workers,
        "threads": server.threads,
        "graceful_timeout": round(server.graceful_timeout_seconds),
        "keepalive": _KEEP_ALIVE_SECONDS,
        "forwarded_allow_ips": ",".join(server.trusted_proxies),
        "secure_scheme_headers": {"X-FORWARDED-PROTO": "https"},
        "forwarder_headers": "",
        "proc_name": "photo-api",
        "loglevel": settings.log.level.lower(),
        "logger_class": "app.server.gunicorn_logging.GunicornLogger",
        "accesslog": None,
        "control_socket_disable": True,
        "worker_tmp_dir": str(_SHARED_MEMORY) if os.access(_SHARED_MEMORY, os.W_OK) else None,
        "preload_app": False,
    }


def on_starting(_server: Any) -> None:
    """Ask the world whether the settings can work (in the master, before anything listens).

    What is imported here, the workers need not import again.
    """
    from app.startup import verify_startup  # noqa: PLC0415  # not before the metrics folder is named

    with _mistakes_end_the_start():
        verify_startup(load_settings())


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the gauges of a worker that is gone (in the master)."""
    forget_worker(worker.pid)


def worker_exit(_server: Any, worker: Any) -> None:
    """Close what the application opened (in the worker, on its way out)."""
    application = getattr(worker, "wsgi", None)
    runtime = getattr(application, "extensions", {}).get("photo_api")
    if runtime is not None:
        runtime.close()


@contextmanager
def _mistakes_end_the_start() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        print("The configuration is wrong:", *error.mistakes, sep="\n  ", file=sys.stderr)  # noqa: T201  # for whoever starts it
        sys.exit(_EXIT_CONFIGURATION)


def _configure() -> dict[str, Any]:
    with _mistakes_end_the_start():
        settings = load_settings()
        os.umask(_PRIVATE)
        open_metrics_folder(_METRICS_PARENT, os.environ)
    refusals.install()
    instance = find_instance(settings.instance.ip, settings.instance.node_name)
    configure_logging(
        level=settings.log.level,
        output=settings.log.format,
        queue_size=settings.log.queue_size,
        instance_ip=instance.ip,
        node_name=instance.node_name,
    )
    open_state_folder(STATE_FOLDER, os.environ)
    return gunicorn_options(settings)


if __name__ == "__config__":  # the name under which gunicorn runs its configuration file
    globals().update(_configure())
