"""Every setting: typed, with unit, range, default and one line of meaning.

``load_settings()`` merges environment over ``.env`` over ``config/<profile>.toml`` over the defaults below
and reports **all** mistakes at once. Here are the models and the loading; reading the sources is in
``settings_sources``, the written forms of values in ``settings_forms``, rules between settings in
``settings_rules``, the printed table in ``settings_table``. Nothing here opens a socket or makes a folder:
what only the world can tell (is the database there?) is judged at start-up.

No value is ever repeated in a message: what stands in the wrong place may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.errors import ConfigurationError
from app.settings_delivery import CacheSettings, CdnSettings, LinksSettings, RedisSettings, StorageSettings
from app.settings_edge import BalancerSettings, EdgeSettings, ServerSettings
from app.settings_fields import (
    DatabaseUrl,
    FilePath,
    IpAddress,
    Number,
    OptionalFilePath,
    Section,
    SigningSecret,
    Whole,
    setting,
)
from app.settings_forms import DATABASE_DRIVERS, MIN_SECRET_BYTES, absolute_database_url
from app.settings_renditions import RenditionSettings
from app.settings_rules import find_contradictions, names_of
from app.settings_sources import (
    ENV_FILE,
    PROFILE_VARIABLE,
    KnownSettings,
    Layer,
    did_you_mean,
    read_env_file,
    read_environment,
    read_profile_file,
    variable_of,
)

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "config"
PROFILES = ("development", "production", "test")
DEFAULT_KEY_RING_FILE = Path("var/keys/ring.json")

_GIBIBYTE = 1_073_741_824


class DatabaseSettings(Section):
    """The database and its connection pool (one pool per worker process)."""

    url: DatabaseUrl = setting(
        SecretStr("sqlite:///var/photo-api.db"),
        "URL of SQLite, PostgreSQL or MariaDB (not MySQL); a relative SQLite path starts in the working folder",
        allowed=f"a URL {', '.join(f'{driver}://…' for driver in DATABASE_DRIVERS)}",
    )
    pool_size: Whole = setting(10, "Connections kept open per worker", low=1, high=500, unit="connections")
    max_overflow: Whole = setting(
        30, "Connections opened besides when all are busy, closed afterwards", low=0, high=500, unit="connections"
    )
    pool_timeout_seconds: Number = setting(
        2.0, "How long a request waits for a free connection before it gets a 503", low=0.05, high=30, unit="seconds"
    )
    statement_timeout_seconds: Number = setting(
        5.0, "How long a database server may work on one statement", low=0.1, high=60, unit="seconds"
    )
    pool_recycle_seconds: Whole = setting(
        1800, "Age at which a connection is replaced", low=1, high=86_400, unit="seconds"
    )
    slow_query_seconds: Number = setting(
        1.0, "Statements that take this long are logged, without their values", low=0.001, high=60, unit="seconds"
    )


class AuthSettings(Section):
    """Accounts, tokens and the keys that sign them."""

    jwt_secret: SigningSecret = setting(
        None,
        "The one key that signs access tokens; excludes the key ring and cannot be rotated without a restart",
        allowed=f"at least {MIN_SECRET_BYTES} random bytes, written as text",
    )
    key_ring_file: OptionalFilePath = setting(
        DEFAULT_KEY_RING_FILE,
        "File of the keys that sign access tokens; shared by all instances, must be named in production",
        allowed="a path",
    )
    access_token_seconds: Whole = setting(600, "Life of an access token", low=30, high=3600, unit="seconds")
    refresh_token_seconds: Whole = setting(
        604_800, "Life of a refresh token that is not used", low=60, high=7_776_000, unit="seconds"
    )
    refresh_absolute_seconds: Whole = setting(
        2_592_000, "Life of a session, however often it is refreshed", low=60, high=31_536_000, unit="seconds"
    )
    registration: Literal["open", "closed"] = setting(
        "open", "Whether strangers may make an account; closed in config/production.toml"
    )
    principal_cache_seconds: Number = setting(
        5.0,
        "How long a worker believes that a token or key is not revoked; 0 asks every time",
        low=0,
        high=30,
        unit="seconds",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_key_family(cls, given: Any) -> Any:
        """A secret takes the place of the default key ring."""
        if isinstance(given, dict) and given.get("jwt_secret") is not None and "key_ring_file" not in given:
            return {**given, "key_ring_file": None}
        return given


class UploadSettings(Section):
    """Limits of one upload and the protocol that commits it."""

    max_bytes: Whole = setting(31_457_280, "Largest photo", low=1024, high=5 * _GIBIBYTE, unit="bytes")
    max_pixels: Whole = setting(
        64_000_000, "Largest width x height x frames of a photo", low=1, high=1_000_000_000, unit="pixels"
    )
    spool_dir: FilePath = setting(
        Path("var/spool"),
        "Folder of incoming bodies over 1 MiB; a relative path starts in the working folder",
        allowed="a path",
    )
    decode_first: bool = setting(
        False,
        "Whether a photo is decoded before it is taken in, and refused when that fails; costs processor time",
        allowed="true or false",
    )
    lease_seconds: Whole = setting(
        15, "How long an upload that stopped renewing its lease is left alone", low=2, high=300, unit="seconds"
    )
    idempotency_seconds: Whole = setting(
        86_400, "How long the answer to an Idempotency-Key is kept", low=60, high=2_592_000, unit="seconds"
    )


class PhotoSettings(Section):
    """What an account may keep, and for how long trash stays."""

    trash_days: Whole = setting(30, "How long a photo stays in the trash", low=0, high=3650, unit="days")
    quota_bytes: Whole = setting(
        10 * _GIBIBYTE, "What all photos of one account may weigh", low=1024, high=_GIBIBYTE * _GIBIBYTE, unit="bytes"
    )
    sample_per_day: Whole = setting(
        200,
        "Photos chosen by chance whose stored bytes are checked each day; 0 checks none",
        low=0,
        high=100_000,
        unit="photos",
    )


class LogSettings(Section):
    """Logs on standard output."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = setting("INFO", "The least severity logged")
    format: Literal["json", "console"] = setting(
        "json", "One JSON object per line, or lines for a person; console in config/development.toml"
    )
    queue_size: Whole = setting(
        10_000,
        "Lines that may wait to be written; more are dropped and counted",
        low=100,
        high=1_000_000,
        unit="lines",
    )


