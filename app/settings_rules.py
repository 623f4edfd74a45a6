"""Rules between settings: each one right by itself, wrong together.

Judged on settings whose single values are sound already. Rules that need the world (is the bucket there?
does the database allow that many connections?) belong to start-up, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.settings_forms import contains_placeholder, parse_address, password_in, secret_weakness
from app.settings_sources import variable_of
from app.settings_timing import find_violations

if TYPE_CHECKING:  # the models import this module
    from app.settings import Settings

Key = tuple[str, str]
_Rule = Callable[["Settings", frozenset[Key]], Iterator["Contradiction"]]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Settings that cannot stand together.

    Attributes:
        settings: Which ones, as ``(section, name)``; the first is the one to change.
        text: What is wrong and what to do, without any value but a number that is sound by itself.
    """

    settings: tuple[Key, ...]
    text: str


def names_of(contradiction: Contradiction) -> str:
    """Return the variables of its settings, as the beginning of a message."""
    return " and ".join(variable_of(*key) for key in contradiction.settings)


def find_contradictions(settings: Settings, given: frozenset[Key], *, strict: bool) -> Iterator[Contradiction]:
    """Find every rule between settings that is broken.

    Args:
        settings: Settings whose single values are sound.
        given: Those that a source names; all others have their defaults.
        strict: Whether the rules of the production profile hold as well.
    """
    rules: tuple[_Rule, ...] = (
        _storage,
        _cdn,
        _key_families,
        _lives,
        _listeners,
        _times,
        _sizes,
        _folders,
        _certificate,
    )
    if strict:
        rules += (_production_keys, _production_placeholders, _production_hosts, _production_chaos)
    for rule in rules:
        yield from rule(settings, given)


def find_cautions(settings: Settings) -> Iterator[Contradiction]:
    """Find what works in production and is probably not meant.

    Args:
        settings: Settings that contradict each other nowhere.
    """
    server = settings.server
    if settings.profile == "production" and server.workers * server.threads < server.max_concurrent:
        yield Contradiction(
            (("server", "threads"), ("server", "workers"), ("server", "max_concurrent")),
            f"{server.workers} workers with {server.threads} threads each are at {server.workers * server.threads} "
            f"requests at once, not at {server.max_concurrent}: the rest waits. Give them more threads",
        )


_NEEDED_BY_STORAGE = {
    "local": (),
    "s3": ("s3_bucket", "s3_access_key_id", "s3_secret_access_key"),
    "swift": ("swift_auth_url", "swift_username", "swift_password", "swift_container"),
}
_NEEDED_BY_CDN = {
    "none": (),
    "edge_auth": ("base_url", "edge_auth_key"),
    "nhn": ("base_url", "edge_auth_key", "nhn_app_key", "nhn_secret_key"),
    "cloudfront": ("base_url", "cloudfront_key_pair_id", "cloudfront_private_key_file"),
    "nginx_secure_link": ("base_url", "secure_link_secret"),
}
_TEMPAUTH = "1"


