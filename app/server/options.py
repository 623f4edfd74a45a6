"""What gunicorn is told: its options, made from the settings, and what it calls on the way.

Nothing is preloaded: each worker builds the application for itself after the fork, from the settings that the master
has judged, and closes it on its way out. There is no access log and no control socket.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from gunicorn.config import Config

from app.settings import Settings

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # gunicorn makes its heartbeat files there, unlinked at once
_JITTER_SHARE: Final = 10  # a tenth: workers that began together do not all recycle together

_MANAGEMENT: Final = {
    "worker_class": "app.server.management_worker.ManagementWorker",
    "threads": 4,
    "worker_connections": 200,
    "graceful_timeout": 3,
    "max_requests": 0,
    "max_requests_jitter": 0,
}


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """Return gunicorn's settings for ours.

    Args:
        settings: Valid ones.
    """
    server = settings.server
    return {
        "bind": [server.bind, server.management_bind],
        "worker_class": "app.server.worker.AdmissionWorker",
        "workers": server.workers,
        "threads": server.threads,
        "max_requests": server.max_requests,
        "max_requests_jitter": server.max_requests // _JITTER_SHARE,
        "graceful_timeout": round(server.graceful_timeout_seconds),
        "keepalive": server.keep_alive_seconds,
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
        "on_starting": verify_world,
        "worker_exit": worker_exit,
    }


def public_configuration(settings: Settings) -> Config:
    """Return the configuration of the master and its workers.

    Args:
        settings: Valid ones.
    """
    return _configured(gunicorn_options(settings))


def management_configuration(settings: Settings) -> Config:
    """Return the configuration of the management process: a few threads, and soon gone when asked to go.

    Args:
        settings: Valid ones.
    """
    return _configured(gunicorn_options(settings) | _MANAGEMENT)


def verify_world(server: Any) -> None:
    """Ask the world whether the settings can work (in the master before anything listens, in the judge of a reload).

    What is imported here, the workers need not import again.

    Args:
        server: The arbiter, whose ``app`` has the settings.

    Raises:
        ConfigurationError: They cannot.
    """
    from app.startup import verify_startup  # noqa: PLC0415  # not before the metrics folder is named

    verify_startup(server.app.settings)


def worker_exit(_server: Any, worker: Any) -> None:
    """Close what the application opened (in the worker, on its way out)."""
    application = getattr(worker, "wsgi", None)
    runtime = getattr(application, "extensions", {}).get("photo_api")
    if runtime is not None:
        runtime.close()


def _configured(options: dict[str, Any]) -> Config:
    configuration = Config()
    for name, value in options.items():
        configuration.set(name, value)
    configuration.validate()
    return configuration
