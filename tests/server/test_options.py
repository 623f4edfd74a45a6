"""Gunicorn is configured from the settings and logs through the product's pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from gunicorn.config import Config

from app.server.gunicorn_logging import GunicornLogger
from app.server.management_worker import ManagementWorker
from app.server.options import management_configuration, public_configuration, worker_exit
from app.server.worker import AdmissionWorker
from app.settings import Settings
from app.settings_edge import ServerSettings


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    names = ("gunicorn.error", "gunicorn.access")
    before = [(logger, logger.propagate, logger.level) for logger in map(logging.getLogger, names)]
    yield
    for logger, propagate, level in before:
        logger.propagate = propagate
        logger.setLevel(level)


def configured(**server: object) -> Config:
    return public_configuration(Settings(server=ServerSettings.model_validate(server)))


def test_gunicorn_takes_every_option_and_serves_both_addresses() -> None:
    config = configured(bind="127.0.0.1:8000", management_bind="unix:/run/photo", workers=3, threads=5)

    assert config.address == [("127.0.0.1", 8000), "/run/photo"]
    assert (config.workers, config.threads) == (3, 5)
    assert config.worker_class is AdmissionWorker
    assert config.control_socket_disable
    assert config.accesslog is None


def test_only_the_trusted_proxies_are_believed() -> None:
    assert configured().forwarded_allow_ips == []
    assert configured(trusted_proxies=["10.0.0.0/8"]).forwarded_allow_ips == ["10.0.0.0/8"]


def test_gunicorns_own_lines_go_to_the_root_logger_and_there_is_no_access_log() -> None:
    logger = GunicornLogger(configured())

    assert logger.error_log.handlers == logger.access_log.handlers == []
    assert logger.error_log.propagate
    assert not logger.access_log_enabled


def test_a_worker_that_never_loaded_the_application_can_exit() -> None:
    worker_exit(None, object())


def test_workers_recycle_after_the_requests_of_the_settings_and_not_all_at_once() -> None:
    never, often = configured(), configured(max_requests=1000)

    assert (never.max_requests, never.max_requests_jitter) == (0, 0)
    assert (often.max_requests, often.max_requests_jitter) == (1000, 100)


def test_the_management_process_has_few_threads_ends_soon_and_never_recycles() -> None:
    settings = Settings(server=ServerSettings.model_validate({"threads": 64, "max_requests": 10}))

    config = management_configuration(settings)

    assert config.worker_class is ManagementWorker
    assert (config.threads, config.graceful_timeout, config.max_requests) == (4, 3, 0)