def _storage(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    storage = settings.storage
    backend = storage.backend
    needed = _NEEDED_BY_STORAGE[backend]
    if backend == "swift" and storage.swift_auth_version != _TEMPAUTH:
        needed += ("swift_tenant_id",)
    for name in needed:
        if ("storage", name) not in given:
            yield Contradiction((("storage", name),), f"must be set when PHOTO_API_STORAGE__BACKEND is {backend}")


def _cdn(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    cdn = settings.cdn
    for name in _NEEDED_BY_CDN[cdn.backend]:
        if ("cdn", name) not in given:
            yield Contradiction((("cdn", name),), f"must be set when PHOTO_API_CDN__BACKEND is {cdn.backend}")
    if cdn.backend != "none" and settings.storage.backend == "local":
        yield Contradiction(
            (("cdn", "backend"), ("storage", "backend")),
            "a CDN fetches photos from a bucket: with the local object store it must be none",
        )
    if cdn.nhn_app_key is not None and cdn.nhn_secret_key is None:
        yield Contradiction((("cdn", "nhn_secret_key"), ("cdn", "nhn_app_key")), "the two come together")


def _key_families(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del settings
    both = (("auth", "jwt_secret"), ("auth", "key_ring_file"))
    if given.issuperset(both):
        yield Contradiction(both, "give one of them, not both: tokens are signed by one family of keys")


def _lives(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    auth = settings.auth
    if auth.refresh_token_seconds <= auth.access_token_seconds:
        yield Contradiction(
            (("auth", "refresh_token_seconds"), ("auth", "access_token_seconds")),
            "a refresh token must live longer than an access token",
        )
    if auth.refresh_absolute_seconds < auth.refresh_token_seconds:
        yield Contradiction(
            (("auth", "refresh_absolute_seconds"), ("auth", "refresh_token_seconds")),
            "a session must live at least as long as one refresh token",
        )


def _listeners(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    public, management = parse_address(settings.server.bind), parse_address(settings.server.management_bind)
    if not management.is_local():
        yield Contradiction(
            (("server", "management_bind"),),
            "must be unix:path, localhost, or a loopback or private IP address: operators only",
        )
    if public.collides_with(management):
        yield Contradiction((("server", "management_bind"), ("server", "bind")), "must be two different addresses")


def _times(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    for judged in find_violations(settings):
        comparison = judged.comparison
        yield Contradiction(
            (comparison.change, *comparison.others),
            f"the first must be {judged.bound} seconds, {comparison.reason} ({comparison.words})",
        )


def _certificate(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    if (settings.edge.tls_certificate_file is None) != (settings.edge.tls_key_file is None):
        yield Contradiction(
            (("edge", "tls_certificate_file"), ("edge", "tls_key_file")), "a certificate and its key come together"
        )


def _sizes(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    if settings.photos.quota_bytes < settings.uploads.max_bytes:
        yield Contradiction(
            (("photos", "quota_bytes"), ("uploads", "max_bytes")), "the quota must hold at least one largest photo"
        )


def _folders(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    spool, root = settings.uploads.spool_dir, settings.storage.local_root
    nested = spool == root or spool in root.parents or root in spool.parents
    if settings.storage.backend == "local" and nested:
        yield Contradiction(
            (("uploads", "spool_dir"), ("storage", "local_root")), "must be two folders, neither inside the other"
        )


def _production_keys(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    secret = settings.auth.jwt_secret
    if secret is None and ("auth", "key_ring_file") not in given:
        yield Contradiction(
            (("auth", "key_ring_file"), ("auth", "jwt_secret")),
            "one of them must be set in production: all instances sign with the same keys",
        )
    weakness = None if secret is None else secret_weakness(secret.get_secret_value())
    if weakness:
        yield Contradiction(
            (("auth", "jwt_secret"),),
            f"must be at least 32 random bytes in production, but {weakness}; "
            'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"',
        )


def _production_placeholders(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    storage, cdn = settings.storage, settings.cdn
    for key, url in ((("database", "url"), settings.database.url), (("redis", "url"), settings.redis.url)):
        password = None if url is None else password_in(url.get_secret_value())
        if password is not None and contains_placeholder(password):
            yield _placeholder(key, "its password")
    for key, secret in (
        (("storage", "s3_access_key_id"), storage.s3_access_key_id),
        (("storage", "s3_secret_access_key"), storage.s3_secret_access_key),
        (("storage", "swift_password"), storage.swift_password),
        (("storage", "swift_temp_url_key"), storage.swift_temp_url_key),
        (("cdn", "nhn_secret_key"), cdn.nhn_secret_key),
        (("cdn", "secure_link_secret"), cdn.secure_link_secret),
    ):
        if secret is not None and contains_placeholder(secret.get_secret_value()):
            yield _placeholder(key, "it")


def _placeholder(key: Key, what: str) -> Contradiction:
    return Contradiction((key,), f"{what} contains a word or an example value; production needs a real one")


def _production_hosts(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del settings
    if ("server", "allowed_hosts") not in given:
        yield Contradiction(
            (("server", "allowed_hosts"),), "must be set in production: the names that clients reach this server by"
        )


def _production_chaos(settings: Settings, given: frozenset[Key]) -> Iterator[Contradiction]:
    del given
    if settings.chaos.enabled:
        yield Contradiction((("chaos", "enabled"),), "must be false in production: faults there are nobody's test")
