"""Start-up validation on real servers: what an operator must mend is a mistake, what is merely down is none."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from app.db import migrate
from app.errors import ConfigurationError
from app.settings import AuthSettings, DatabaseSettings, Settings, UploadSettings
from app.settings_delivery import CdnSettings, LinksSettings, StorageSettings
from app.settings_edge import ServerSettings
from app.settings_renditions import RenditionSettings
from app.startup import verify_startup
from app.storage.s3 import S3Config
from app.storage.swift import SwiftConfig
from tests.accounts.world import open_database
from tests.servers.base import find_free_port
from tests.servers.mariadb import MariadbServer
from tests.servers.nhn_cdn import APP_KEY, ENCRYPT_KEY, NhnCdn
from tests.servers.postgres import PostgresServer
from tests.servers.swift import STRANGER_ACCESS_KEY_ID, SwiftServer

Profile = Literal["development", "production", "test"]
SECRET = "a-secret-of-some-length-that-nobody-repeats"


def settings(
    folder: Path,
    url: str,
    *,
    profile: Profile = "production",
    storage: StorageSettings | None = None,
    spool_dir: Path | None = None,
    scratch_dir: Path | None = None,
    server: ServerSettings | None = None,
) -> Settings:
    return Settings(
        profile=profile,
        auth=AuthSettings(jwt_secret=SecretStr(SECRET), key_ring_file=None),
        database=DatabaseSettings(url=SecretStr(url), pool_timeout_seconds=30, statement_timeout_seconds=60),
        storage=storage or StorageSettings(local_root=folder / "objects"),
        uploads=UploadSettings(spool_dir=spool_dir or folder / "spool"),
        renditions=RenditionSettings(scratch_dir=scratch_dir or folder / "scratch"),
        server=server or ServerSettings(workers=1),
    )


def s3(config: S3Config, **changes: Any) -> StorageSettings:
    values: dict[str, Any] = {
        "s3_endpoint_url": config.endpoint_url,
        "s3_bucket": config.bucket,
        "s3_region": config.region,
        "s3_access_key_id": SecretStr(config.access_key_id),
        "s3_secret_access_key": SecretStr(config.secret_access_key),
    }
    return StorageSettings(backend="s3", **{**values, **changes})


def swift(config: SwiftConfig, **changes: Any) -> StorageSettings:
    values: dict[str, Any] = {
        "swift_auth_url": config.identity.auth_url,
        "swift_auth_version": config.identity.version,
        "swift_username": config.identity.username,
        "swift_password": SecretStr(config.identity.password),
        "swift_container": config.container,
        "swift_temp_url_key": SecretStr(SECRET),
    }
    return StorageSettings(backend="swift", **{**values, **changes})


def mistakes(given: Settings) -> list[str]:
    try:
        verify_startup(given)
    except ConfigurationError as error:
        return list(error.mistakes)
    return []


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers be as slow as they like: who does not answer in time is passed over."""
    monkeypatch.setattr("app.startup_storage._SECONDS", 120.0)
    monkeypatch.setattr("app.db.mariadb._CONNECT_SECONDS", 60)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/photo-api.db"
    open_database(url).close()
    return url


@pytest.fixture
def migrated_url(postgres_url: str) -> str:
    open_database(postgres_url).close()
    return postgres_url


def test_a_good_configuration_starts_and_leaves_nothing_behind(
    tmp_path: Path, migrated_url: str, s3_config: S3Config
) -> None:
    assert mistakes(settings(tmp_path, migrated_url, storage=s3(s3_config))) == []

    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("profile", ["development", "production"])
def test_a_database_that_is_not_migrated_is_a_mistake_in_every_profile(tmp_path: Path, profile: Profile) -> None:
    url = f"sqlite:///{tmp_path}/photo-api.db"

    (said,) = mistakes(settings(tmp_path, url, profile=profile))

    assert said.startswith("PHOTO_API_DATABASE__URL: ")
    assert "revision none" in said
    assert "python -m app migrate" in said
    assert not (tmp_path / "photo-api.db").exists()


