"""The server as gunicorn knows it: its settings, its configuration, and how each process gets its application.

A process builds its application from the settings that the master has judged last, so a file that is wrong by now
keeps no worker from being replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gunicorn import util
from gunicorn.app.base import BaseApplication

from app.ops.build import find_instance
from app.ops.logging import Logs, configure_logging
from app.server import refusals
from app.server.judged_file import load_judged
from app.server.metrics_folder import open_metrics_folder
from app.server.options import management_configuration, public_configuration
from app.server.state_folder import STATE_FOLDER, open_state_folder
from app.settings import Settings

_METRICS_PARENT: Final = Path("var/run/metrics")
_PRIVATE = 0o077  # whatever the server makes first, such as var, is for its user alone


@dataclass(frozen=True, slots=True)
class Factories:
    """Where the applications come from, each as ``module:function``; the function is given the settings.

    Attributes:
        public: What the workers serve.
        management: What the management process serves.
    """

    public: str = "app.factory:create_app"
    management: str = "app.factory:create_management_app"


class PhotoServer(BaseApplication):  # type: ignore[misc]  # its base has no types
    """What is served. Reads the settings when it is made, and again at each reload.

    Args:
        factories: Where the applications come from.

    Attributes:
        settings: The settings that hold.
        cfg: Gunicorn's configuration, made from them.
        logs: The master's log.

    Raises:
        ConfigurationError: The settings cannot work; with every mistake.
    """

    settings: Settings
    logs: Logs

    def __init__(self, factories: Factories) -> None:
        self._factories = factories
        super().__init__()

    def do_load_config(self) -> None:
        """Read the settings, all of them or none.

        Raises:
            ConfigurationError: They cannot work; what held still holds.
        """
        os.umask(_PRIVATE)
        settings = load_judged(lambda: open_metrics_folder(_METRICS_PARENT, os.environ))
        configuration = public_configuration(settings)
        refusals.install()
        instance = find_instance(settings.instance.ip, settings.instance.node_name)
        self.logs = configure_logging(
            level=settings.log.level,
            output=settings.log.format,
            queue_size=settings.log.queue_size,
            instance_ip=instance.ip,
            node_name=instance.node_name,
        )
        open_state_folder(STATE_FOLDER, os.environ)
        self.settings, self.cfg = settings, configuration

    def reload(self) -> None:
        """Read the settings again.

        Raises:
            ConfigurationError: They cannot work; what held still holds.
        """
        self.do_load_config()

    def load(self) -> Any:
        """Build what a worker serves (in the worker)."""
        return _find(self._factories.public)(self.settings)

    def management(self) -> ManagementServer:
        """Return what the management process serves."""
        return ManagementServer(self._factories.management, self.settings)


class ManagementServer:
    """What the management process serves.

    Args:
        factory: Where the application comes from.
        settings: The settings that hold.

    Attributes:
        cfg: Gunicorn's configuration of that process.
    """

    def __init__(self, factory: str, settings: Settings) -> None:
        self.cfg = management_configuration(settings)
        self._factory = factory
        self._settings = settings

    def wsgi(self) -> Any:
        """Build the application (in the management process)."""
        return _find(self._factory)(self._settings)


def _find(factory: str) -> Callable[[Settings], Any]:
    # gunicorn's own way of saying that a name is wrong, which its master understands
    found: Callable[[Settings], Any] = util.import_app(factory)
    return found