class InstanceSettings(Section):
    """Which instance this is, for logs and health."""

    ip: IpAddress = setting(
        None, "Address of this instance; not set means found at start", allowed="an IPv4 or IPv6 address"
    )
    node_name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = setting(
        None,
        "Name of this instance; not set means the host's name",
        allowed="1 to 63 letters, digits, dots, hyphens and underscores",
    )


class StabilitySettings(Section):
    """What stands between this server and what it depends on."""

    pipelines_file: OptionalFilePath = setting(
        None,
        "File of the pipelines that all calls to dependencies run through; not set means config/stability.toml",
        allowed="a path",
    )


class ChaosSettings(Section):
    """Faults made on purpose."""

    enabled: bool = setting(
        False,
        "Whether the chaos policies of the pipelines may act; never in production",
        allowed="true or false",
    )


class Settings(BaseSettings):
    """All settings; immutable. Made by :func:`load_settings`, which alone reads the world.

    Constructed directly it takes its arguments and the defaults: no environment, no file, no rules
    between settings.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    profile: Literal["development", "production", "test"] = Field(
        "development", description="Which config/<profile>.toml is read, and how strict the rules are"
    )
    database: DatabaseSettings = DatabaseSettings()
    storage: StorageSettings = StorageSettings()
    cdn: CdnSettings = CdnSettings()
    links: LinksSettings = LinksSettings()
    redis: RedisSettings = RedisSettings()
    cache: CacheSettings = CacheSettings()
    auth: AuthSettings = AuthSettings()
    uploads: UploadSettings = UploadSettings()
    photos: PhotoSettings = PhotoSettings()
    renditions: RenditionSettings = RenditionSettings()
    log: LogSettings = LogSettings()
    instance: InstanceSettings = InstanceSettings()
    server: ServerSettings = ServerSettings()
    edge: EdgeSettings = EdgeSettings()
    balancer: BalancerSettings = BalancerSettings()
    stability: StabilitySettings = StabilitySettings()
    chaos: ChaosSettings = ChaosSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the arguments as the only source: the others know neither did-you-mean nor masking."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings together with where each value came from.

    Attributes:
        settings: The values.
        origins: By ``(section, name)``: ``environment``, ``.env``, ``config/<profile>.toml``; missing for a default.
        profile_origin: The same for the profile.
    """

    settings: Settings
    origins: Mapping[tuple[str, str], str]
    profile_origin: str


