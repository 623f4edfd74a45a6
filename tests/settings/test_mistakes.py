"""Bad configurations, each with what its message must say; none may say the value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.settings.conftest import Sandbox

PRODUCTION = {
    "PHOTO_API_PROFILE": "production",
    "PHOTO_API_SERVER__ALLOWED_HOSTS": "photos.example.org",
    "PHOTO_API_AUTH__KEY_RING_FILE": "/etc/photo-api/keys.json",
}
PRODUCTION_WITH_SECRET = {name: text for name, text in PRODUCTION.items() if name != "PHOTO_API_AUTH__KEY_RING_FILE"}
S3 = {
    "PHOTO_API_STORAGE__BACKEND": "s3",
    "PHOTO_API_STORAGE__S3_BUCKET": "photos",
    "PHOTO_API_STORAGE__S3_ACCESS_KEY_ID": "AKIAZ7Q3",
    "PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
}


@dataclass(frozen=True)
class Bad:
    """A bad configuration: where it is written, what its message says, and what it must not say."""

    name: str
    says: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    env_file: str = ""
    toml: str = ""
    profile: str = "development"
    hides: str = ""


def one(variable: str, text: str, *says: str, hides: str | None = None) -> Bad:
    """Return a configuration with one bad variable."""
    name = f"PHOTO_API_{variable}"
    return Bad(f"{variable}={text[:30]}", (name, *says), {name: text}, hides=text if hides is None else hides)


def production(name: str, environ: dict[str, str], *says: str, hides: str = "") -> Bad:
    """Return a configuration that only production refuses."""
    return Bad(name, says, environ, profile="production", hides=hides)


def signed_with(secret: str, *says: str) -> Bad:
    """Return a production configuration with a weak signing secret."""
    environ = {**PRODUCTION_WITH_SECRET, "PHOTO_API_AUTH__JWT_SECRET": secret}
    return production(
        f"secret {secret[:20]}", environ, "PHOTO_API_AUTH__JWT_SECRET", "32 random bytes", *says, hides=secret
    )


NAMES = (
    one("SERVER__WORKER", "2", "no such setting; did you mean PHOTO_API_SERVER__WORKERS?", hides=""),
    one("SERVER_WORKERS", "2", "did you mean PHOTO_API_SERVER__WORKERS?", hides=""),
    one("SEVER__WORKERS", "2", "did you mean PHOTO_API_SERVER__WORKERS?", hides=""),
    one("WORKERS", "2", "did you mean PHOTO_API_SERVER__WORKERS?", hides=""),
    one("DATABSE__URL", "sqlite:///v.db", "did you mean PHOTO_API_DATABASE__URL?"),
    one("PROFIL", "production", "did you mean PHOTO_API_PROFILE?"),
    one("AUTH__JWT_SECRET_FIEL", "/run/x", "did you mean PHOTO_API_AUTH__JWT_SECRET_FILE?"),
    one("QUEUE__URL", "amqp://:hunter2@broker", "no such setting; the sections are DATABASE, STORAGE"),
    one("LOG__SHIPPER", "none", "PHOTO_API_LOG__ has LEVEL, FORMAT, QUEUE_SIZE"),
    one("SERVER__WORKERS_FILE", "/run/x", "only secrets may be given as …_FILE"),
    one("PORT_8000_TCP", "tcp://10.0.0.1:8000", "no such setting"),
    Bad("lower case", ("did you mean PHOTO_API_LOG__LEVEL?",), {"photo_api_log__level": "DEBUG"}),
    Bad("no underscore in the prefix", ("did you mean PHOTO_API_LOG__LEVEL?",), {"PHOTOAPI_LOG__LEVEL": "DEBUG"}),
    Bad("three underscores", ("did you mean PHOTO_API_LOG__LEVEL?",), {"PHOTO_API_LOG___LEVEL": "DEBUG"}),
)
PROFILE = (
    one("PROFILE", "prod", "must be one of development, production, test", "did you mean production?", hides=""),
    one("PROFILE", "prodution", "did you mean production?"),
    one("PROFILE", "Development", "did you mean development?"),
    one("PROFILE", "../../etc/passwd", "must be one of development, production, test"),
    one("PROFILE", " ", "is empty", hides=""),
)
NUMBERS = (
    one("SERVER__WORKERS", "two", "must be a whole number of processes from 1 to 64"),
    one("SERVER__WORKERS", "0", "from 1 to 64", hides=""),
    one("SERVER__WORKERS", "65", "from 1 to 64"),
    one("SERVER__WORKERS", "2.0", "whole number"),
    one("SERVER__WORKERS", "1_0", "digits only"),
    one("SERVER__WORKERS", "true", "whole number"),
    one("SERVER__WORKERS", "٣", "whole number"),
    one("SERVER__WORKERS", "", "is empty; give a value or remove the variable"),
    one("SERVER__THREADS", "-1", "from 1 to 256"),
    one("SERVER__REQUEST_DEADLINE_SECONDS", "28s", "must be a number of seconds", "without a unit"),
    one("SERVER__REQUEST_DEADLINE_SECONDS", "nan", "number of seconds"),
    one("SERVER__REQUEST_DEADLINE_SECONDS", "inf", "number of seconds"),
    one("SERVER__REQUEST_DEADLINE_SECONDS", "1e2", "number of seconds"),
    one("UPLOADS__MAX_BYTES", "30MB", "must be a whole number of bytes from 1024 to 5368709120"),
    one("UPLOADS__MAX_PIXELS", "0x10", "whole number of pixels"),
    one("UPLOADS__LEASE_SECONDS", "1", "whole number of seconds from 2 to 300", hides=""),
    one("PHOTOS__TRASH_DAYS", "30 days", "must be a whole number of days from 0 to 3650"),
    one("DATABASE__POOL_SIZE", "0", "whole number of connections from 1 to 500", hides=""),
    one("DATABASE__MAX_OVERFLOW", "-1", "whole number of connections from 0 to 500"),
    one("DATABASE__POOL_TIMEOUT_SECONDS", "31", "number of seconds from 0.05 to 30"),
    one("AUTH__PRINCIPAL_CACHE_SECONDS", "31", "from 0 to 30"),
    one("LOG__QUEUE_SIZE", "9" * 40, "whole number of lines"),
)
CHOICES = (
    one("LOG__LEVEL", "verbose", "must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    one("LOG__LEVEL", "warn", "did you mean WARNING?"),
    one("LOG__FORMAT", "jsonl", "must be one of json, console", "did you mean json?", hides=""),
    one("STORAGE__BACKEND", "azure", "must be one of local, s3, swift"),
    one("AUTH__REGISTRATION", "close", "must be one of open, closed", "did you mean closed?", hides=""),
)
DATABASE = (
    one("DATABASE__URL", "postgres://u:hunter2@db/photo", "did you mean postgresql+psycopg://?"),
    one("DATABASE__URL", "postgresql://u:hunter2@db/photo", "did you mean postgresql+psycopg://?"),
    one("DATABASE__URL", "mysql://u:hunter2@db/photo", "did you mean mysql+pymysql://?"),
    one("DATABASE__URL", "oracle://u:hunter2@db/photo", "unknown driver"),
    one("DATABASE__URL", "var/photo-api.db", "it starts with driver://"),
    one("DATABASE__URL", "sqlite://", "in memory", hides=""),
    one("DATABASE__URL", "sqlite:///:memory:", "in memory", hides=":memory:"),
    one("DATABASE__URL", "sqlite:///file:photos?mode=memory&uri=true", "in memory"),
    one("DATABASE__URL", "sqlite:///file:photos.db?uri=true", "not a file: URI"),
    one("DATABASE__URL", "sqlite://var/photo.db", "three slashes"),
    one("DATABASE__URL", "postgresql+psycopg://u:hun@ter2@db/photo", "percent-encoded"),
    one("DATABASE__URL", "postgresql+psycopg://u:hun/ter2@db/photo", "percent-encoded"),
    one("DATABASE__URL", "postgresql+psycopg://u:hun ter2@db/photo", "percent-encoded"),
    one("DATABASE__URL", "postgresql+psycopg://u:hunter2@db", "after the host comes /database"),
    one("DATABASE__URL", "postgresql+psycopg:///photo", "the host is missing"),
    one("DATABASE__URL", "postgresql+psycopg://u:hunter2@db:99999/photo", "the port"),
)
ADDRESSES = (
    one("SERVER__BIND", "8000", "must be host:port", "the port is missing", hides=""),
    one("SERVER__BIND", "127.0.0.1", "the port is missing"),
    one("SERVER__BIND", "http://127.0.0.1:8000", "no scheme"),
    one("SERVER__BIND", "127.0.0.1:80000", "the port is a whole number from 1 to 65535"),
    one("SERVER__BIND", ":8000", "the host is missing"),
    one("SERVER__BIND", "::1:8000", "in brackets"),
    one("SERVER__BIND", "[::g]:8000", "an IPv6 address"),
    one("SERVER__BIND", "300.0.0.1:8000", "a name or an IP address"),
    one("SERVER__BIND", "unix:", "after unix: comes a path", hides=""),
    one("SERVER__BIND", "unix:" + "x" * 108, "at most 107 bytes"),
    one("SERVER__MANAGEMENT_BIND", "0.0.0.0:8001", "operators only", hides=""),
    one("SERVER__MANAGEMENT_BIND", "8.8.8.8:8001", "loopback or private", hides="8.8.8.8"),
    one("SERVER__MANAGEMENT_BIND", "photos.example.org:8001", "loopback or private"),
    one("SERVER__MANAGEMENT_BIND", "127.0.0.1:8000", "PHOTO_API_SERVER__BIND", "two different addresses"),
    one("SERVER__MANAGEMENT_BIND", "localhost:8000", "two different addresses"),
    one("SERVER__BIND", "0.0.0.0:8001", "two different addresses"),
    one("SERVER__ALLOWED_HOSTS", "https://photos.example.org", "without scheme, port or path"),
    one("SERVER__ALLOWED_HOSTS", "photos.example.org:443", "without scheme, port or path"),
    one("SERVER__ALLOWED_HOSTS", "*", ".example.org stands for"),
    one("SERVER__ALLOWED_HOSTS", "a.example,,b.example", "an entry is empty"),
    one("SERVER__ALLOWED_HOSTS", "-a.example", "no host name"),
    one("SERVER__TRUSTED_PROXIES", "0.0.0.0/0", "any client choose"),
    one("SERVER__TRUSTED_PROXIES", "10.0.0.1/8", "host bits"),
    one("SERVER__TRUSTED_PROXIES", "proxy.example", "IP addresses or networks"),
    one("INSTANCE__IP", "10.0.0.256", "must be an IPv4 or IPv6 address"),
    one("INSTANCE__NODE_NAME", "node one", "letters, digits, dots"),
)
STORAGE = (
    Bad(
        "s3 without its settings",
        (
            "PHOTO_API_STORAGE__S3_BUCKET: must be set",
            "PHOTO_API_STORAGE__S3_ACCESS_KEY_ID: must be set",
            "PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY: must be set",
        ),
        {"PHOTO_API_STORAGE__BACKEND": "s3"},
    ),
    one("STORAGE__S3_ENDPOINT_URL", "objects.example.org", "must be an http:// or https:// URL"),
    one("STORAGE__S3_ENDPOINT_URL", "ftp://objects.example.org", "http:// or https://"),
    one("STORAGE__S3_ENDPOINT_URL", "https://u:hunter2@objects.example.org", "no user name or password"),
    one("STORAGE__S3_ENDPOINT_URL", "https://objects.example.org/?x=1", "no query"),
    one("STORAGE__S3_ENDPOINT_URL", "https://objects.example.org:x", "http:// or https://"),
    one("STORAGE__S3_BUCKET", "my/bucket", "must be 3 to 63 letters"),
    one("STORAGE__S3_REGION", "eu central", "must be a region's name"),
    one("STORAGE__S3_ACCESS_KEY_ID", "AKIA Z7Q3", "printable ASCII"),
    one("STORAGE__S3_SECRET_ACCESS_KEY", "geheim\u00fc-x", "printable ASCII"),
    one("STORAGE__LOCAL_ROOT", "a\0b", "must be a path"),
    one("UPLOADS__SPOOL_DIR", "var/objects", "must be two folders"),
    one("UPLOADS__SPOOL_DIR", "var/objects/spool", "neither inside the other"),
)
DELIVERY = (
    Bad(
        "swift without its settings",
        tuple(
            f"PHOTO_API_STORAGE__SWIFT_{name}: must be set when PHOTO_API_STORAGE__BACKEND is swift"
            for name in ("AUTH_URL", "USERNAME", "PASSWORD", "CONTAINER", "TENANT_ID")
        ),
        {"PHOTO_API_STORAGE__BACKEND": "swift"},
    ),
    one("STORAGE__BACKEND", "swfit", "must be one of local, s3, swift", "did you mean swift?"),
    one("STORAGE__SWIFT_AUTH_VERSION", "2.0", "must be one of 1, 2, 3"),
    one("STORAGE__SWIFT_CONTAINER", "a/b", "must be 1 to 255 letters"),
    one("STORAGE__SWIFT_PASSWORD", "ge heim", "printable ASCII"),
    *(
        Bad(
            f"{backend} without its settings",
            tuple(f"PHOTO_API_CDN__{name}: must be set when PHOTO_API_CDN__BACKEND is {backend}" for name in names),
            {**S3, "PHOTO_API_CDN__BACKEND": backend},
        )
        for backend, names in (
            ("edge_auth", ("BASE_URL", "EDGE_AUTH_KEY")),
            ("nhn", ("BASE_URL", "EDGE_AUTH_KEY", "NHN_APP_KEY", "NHN_SECRET_KEY")),
            ("cloudfront", ("BASE_URL", "CLOUDFRONT_KEY_PAIR_ID", "CLOUDFRONT_PRIVATE_KEY_FILE")),
            ("nginx_secure_link", ("BASE_URL", "SECURE_LINK_SECRET")),
        )
    ),
    Bad(
        "a CDN before a folder",
        ("PHOTO_API_CDN__BACKEND and PHOTO_API_STORAGE__BACKEND: a CDN fetches photos from a bucket",),
        {
            "PHOTO_API_CDN__BACKEND": "edge_auth",
            "PHOTO_API_CDN__BASE_URL": "https://cdn.example.org",
            "PHOTO_API_CDN__EDGE_AUTH_KEY": "52a1" * 8,
        },
    ),
    one("CDN__NHN_APP_KEY", "cdnAppKey", "PHOTO_API_CDN__NHN_SECRET_KEY", "the two come together"),
    one("CDN__BASE_URL", "cdn.example.org", "must be an http:// or https:// URL"),
    one("CDN__BASE_URL", "https://cdn.example.org/photos/..", "no . and no .. in its path"),
    one("CDN__BASE_URL", "https://cdn.example.org/%2E%2e/photos", "no . and no .. in its path"),
    one("CDN__EDGE_AUTH_KEY", "52a152a152a152a1x", "hexadecimal digits"),
    one("CDN__PROBE_PATH", "alive?x", "must be a path"),
    one("LINKS__WINDOW_SECONDS", "3600", "whole number of seconds from 60 to 1800"),
    one("LINKS__PUBLIC_URL", "https://photos.example.org/?a", "no query"),
    one("REDIS__URL", "localhost:6379", "redis://, rediss:// or unix://"),
    one("REDIS__URL", "redis://:hunter2@cache.example.org:99999/0", "the port is a number from 1 to 65535"),
    one("REDIS__URL", "redis://:p@ss@cache.example.org", "percent-encoded"),
    one("REDIS__URL", "redis://cache.example.org/0?socket_timeout=9", "no query"),
    one("REDIS__URL", "unix://run/redis.sock", "absolute path of the socket"),
    one("REDIS__URL", "redis://cache.example.org/photos", "number of the database"),
    one("CACHE__MEMORY_SECONDS", "-1", "a number of seconds from 0 to 3600"),
    one("PHOTOS__SAMPLE_PER_DAY", "-1", "whole number of photos"),
)
EDGE = (
    one("EDGE__BIND", "unix:/run/nginx.sock", "must be host:port", "clients reach no unix socket"),
    one("EDGE__TLS_CERTIFICATE_FILE", "cert.pem", "an absolute path", hides="cert.pem"),
    one("EDGE__LOG_FOLDER", "/var/log;daemon off", "an absolute path"),
    one("EDGE__PID_FILE", "/run/$host", "an absolute path"),
    one("EDGE__USER", "www data", "must be a user's name"),
    one("EDGE__PROFILE", "gallerie", "must be one of gallery, strict", "did you mean gallery?"),
    one("EDGE__UNLIMITED_NETWORKS", "10.0.0.1/8", "host bits"),
    one("BALANCER__NETWORKS", "0.0.0.0/0", "any client choose"),
    one("BALANCER__UNHEALTHY_THRESHOLD", "0", "whole number of probes from 1 to 20", hides=""),
    Bad(
        "a certificate without its key",
        ("PHOTO_API_EDGE__TLS_CERTIFICATE_FILE and PHOTO_API_EDGE__TLS_KEY_FILE", "come together"),
        {"PHOTO_API_EDGE__TLS_CERTIFICATE_FILE": "/etc/ssl/photos.pem"},
    ),
)
TOGETHER = (
    Bad(
        "both key families",
        ("PHOTO_API_AUTH__JWT_SECRET and PHOTO_API_AUTH__KEY_RING_FILE", "not both"),
        {"PHOTO_API_AUTH__JWT_SECRET": "k" * 40, "PHOTO_API_AUTH__KEY_RING_FILE": "/etc/ring"},
        hides="k" * 40,
    ),
    Bad(
        "key families of two sources",
        ("not both",),
        {"PHOTO_API_AUTH__JWT_SECRET": "k" * 40},
        toml='[auth]\nkey_ring_file = "/etc/ring"',
    ),
    one("AUTH__JWT_SECRET", "hunter2", "must be at least 32 random bytes", "too short"),
    one("SERVER__GRACEFUL_TIMEOUT_SECONDS", "29.5", "REQUEST_DEADLINE_SECONDS", "must be at least 30 seconds"),
    one("SERVER__REQUEST_DEADLINE_SECONDS", "28.5", "must be at least 30.5 seconds"),
    one("AUTH__REFRESH_TOKEN_SECONDS", "600", "longer than an access token"),
    one("AUTH__REFRESH_ABSOLUTE_SECONDS", "3600", "at least as long as one refresh token"),
    one("PHOTOS__QUOTA_BYTES", "31457279", "at least one largest photo"),
)
FILES = (
    one("AUTH__JWT_SECRET_FILE", "/nowhere/hunter2", "the file that it names does not exist"),
    one("AUTH__JWT_SECRET_FILE", ".", "cannot be read", hides=""),
    one("AUTH__JWT_SECRET_FILE", "a\0b", "cannot be read"),
    one("AUTH__JWT_SECRET_FILE", "/dev/null", "is empty"),
    one("AUTH__JWT_SECRET_FILE", "/dev/zero", "is larger than 65536 bytes"),
    Bad(
        "broken .env line",
        (".env line 2: must be NAME=value",),
        env_file="# fine\nhunter2 hunter2\n",
        hides="hunter2",
    ),
    Bad("name without a value", (".env line 1: must be NAME=value",), env_file="PHOTO_API_LOG__LEVEL\n"),
    Bad(
        "a colon in place of =",
        ("PHOTO_API_AUTH__JWT_SECRET… (.env): no such setting; did you mean PHOTO_API_AUTH__JWT_SECRET",),
        env_file="PHOTO_API_AUTH__JWT_SECRET:aHVudGVyMg==\n",
        hides="aHVudGVyMg",
    ),
    Bad(
        "unknown in .env",
        ("PHOTO_API_LOG__LEVLE (.env)", "PHOTO_API_LOG__LEVEL?"),
        env_file="PHOTO_API_LOG__LEVLE=INFO",
    ),
    Bad(
        "bad value in .env",
        ("PHOTO_API_LOG__LEVEL (.env): must be",),
        env_file="PHOTO_API_LOG__LEVEL=loud",
        hides="loud",
    ),
    Bad(
        "twice in .env",
        ("PHOTO_API_LOG__LEVEL (.env): given twice, in lines 1 and 3",),
        env_file="PHOTO_API_LOG__LEVEL=INFO\nX=1\nPHOTO_API_LOG__LEVEL=DEBUG\n",
    ),
    Bad("empty in .env", ("PHOTO_API_LOG__LEVEL (.env): is empty",), env_file="PHOTO_API_LOG__LEVEL=\n"),
    Bad(
        "unknown section", ("config/development.toml: [serve] is no section; did you mean server?",), toml="[serve]\n"
    ),
    Bad(
        "far section",
        ("[queue] is no section; there are database, storage",),
        toml='[queue]\nurl = "hunter2"',
        hides="hunter2",
    ),
    Bad("unknown key", ("[server] worker is no setting; did you mean workers?",), toml="[server]\nworker = 2"),
    Bad(
        "a value for a section",
        ("server must be a table, written [server]",),
        toml='server = "hunter2"',
        hides="hunter2",
    ),
    Bad(
        "broken TOML",
        ("config/development.toml: is no valid TOML at line 2",),
        toml="[server]\nworkers = hunter2",
        hides="hunter2",
    ),
    Bad("unfinished TOML", ("is no valid TOML",), toml='[server]\nbind = "hunter2', hides="hunter2"),
    Bad(
        "true is no number", ("PHOTO_API_SERVER__WORKERS (config/development.toml)",), toml="[server]\nworkers = true"
    ),
    Bad("a fraction is no whole number", ("whole number of processes",), toml="[server]\nworkers = 2.0"),
    Bad("a number is no choice", ("PHOTO_API_LOG__LEVEL", "one of DEBUG"), toml="[log]\nlevel = 3"),
    Bad("a table is no value", ("PHOTO_API_SERVER__WORKERS",), toml="[server.workers]\nx = 1"),
    Bad(
        "a number is no secret", ("PHOTO_API_AUTH__JWT_SECRET",), toml="[auth]\njwt_secret = 7134526", hides="7134526"
    ),
    Bad("numbers are no hosts", ("PHOTO_API_SERVER__ALLOWED_HOSTS",), toml="[server]\nallowed_hosts = [1]"),
    Bad("no hosts", ("PHOTO_API_SERVER__ALLOWED_HOSTS",), toml="[server]\nallowed_hosts = []"),
    Bad(
        "value and file",
        ("give the value or the _FILE form, not both",),
        {"PHOTO_API_AUTH__JWT_SECRET": "k" * 40, "PHOTO_API_AUTH__JWT_SECRET_FILE": "secret.txt"},
        hides="k" * 40,
    ),
)
IN_PRODUCTION = (
    production(
        "chaos",
        {**PRODUCTION, "PHOTO_API_CHAOS__ENABLED": "true"},
        "PHOTO_API_CHAOS__ENABLED: must be false in production",
    ),
    one("CHAOS__ENABLED", "perhaps", "PHOTO_API_CHAOS__ENABLED"),
    production("no hosts", {"PHOTO_API_AUTH__KEY_RING_FILE": "/r"}, "PHOTO_API_SERVER__ALLOWED_HOSTS: must be set"),
    production(
        "no keys",
        PRODUCTION_WITH_SECRET,
        "PHOTO_API_AUTH__KEY_RING_FILE and PHOTO_API_AUTH__JWT_SECRET: one of them must be set in production",
    ),
    signed_with("change-me-to-32-random-bytes-or-name-a-key-ring", "example value"),
    signed_with("a" * 64, "made of words"),
    signed_with("0" * 64, "repeats itself"),
    signed_with("0123456789abcdef" * 4, "repeats itself"),
    signed_with("correct horse battery staple correct horse", "made of words"),
    signed_with("MySecretMySecretMySecretMySecretMySecret1234", "a word"),
    signed_with("k3J9xQ2mZ7pL4vR8tW1yB6nC5dF0gH3s", "shorter than 32 random bytes"),
    signed_with("9f8e3a7c1b5d2046e8a9c3f17b6d5042", "shorter than 32 random bytes"),
    signed_with("x9K2mQ7pL4vR8tW1" + "abcdefghijklmnop" + "Z3nC5dF0gH6jB8sT", "consecutive characters"),
    production(
        "example password of the database",
        {**PRODUCTION, "PHOTO_API_DATABASE__URL": "postgresql+psycopg://photo:change-me@db.example.org/photo"},
        "PHOTO_API_DATABASE__URL: its password contains a word",
        hides="change-me",
    ),
    production(
        "placeholder as Redis's password",
        {**PRODUCTION, "PHOTO_API_REDIS__URL": "redis://:change-me@cache.example.org:6379/0"},
        "PHOTO_API_REDIS__URL: its password contains a word",
        hides="change-me",
    ),
    production(
        "example keys of the object store",
        {**PRODUCTION, **S3, "PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY": "change-me"},
        "PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY: it contains a word",
        hides="change-me",
    ),
)
BAD = (
    *NAMES,
    *PROFILE,
    *NUMBERS,
    *CHOICES,
    *DATABASE,
    *ADDRESSES,
    *STORAGE,
    *DELIVERY,
    *EDGE,
    *TOGETHER,
    *FILES,
    *IN_PRODUCTION,
)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_configuration_is_refused_by_name_and_never_by_value(sandbox: Sandbox, bad: Bad) -> None:
    sandbox.write_env_file(bad.env_file)
    sandbox.write_profile(bad.profile, bad.toml)
    (sandbox.working_folder / "secret.txt").write_text("k" * 40, encoding="utf-8")

    mistakes = sandbox.mistakes({"PHOTO_API_PROFILE": bad.profile, **bad.environ})

    report = "\n".join(mistakes)
    assert [part for part in bad.says if part not in report] == [], report
    assert not bad.hides or bad.hides not in report


def test_at_least_sixty_bad_configurations_are_known() -> None:
    assert len({bad.name for bad in BAD}) >= 60


def test_every_mistake_of_every_source_is_reported_at_once(sandbox: Sandbox) -> None:
    sandbox.write_env_file("PHOTO_API_LOG__LEVEL=loud\nnonsense here\nPHOTO_API_LOGS__FORMAT=json\n")
    sandbox.write_profile("production", "[serve]\n[server]\nthreads = 'many'\nworker = 2\n")

    mistakes = sandbox.mistakes(
        {
            "PHOTO_API_PROFILE": "production",
            "PHOTO_API_SERVER__WORKERS": "two",
            "PHOTO_API_SERVER__GRACEFUL_TIMEOUT_SECONDS": "4",
            "PHOTO_API_STORAGE__BACKEND": "s3",
            "PHOTO_API_DATABASE__URL_FILE": "missing.txt",
            "PHOTO_API_X__Y": "1",
        }
    )

    expected = (
        "PHOTO_API_X__Y (environment)",
        "PHOTO_API_DATABASE__URL_FILE (environment)",
        ".env line 2",
        "PHOTO_API_LOGS__FORMAT (.env)",
        "[serve] is no section",
        "[server] worker is no setting",
        "PHOTO_API_SERVER__WORKERS (environment)",
        "PHOTO_API_SERVER__THREADS (config/production.toml)",
        "PHOTO_API_LOG__LEVEL (.env)",
        "PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS and PHOTO_API_BALANCER__PROBE_INTERVAL_SECONDS",
        "PHOTO_API_SERVER__GRACEFUL_TIMEOUT_SECONDS and PHOTO_API_SERVER__REQUEST_DEADLINE_SECONDS",
        "PHOTO_API_STORAGE__S3_BUCKET",
        "PHOTO_API_STORAGE__S3_ACCESS_KEY_ID",
        "PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY",
        "PHOTO_API_AUTH__KEY_RING_FILE and PHOTO_API_AUTH__JWT_SECRET",
        "PHOTO_API_SERVER__ALLOWED_HOSTS",
    )
    assert [part for part in expected if not any(part in mistake for mistake in mistakes)] == []
    assert len(mistakes) == len(expected)


def test_a_wrong_value_is_not_reported_a_second_time_by_the_rules_between_settings(sandbox: Sandbox) -> None:
    environ = {**PRODUCTION_WITH_SECRET, "PHOTO_API_AUTH__JWT_SECRET": "short", "PHOTO_API_SERVER__BIND": "nonsense"}

    mistakes = sandbox.mistakes(environ)

    assert [mistake.split(" ")[0] for mistake in mistakes] == ["PHOTO_API_AUTH__JWT_SECRET", "PHOTO_API_SERVER__BIND"]


def test_a_missing_profile_file_is_a_mistake(sandbox: Sandbox) -> None:
    (sandbox.config_folder / "test.toml").unlink()

    assert sandbox.mistakes({"PHOTO_API_PROFILE": "test"}) == ("config/test.toml: the file is missing",)


@pytest.mark.parametrize("place", ["work/.env", "config/development.toml", "work/secret.txt"])
def test_a_file_that_is_no_utf8_text_is_a_mistake(sandbox: Sandbox, place: str) -> None:
    path: Path = sandbox.working_folder.parent / place
    path.write_bytes(b"[log]\n# hunter2 \xff\n")

    mistakes = sandbox.mistakes({"PHOTO_API_AUTH__JWT_SECRET_FILE": "secret.txt"} if "secret" in place else {})

    assert len(mistakes) == 1
    assert "UTF-8 text" in mistakes[0]
    assert "hunter2" not in mistakes[0]


def test_an_environment_that_is_no_utf8_is_reported_in_plain_characters(sandbox: Sandbox) -> None:
    broken = b"hunter2\xff".decode("utf-8", "surrogateescape")

    mistakes = sandbox.mistakes({f"PHOTO_API_{broken}": "x", "PHOTO_API_AUTH__JWT_SECRET": broken * 8})

    assert len(mistakes) == 2
    assert all(mistake.encode("utf-8") for mistake in mistakes)
    assert "hunter2\\" not in mistakes[1]