def test_a_database_file_that_cannot_be_written_is_a_mistake(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def access(path: Path, _mode: int) -> bool:  # root may write everywhere but on a read-only mount
        return path != tmp_path / "photo-api.db"

    monkeypatch.setattr("os.access", access)

    (said,) = mistakes(settings(tmp_path, sqlite_url))

    assert said.startswith("PHOTO_API_DATABASE__URL: the database's file or its folder cannot be written")


def test_a_database_of_another_version_is_a_mistake(tmp_path: Path, sqlite_url: str) -> None:
    database = open_database(sqlite_url)
    migrate.downgrade(database, "0001")
    database.close()

    (said,) = mistakes(settings(tmp_path, sqlite_url))

    assert "revision 0001" in said


def test_a_folder_that_cannot_be_written_is_a_mistake(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "file").write_text("no folder", encoding="ascii")

    said = mistakes(
        settings(
            tmp_path,
            sqlite_url,
            spool_dir=tmp_path / "file" / "spool",
            scratch_dir=tmp_path / "file",
            storage=StorageSettings(local_root=tmp_path / "file" / "objects"),
        )
    )

    assert [mistake.split(":")[0] for mistake in said] == [
        "PHOTO_API_UPLOADS__SPOOL_DIR",
        "PHOTO_API_RENDITIONS__SCRATCH_DIR",
        "PHOTO_API_STORAGE__LOCAL_ROOT",
    ]
    assert str(tmp_path) not in "".join(said)


@pytest.mark.parametrize("profile", ["development", "production"])
def test_a_key_file_that_cannot_be_used_is_told_once_in_every_profile(
    tmp_path: Path, sqlite_url: str, profile: Profile
) -> None:
    cdn = CdnSettings(
        backend="cloudfront",
        base_url="https://cdn.example.org",
        cloudfront_key_pair_id="K1",
        cloudfront_private_key_file=tmp_path / "none.pem",
    )
    given = settings(tmp_path, sqlite_url, profile=profile).model_copy(update={"cdn": cdn})

    (said,) = mistakes(given)

    assert said.startswith("PHOTO_API_CDN__CLOUDFRONT_PRIVATE_KEY_FILE: ")


@pytest.fixture
def guarded(postgres_server: PostgresServer, migrated_url: str) -> Iterator[str]:
    """The URL of a user whose password is asked for; all others are trusted as before."""
    rules = postgres_server._folder / "data" / "pg_hba.conf"
    trusting = rules.read_text(encoding="utf-8")
    postgres_server.execute(sql.SQL("CREATE ROLE guarded LOGIN PASSWORD 'right'"))
    rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{trusting}", encoding="utf-8")
    postgres_server.execute(sql.SQL("SELECT pg_reload_conf()"))
    address, _, name = migrated_url.partition("@")[2].partition("/")
    wait_until_guarded(address, name)
    yield f"postgresql+psycopg://guarded:{SECRET}@{address}/{name}"
    rules.write_text(trusting, encoding="utf-8")
    postgres_server.execute(sql.SQL("SELECT pg_reload_conf()"))
    postgres_server.execute(sql.SQL("DROP ROLE guarded"))


def wait_until_guarded(address: str, name: str) -> None:
    """Wait until the reloaded rules hold: until then everybody is let in."""
    while True:
        try:
            psycopg.connect(f"postgresql://guarded:wrong@{address}/{name}").close()
        except psycopg.OperationalError:
            return


def test_a_wrong_password_is_a_mistake_that_repeats_no_value(tmp_path: Path, guarded: str) -> None:
    (said,) = mistakes(settings(tmp_path, guarded))

    assert said.startswith("PHOTO_API_DATABASE__URL: the server refuses")
    assert SECRET not in said
    assert "guarded" not in said


@pytest.mark.parametrize("part", ["user", "name"])
def test_an_unknown_user_or_database_is_a_mistake(tmp_path: Path, postgres_server: PostgresServer, part: str) -> None:
    url = postgres_server.url("postgres" if part == "user" else "nowhere")
    if part == "user":
        url = url.replace("photo@", "nobody@")

    (said,) = mistakes(settings(tmp_path, url))

    assert said.startswith("PHOTO_API_DATABASE__URL: the server refuses")


@pytest.mark.parametrize(
    "changes",
    [
        {"s3_bucket": "no-such-bucket"},
        {"s3_secret_access_key": SecretStr(SECRET)},
        {"s3_access_key_id": SecretStr("test:nobody")},
        {"s3_access_key_id": SecretStr(STRANGER_ACCESS_KEY_ID)},
    ],
    ids=["bucket", "secret", "key", "rights"],
)
def test_a_store_that_refuses_is_a_mistake_in_production_only(
    tmp_path: Path, sqlite_url: str, s3_config: S3Config, changes: dict[str, Any]
) -> None:
    storage = s3(s3_config, **changes)

    (said,) = mistakes(settings(tmp_path, sqlite_url, storage=storage))

    assert said.startswith("PHOTO_API_STORAGE__S3_")
    assert "PHOTO_API_STORAGE__S3_BUCKET" in said
    assert SECRET not in said
    assert mistakes(settings(tmp_path, sqlite_url, storage=storage, profile="development")) == []


def test_a_cdn_that_refuses_is_a_mistake_in_production_only(tmp_path: Path, sqlite_url: str) -> None:
    with NhnCdn() as api:
        cdn = CdnSettings(
            backend="nhn",
            base_url="https://cdn.example.org",
            edge_auth_key=SecretStr(ENCRYPT_KEY),
            nhn_app_key=APP_KEY,
            nhn_secret_key=SecretStr(SECRET),
            nhn_api_url=api.url,
        )
        given = settings(tmp_path, sqlite_url).model_copy(update={"cdn": cdn})

        (said,) = mistakes(given)

        assert said.startswith("PHOTO_API_CDN__")
        assert SECRET not in said
        assert len(api.asked) == 1
        assert mistakes(given.model_copy(update={"profile": "development"})) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"swift_container": "no-such-container"}, "PHOTO_API_STORAGE__SWIFT_CONTAINER"),
        ({"swift_password": SecretStr("wrong")}, "PHOTO_API_STORAGE__SWIFT_AUTH_URL"),
        ({"swift_username": STRANGER_ACCESS_KEY_ID}, "answered 403"),
        ({"swift_username": STRANGER_ACCESS_KEY_ID}, "PHOTO_API_STORAGE__SWIFT_USERNAME"),
    ],
    ids=["container", "password", "rights", "user"],
)
def test_a_swift_that_refuses_is_a_mistake_that_says_what_to_mend(
    tmp_path: Path, sqlite_url: str, swift_config: SwiftConfig, changes: dict[str, Any], told: str
) -> None:
    (said,) = mistakes(settings(tmp_path, sqlite_url, storage=swift(swift_config, **changes)))

    assert said.startswith("PHOTO_API_STORAGE__SWIFT_…: ")
    assert told in said
    assert SECRET not in said