@dataclass(frozen=True, slots=True)
class JudgedSettings:
    """Settings with everything that is wrong with them.

    Attributes:
        loaded: The settings, with the defaults in place of wrong values.
        profile: The profile; None when its name is a mistake.
        mistakes: Every mistake, none of which repeats a value.
    """

    loaded: LoadedSettings
    profile: str | None
    mistakes: tuple[str, ...]


def load_settings(
    environ: Mapping[str, str] | None = None,
    *,
    working_folder: Path | None = None,
    config_folder: Path = CONFIG_FOLDER,
) -> Settings:
    """Load and judge all settings.

    Args:
        environ: The environment; default: that of this process.
        working_folder: Where ``.env`` lies and relative paths start; default: the process's.
        config_folder: Where the profile files lie.

    Returns:
        The settings, with every relative path made absolute.

    Raises:
        ConfigurationError: With every mistake, none of which repeats a value.
    """
    return load_with_origins(environ, working_folder=working_folder, config_folder=config_folder).settings


def load_with_origins(
    environ: Mapping[str, str] | None = None,
    *,
    working_folder: Path | None = None,
    config_folder: Path = CONFIG_FOLDER,
) -> LoadedSettings:
    """Do what :func:`load_settings` does and tell where each value came from.

    Raises:
        ConfigurationError: With every mistake, none of which repeats a value.
    """
    judged = judge_settings(environ, working_folder=working_folder, config_folder=config_folder)
    if judged.mistakes:
        raise ConfigurationError(judged.mistakes, profile=judged.profile)
    return judged.loaded


def judge_settings(
    environ: Mapping[str, str] | None = None,
    *,
    working_folder: Path | None = None,
    config_folder: Path = CONFIG_FOLDER,
) -> JudgedSettings:
    """Do what :func:`load_with_origins` does, and return the mistakes, for whoever finds more of them elsewhere."""
    folder = Path.cwd() if working_folder is None else working_folder.absolute()
    known = known_settings()
    layers = [
        read_environment(os.environ if environ is None else environ, known, folder),
        read_env_file(folder / ENV_FILE, known, folder),
    ]
    profile, mistakes = _choose_profile(layers)
    if profile is not None:
        layers.append(read_profile_file(config_folder / f"{profile}.toml", known, folder))
    mistakes += [mistake for layer in layers for mistake in layer.mistakes]
    values, origins = _merge(layers)
    settings, wrong, value_mistakes = _validate(profile, layers, values, origins)
    mistakes += value_mistakes
    for contradiction in find_contradictions(settings, frozenset(values), strict=settings.profile == "production"):
        if wrong.isdisjoint(contradiction.settings):
            mistakes.append(f"{names_of(contradiction)}: {contradiction.text}")
    profile_origin = next((layer.origin for layer in layers if layer.profile is not None), "default")
    loaded = LoadedSettings(_with_absolute_paths(settings, folder), origins, profile_origin)
    return JudgedSettings(loaded, profile, tuple(mistakes))


def known_settings() -> KnownSettings:
    """Return the names of all settings, read from the models."""
    names = tuple((section, name) for section, fields in _fields_by_section().items() for name in fields)
    return KnownSettings(names, frozenset(key for key in names if is_secret(*key)))


def field_of(section: str, name: str) -> FieldInfo:
    """Return the declaration of one setting."""
    return _fields_by_section()[section][name]


def is_secret(section: str, name: str) -> bool:
    """Return whether a setting's value must never be shown."""
    annotation = field_of(section, name).annotation
    return annotation is SecretStr or SecretStr in get_args(annotation)


def choices_of(section: str, name: str) -> tuple[str, ...]:
    """Return the values of a setting that is a choice; empty for every other."""
    annotation = field_of(section, name).annotation
    return tuple(str(choice) for choice in get_args(annotation)) if "Literal" in str(annotation) else ()


def allowed_of(section: str, name: str) -> str:
    """Return what may stand in a setting, as the end of a sentence after "must be"."""
    choices = choices_of(section, name)
    return f"one of {', '.join(choices)}" if choices else _declared(section, name, "allowed")


