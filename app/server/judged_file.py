"""Loads settings for a server, with the pipelines' file as it was judged for workers that start later.

A worker reads that file when it starts, which may be long after somebody has edited it. What workers are given is the
copy that was judged with the settings: a mistake in the file keeps none of them from being replaced.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.pipelines import load_configuration, load_pipelines, pipelines_path
from app.settings import Settings

_log = logging.getLogger(__name__)

_DIGITS = 16


def load_judged(folder: Callable[[], Path]) -> Settings:
    """Load and judge all that is configured.

    Args:
        folder: Opens the folder of this server, once the configuration is right.

    Raises:
        ConfigurationError: With every mistake.
    """
    settings = load_configuration().loaded.settings
    return with_judged_pipelines(settings, folder())


def with_judged_pipelines(settings: Settings, folder: Path) -> Settings:
    """Return settings that name a copy of the pipelines' file, which nobody edits.

    The copy is named after its content, so that a reload which is refused in the end takes nothing from the settings
    that hold. Where it cannot be made, the file itself is used on, and the log says so.

    Args:
        settings: Valid ones.
        folder: Of this server alone.

    Raises:
        ConfigurationError: The file is wrong by now.
    """
    try:
        copy = _copied(pipelines_path(settings), folder)
    except OSError as error:
        _log.warning("no copy of the pipelines' file (%s): workers read it as it is then", error.strerror)
        return settings
    stability = settings.stability.model_copy(update={"pipelines_file": copy})
    judged = settings.model_copy(update={"stability": stability})
    load_pipelines(judged)
    return judged


def _copied(path: Path, folder: Path) -> Path:
    content = path.read_bytes()
    copy = folder / f"pipelines-{hashlib.sha256(content).hexdigest()[:_DIGITS]}.toml"
    if copy.exists():
        return copy
    descriptor, unnamed = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(unnamed).replace(copy)
    except OSError:
        with suppress(OSError):
            Path(unnamed).unlink()
        raise
    return copy