@pytest.mark.parametrize("is_production", [False, True])
@pytest.mark.parametrize("path", ["", "/v1", "/v1/AUTH_nobody", "/nothing/AUTH_test"])
def test_a_wrong_address_of_swifts_account_is_told_by_its_setting_not_taken_for_a_store_that_is_down(
    tmp_path: Path,
    sqlite_url: str,
    swift_config: SwiftConfig,
    caplog: pytest.LogCaptureFixture,
    *,
    path: str,
    is_production: bool,
) -> None:
    address = swift_config.identity.auth_url.removesuffix("/auth/v1.0")
    storage = swift(swift_config, swift_storage_url=f"{address}{path}")

    profile: Profile = "production" if is_production else "development"
    told = mistakes(settings(tmp_path, sqlite_url, storage=storage, profile=profile))

    logged = [record.getMessage() for record in caplog.records if record.name.startswith("app.startup")]
    (said,) = told if is_production else logged
    assert said.startswith("PHOTO_API_STORAGE__SWIFT_…: ")
    assert "PHOTO_API_STORAGE__SWIFT_STORAGE_URL" in said
    assert "PHOTO_API_STORAGE__SWIFT_CONTAINER" in said
    assert (logged if is_production else told) == []


@pytest.mark.parametrize(
    ("readers", "is_open"),
    [
        (".r:*", True),
        ("test:tester,.rlistings,.r:*", True),
        (".r:.example.org", True),
        (".r:-.example.org", False),
        ("test:tester", False),
    ],
)
def test_links_to_a_container_that_anybody_may_read_are_a_mistake_in_production_and_one_warning_in_development(
    tmp_path: Path,
    sqlite_url: str,
    swift_config: SwiftConfig,
    s3_server: SwiftServer,
    caplog: pytest.LogCaptureFixture,
    *,
    readers: str,
    is_open: bool,
) -> None:
    s3_server.ask("POST", swift_config.container, headers={"X-Container-Read": readers})
    storage = swift(swift_config)

    said = mistakes(settings(tmp_path, sqlite_url, storage=storage))
    in_development = mistakes(settings(tmp_path, sqlite_url, storage=storage, profile="development"))

    logged = [record for record in caplog.records if record.name.startswith("app.startup")]
    assert len(said) == is_open
    assert in_development == []
    assert [record.getMessage() for record in logged] == said
    for mistake in said:
        assert mistake.startswith("PHOTO_API_LINKS__PRESIGNED: anybody may read the container")
        assert "Set it to false, or take .r:* away" in mistake
        assert "\n" not in mistake