def unit_of(section: str, name: str) -> str:
    """Return what a setting's number counts; empty for every other."""
    return _declared(section, name, "unit")


def _declared(section: str, name: str, what: str) -> str:
    extra = field_of(section, name).json_schema_extra
    return str(extra[what]) if isinstance(extra, dict) else ""


def _fields_by_section() -> dict[str, dict[str, FieldInfo]]:
    return {
        section: dict(field.annotation.model_fields)
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _choose_profile(layers: Sequence[Layer]) -> tuple[str | None, list[str]]:
    """Return the profile that the first source names, or None and what is wrong with it."""
    for layer in layers:
        if layer.profile is not None and layer.profile not in PROFILES:
            meant = did_you_mean(layer.profile, PROFILES)
            hint = f"; did you mean {meant}?" if meant else ""
            return None, [f"{PROFILE_VARIABLE} ({layer.origin}): must be one of {', '.join(PROFILES)}{hint}"]
        if layer.profile is not None:
            return layer.profile, []
    return PROFILES[0], []


def _merge(layers: Sequence[Layer]) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], str]]:
    """Return each setting's first value and that value's origin."""
    values: dict[tuple[str, str], Any] = {}
    origins: dict[tuple[str, str], str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if key not in values:
                values[key] = value
                origins[key] = layer.origins.get(key, layer.origin)
    return values, origins


def _validate(
    profile: str | None,
    layers: Sequence[Layer],
    values: Mapping[tuple[str, str], Any],
    origins: Mapping[tuple[str, str], str],
) -> tuple[Settings, frozenset[tuple[str, str]], list[str]]:
    """Return the settings, with the defaults in place of wrong values; which those were; what is wrong."""
    chosen = {} if profile is None else {"profile": profile}
    reasons: dict[tuple[str, str], str] = {}
    try:
        return _build(chosen, [layer.nested() for layer in layers]), frozenset(), []
    except ValidationError as error:
        for item in error.errors(include_input=False, include_url=False):
            key = (str(item["loc"][0]), str(item["loc"][1]))
            # Only our own validators' words: pydantic's may repeat the value.
            own = item.get("ctx", {}).get("error") if item["type"] == "value_error" else None
            reasons.setdefault(key, f" ({own})" if own else "")
    mistakes = [
        f"{variable_of(*key)} ({origins[key]}): must be {allowed_of(*key)}{reason}{_choice_hint(key, values[key])}"
        for key, reason in reasons.items()
    ]
    sound = Layer("sound", {key: value for key, value in values.items() if key not in reasons})
    return _build(chosen, [sound.nested()]), frozenset(reasons), mistakes


def _build(chosen: Mapping[str, str], layers: Sequence[dict[str, dict[str, Any]]]) -> Settings:
    """Let pydantic-settings merge the layers, the first one winning, and build the models."""
    first_to_last: list[dict[str, Any]] = [{**chosen}, *layers]
    sources = tuple(InitSettingsSource(Settings, layer) for layer in first_to_last)
    return Settings(_build_sources=(sources, {}))


def _choice_hint(key: tuple[str, str], value: Any) -> str:
    """Return did-you-mean for a choice; it names the choice, never the value."""
    meant = did_you_mean(value, choices_of(*key)) if isinstance(value, str) else None
    return f"; did you mean {meant}?" if meant else ""


def _with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    """Return the settings with paths that no longer depend on the working folder."""
    auth, database, storage, uploads = settings.auth, settings.database, settings.storage, settings.uploads
    url = SecretStr(absolute_database_url(database.url.get_secret_value(), folder))
    ring = None if auth.key_ring_file is None else folder / auth.key_ring_file
    private_key = settings.cdn.cloudfront_private_key_file
    cdn_key = None if private_key is None else folder / private_key
    pipelines = settings.stability.pipelines_file
    stability = StabilitySettings(pipelines_file=None if pipelines is None else folder / pipelines)
    return settings.model_copy(
        update={
            "auth": auth.model_copy(update={"key_ring_file": ring}),
            "cdn": settings.cdn.model_copy(update={"cloudfront_private_key_file": cdn_key}),
            "database": database.model_copy(update={"url": url}),
            "storage": storage.model_copy(update={"local_root": folder / storage.local_root}),
            "stability": stability,
            "uploads": uploads.model_copy(update={"spool_dir": folder / uploads.spool_dir}),
        }
    )
