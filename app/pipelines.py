"""The pipelines that every call to a dependency runs through, read from ``config/stability.toml``.

Mistakes in that file and in the settings are told together, before anything listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from app.errors import ConfigurationError
from app.settings import CONFIG_FOLDER, PROFILES, LoadedSettings, Settings, judge_settings
from app.settings_rules import find_cautions, names_of
from app.settings_sources import variable_of
from app.stability import Chaos, CircuitBreaker, Classification, OptionError, Pipeline, PolicyContext
from app.stability.configuration import build_pipelines
from app.stability.document import read_document
from app.stability.pipelines import Pipelines

NAMES: Final = (
    "storage_read",
    "storage_write",
    "storage_delete",
    "storage_list",
    "database",
    "database_read",
    "database_write",
    "events",
    "swift_auth",
    "cdn",
    "cdn_token",
    "cdn_purge",
    "redis",
)
"""Every pipeline that this product uses; the file has exactly these."""

_FILE_NAME: Final = "stability.toml"
_NOTHING: Final[Mapping[str, Classification]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that is configured.

    Attributes:
        loaded: The settings.
        pipelines: The pipelines as they will run, for looking at: nothing is wired to them.
        cautions: What works and is probably not meant, one sentence each.
    """

    loaded: LoadedSettings
    pipelines: Pipelines
    cautions: tuple[str, ...]


def load_pipelines(
    settings: Settings,
    *,
    classifications: Mapping[str, Classification] = _NOTHING,
    context: PolicyContext | None = None,
    config_folder: Path = CONFIG_FOLDER,
) -> Pipelines:
    """Build the pipelines for one process.

    Args:
        settings: Valid ones.
        classifications: What is a failure, by pipeline.
        context: Clock, bus and board of the policies.
        config_folder: Where ``stability.toml`` lies when the settings name no other file.

    Raises:
        ConfigurationError: With every mistake in the file.
    """
    path = pipelines_path(settings, config_folder)
    kinds = {"chaos": Chaos.given(allowed=settings.chaos.enabled)}
    try:
        document = read_document(path)
        pipelines = build_pipelines(
            document,
            profile=settings.profile,
            profiles=PROFILES,
            names=NAMES,
            deadline_seconds=settings.server.request_deadline_seconds,
            classifications=classifications,
            context=context,
            kinds=kinds,
        )
        _require_breaker_alone(pipelines["database"])
        for profile in document.get("profiles", ()):
            _require_breaker_alone(build_pipelines(document, profile=profile, kinds=kinds)["database"], profile)
    except OptionError as error:
        told = [mistake.removeprefix(f"{path}: ") for mistake in error.mistakes]
        mistakes = [f"{_place(settings)}: {mistake}" for mistake in told]
        raise ConfigurationError(mistakes, profile=settings.profile) from error
    return pipelines


def pipelines_path(settings: Settings, config_folder: Path = CONFIG_FOLDER) -> Path:
    """Return the file that the pipelines are read from.

    Args:
        settings: Valid ones.
        config_folder: Where ``stability.toml`` lies when the settings name no other file.
    """
    given = settings.stability.pipelines_file
    return config_folder / _FILE_NAME if given is None else given


def load_configuration(
    environ: Mapping[str, str] | None = None,
    *,
    working_folder: Path | None = None,
    config_folder: Path = CONFIG_FOLDER,
    look_further: Callable[[Settings], Iterable[str]] = lambda _settings: (),
) -> Configuration:
    """Load and judge all that is configured: the settings and the pipelines.

    Args:
        environ: The environment; default: that of this process.
        working_folder: Where ``.env`` lies and relative paths start; default: the process's.
        config_folder: Where the profile files and ``stability.toml`` lie.
        look_further: Finds mistakes in what the settings name, which have the defaults in place of wrong values.

    Raises:
        ConfigurationError: With every mistake of all.
    """
    judged = judge_settings(environ, working_folder=working_folder, config_folder=config_folder)
    settings = judged.loaded.settings
    mistakes = [*judged.mistakes, *look_further(settings)]
    try:
        pipelines = load_pipelines(settings, config_folder=config_folder)
    except ConfigurationError as error:
        raise ConfigurationError([*mistakes, *error.mistakes], profile=judged.profile) from error
    if mistakes:
        raise ConfigurationError(mistakes, profile=judged.profile)
    about_settings = [f"{names_of(caution)}: {caution.text}" for caution in find_cautions(settings)]
    about_pipelines = [f"{_place(settings)}: {caution}" for caution in pipelines.cautions]
    cautions = (*about_settings, *about_pipelines)
    return Configuration(judged.loaded, pipelines, cautions)


def _require_breaker_alone(database: Pipeline, profile: str | None = None) -> None:
    if any(not isinstance(policy, CircuitBreaker) for policy in database.policies):
        mistake = (
            'pipelines.database.policies may hold "circuit_breaker" and nothing else: a block that uses a connection '
            "can neither be done again nor queued. Put retry and timeout into database_read and database_write"
        )
        raise OptionError([mistake if profile is None else f"in profile {profile}: {mistake}"])


def _place(settings: Settings) -> str:
    """Return the file's name for messages; that of its setting when another one is named there."""
    is_ours = settings.stability.pipelines_file is None
    return f"config/{_FILE_NAME}" if is_ours else variable_of("stability", "pipelines_file")