def test_a_container_that_anybody_may_read_is_no_mistake_without_links_to_it(
    tmp_path: Path, sqlite_url: str, swift_config: SwiftConfig, s3_server: SwiftServer
) -> None:
    s3_server.ask("POST", swift_config.container, headers={"X-Container-Read": ".r:*"})
    given = settings(tmp_path, sqlite_url, storage=swift(swift_config))
    unlinked = swift(swift_config, swift_temp_url_key=None)

    assert mistakes(given.model_copy(update={"links": LinksSettings(presigned=False)})) == []
    assert mistakes(settings(tmp_path, sqlite_url, storage=unlinked)) == []


def test_key_of_temporary_urls_is_put_there_in_development_too_and_another_key_is_only_logged(
    tmp_path: Path, sqlite_url: str, swift_config: SwiftConfig, caplog: pytest.LogCaptureFixture
) -> None:
    storage = swift(swift_config)
    assert mistakes(settings(tmp_path, sqlite_url, storage=storage, profile="development")) == []
    assert mistakes(settings(tmp_path, sqlite_url, storage=storage)) == []
    assert [record.message for record in caplog.records if record.name.startswith("app.")] == []

    another = swift(swift_config, swift_temp_url_key=SecretStr("another-key-than-that"))
    assert mistakes(settings(tmp_path, sqlite_url, storage=another, profile="development")) == []

    assert "PHOTO_API_STORAGE__SWIFT_TEMP_URL_KEY" in caplog.text


def test_key_of_temporary_urls_is_put_on_a_container_without_one_and_another_key_is_a_mistake(
    tmp_path: Path, sqlite_url: str, swift_config: SwiftConfig
) -> None:
    assert mistakes(settings(tmp_path, sqlite_url, storage=swift(swift_config))) == []

    another = swift(swift_config, swift_temp_url_key=SecretStr("another-key-than-that"))
    (said,) = mistakes(settings(tmp_path, sqlite_url, storage=another))

    assert "PHOTO_API_STORAGE__SWIFT_TEMP_URL_KEY" in said
    assert SECRET not in said
    assert "another-key-than-that" not in said


def test_all_mistakes_are_told_together(tmp_path: Path, postgres_url: str, s3_config: S3Config) -> None:
    (tmp_path / "file").write_text("no folder", encoding="ascii")

    said = mistakes(
        settings(
            tmp_path,
            postgres_url,
            spool_dir=tmp_path / "file",
            storage=s3(s3_config, s3_bucket="no-such-bucket"),
            server=ServerSettings(workers=64, expected_instances=10),
        )
    )

    assert [mistake.split(":")[0] for mistake in said] == [
        "PHOTO_API_DATABASE__URL",
        "PHOTO_API_DATABASE__POOL_SIZE and PHOTO_API_DATABASE__MAX_OVERFLOW",
        "PHOTO_API_UPLOADS__SPOOL_DIR",
        "PHOTO_API_STORAGE__S3_…",
    ]


def test_servers_that_refuse_connections_are_no_mistake(tmp_path: Path, s3_config: S3Config) -> None:
    port = find_free_port()
    storage = s3(s3_config, s3_endpoint_url=f"http://127.0.0.1:{port}")

    assert mistakes(settings(tmp_path, f"postgresql+psycopg://photo@127.0.0.1:{port}/photos", storage=storage)) == []


class Failing(BaseHTTPRequestHandler):
    """Answers everything with the status of its server."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET = do_HEAD = do_DELETE = _answer  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's signature
        """Say nothing."""


def test_a_store_that_fails_is_no_mistake(tmp_path: Path, sqlite_url: str, s3_config: S3Config) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        storage = s3(s3_config, s3_endpoint_url=f"http://127.0.0.1:{server.server_port}")

        said = mistakes(settings(tmp_path, sqlite_url, storage=storage))

        server.shutdown()
        thread.join()
    assert said == []


@pytest.mark.parametrize(
    ("profile", "workers", "instances", "is_mistake"),
    [
        ("production", 2, 2, False),  # 164 of the 197 that the server leaves to ordinary users
        ("production", 2, 3, True),
        ("production", 5, 1, True),
        ("development", 5, 1, False),
    ],
)
def test_more_connections_than_the_database_allows_are_a_mistake_in_production(
    tmp_path: Path, migrated_url: str, profile: Profile, workers: int, instances: int, *, is_mistake: bool
) -> None:
    server = ServerSettings(workers=workers, expected_instances=instances)

    said = mistakes(settings(tmp_path, migrated_url, profile=profile, server=server))

    assert bool(said) is is_mistake
    if is_mistake:
        assert f"{(workers * 40 + 2) * instances} connections, the database allows 197" in said[0]


@pytest.fixture
def migrated_mariadb_url(mariadb_url: str) -> str:
    open_database(mariadb_url).close()
    return mariadb_url


@pytest.mark.parametrize(
    ("of_the_user", "workers", "allowed"), [(0, 5, 200), (50, 2, 50), (0, 4, None)], ids=["all", "user", "fits"]
)
def test_mariadb_allows_as_many_connections_as_the_user_may_have(
    tmp_path: Path, mariadb_server: MariadbServer, migrated_mariadb_url: str, *, of_the_user: int, workers: int,
    allowed: int | None,
) -> None:  # fmt: skip
    account = "'photo'@'127.0.0.1'"
    mariadb_server.execute(f"ALTER USER {account} WITH MAX_USER_CONNECTIONS {of_the_user}")
    try:
        said = mistakes(settings(tmp_path, migrated_mariadb_url, server=ServerSettings(workers=workers)))
    finally:
        mariadb_server.execute(f"ALTER USER {account} WITH MAX_USER_CONNECTIONS 0")

    assert [mistake.rpartition(" ")[2] for mistake in said] == ([] if allowed is None else [str(allowed)])


@pytest.mark.parametrize("part", ["user", "password", "name"])
def test_what_mariadb_refuses_is_a_mistake_that_repeats_no_value(
    tmp_path: Path, migrated_mariadb_url: str, part: str
) -> None:
    wrong = {
        "user": ("//photo@", "//nobody@"),
        "password": ("photo@", f"photo:{SECRET}@"),
        "name": ("/test_", "/no_"),
    }

    (said,) = mistakes(settings(tmp_path, migrated_mariadb_url.replace(*wrong[part])))

    assert said.startswith("PHOTO_API_DATABASE__URL: the server refuses")
    assert SECRET not in said


def test_a_server_that_is_no_mariadb_is_a_mistake(
    tmp_path: Path, migrated_mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"init_command": "SET SESSION what_mysql_does_not_know = 1", "read_timeout": 5}
    monkeypatch.setattr("app.db.mariadb.connect_arguments", lambda _seconds: asked)

    (said,) = mistakes(settings(tmp_path, migrated_mariadb_url))

    assert said.startswith("PHOTO_API_DATABASE__URL: the server is no MariaDB")
