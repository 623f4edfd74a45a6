"""Which source wins, and what becomes of the values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr, ValidationError

from app.settings import CONFIG_FOLDER, DatabaseSettings, Settings, load_settings
from app.settings_forms import parse_address
from app.settings_table import build_rows

if TYPE_CHECKING:
    from tests.settings.conftest import Sandbox


def test_environment_wins_over_env_file_over_profile_over_default(sandbox: Sandbox) -> None:
    sandbox.write_profile("development", "[server]\nworkers = 3\nthreads = 3\n[uploads]\nlease_seconds = 3\n")
    sandbox.write_env_file("PHOTO_API_SERVER__WORKERS=4\nPHOTO_API_SERVER__THREADS=4\n")

    loaded = sandbox.load({"PHOTO_API_SERVER__WORKERS": "5"})

    server, uploads = loaded.settings.server, loaded.settings.uploads
    assert (server.workers, server.threads, uploads.lease_seconds, uploads.idempotency_seconds) == (5, 4, 3, 86_400)
    assert loaded.origins == {
        ("server", "workers"): "environment",
        ("server", "threads"): ".env",
        ("uploads", "lease_seconds"): "config/development.toml",
    }


def test_a_mistake_in_a_value_that_another_source_overrides_does_not_matter(sandbox: Sandbox) -> None:
    sandbox.write_profile("development", "[server]\nworkers = 'many'\n")

    loaded = sandbox.load({"PHOTO_API_SERVER__WORKERS": "5"})

    assert loaded.settings.server.workers == 5


def test_the_profile_of_the_environment_wins_over_that_of_the_env_file(sandbox: Sandbox) -> None:
    sandbox.write_env_file("PHOTO_API_PROFILE=production\n")

    loaded = sandbox.load({"PHOTO_API_PROFILE": "test"})

    assert (loaded.settings.profile, loaded.profile_origin) == ("test", "environment")


def test_the_profile_of_the_env_file_chooses_the_profile_file(sandbox: Sandbox) -> None:
    sandbox.write_env_file("PHOTO_API_PROFILE=test\n")
    sandbox.write_profile("test", "[server]\nworkers = 7\n")

    loaded = sandbox.load()

    assert (loaded.settings.server.workers, loaded.profile_origin) == (7, ".env")


def test_other_programs_variables_are_left_alone(sandbox: Sandbox) -> None:
    sandbox.write_env_file("OTHER=1\nNOT OURS=2\n".replace("NOT OURS", "NOT_OURS"))

    loaded = sandbox.load({"PATH": "/bin", "PHOTOS": "1", "MY_PHOTO_API_X": "1"})

    assert loaded.origins == {}


def test_a_dollar_in_an_env_file_is_a_dollar(sandbox: Sandbox) -> None:
    secret = "k$HOME${PATH}" + "x" * 32
    sandbox.write_env_file(f"PHOTO_API_AUTH__JWT_SECRET='{secret}'\n")

    loaded = sandbox.load({"HOME": "/nowhere"})

    assert loaded.settings.auth.jwt_secret == SecretStr(secret)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_file_holds_the_secret_without_its_line_end(sandbox: Sandbox, end: str) -> None:
    (sandbox.working_folder / "jwt").write_bytes(b" " + b"k" * 40 + end.encode())

    loaded = sandbox.load({"PHOTO_API_AUTH__JWT_SECRET_FILE": "jwt"})

    assert loaded.settings.auth.jwt_secret == SecretStr(" " + "k" * 40)
    assert loaded.origins["auth", "jwt_secret"] == "environment, by PHOTO_API_AUTH__JWT_SECRET_FILE"


@pytest.mark.parametrize(
    ("variable", "content"),
    [
        ("PHOTO_API_DATABASE__URL_FILE", "sqlite:////srv/photo.db"),
        ("PHOTO_API_STORAGE__S3_ACCESS_KEY_ID_FILE", "AKIAZ7Q3"),
        ("PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY_FILE", "wJalrXUt"),
    ],
)
def test_every_secret_may_be_a_file(sandbox: Sandbox, variable: str, content: str) -> None:
    (sandbox.working_folder / "secret").write_text(content + "\n", encoding="utf-8")

    loaded = sandbox.load({variable: "secret"})

    section, name = variable.removeprefix("PHOTO_API_").removesuffix("_FILE").lower().split("__")
    assert getattr(getattr(loaded.settings, section), name) == SecretStr(content)


def test_a_profile_file_may_name_a_secret_file(sandbox: Sandbox) -> None:
    (sandbox.working_folder / "jwt").write_text("k" * 40, encoding="utf-8")
    sandbox.write_profile("development", '[auth]\njwt_secret_file = "jwt"\n')

    loaded = sandbox.load()

    assert loaded.settings.auth.jwt_secret == SecretStr("k" * 40)


def test_a_value_of_a_higher_source_wins_over_a_secret_file_of_a_lower_one(sandbox: Sandbox) -> None:
    (sandbox.working_folder / "jwt").write_text("f" * 40, encoding="utf-8")
    sandbox.write_env_file("PHOTO_API_AUTH__JWT_SECRET_FILE=jwt\n")

    loaded = sandbox.load({"PHOTO_API_AUTH__JWT_SECRET": "k" * 40})

    assert loaded.settings.auth.jwt_secret == SecretStr("k" * 40)


def test_relative_paths_start_in_the_working_folder(sandbox: Sandbox) -> None:
    folder = sandbox.working_folder

    settings = sandbox.load({"PHOTO_API_UPLOADS__SPOOL_DIR": "/srv/spool"}).settings

    assert settings.storage.local_root == folder / "var/objects"
    assert settings.uploads.spool_dir == Path("/srv/spool")
    assert settings.auth.key_ring_file == folder / "var/keys/ring.json"
    assert settings.database.url.get_secret_value() == f"sqlite:///{folder}/var/photo-api.db"


def test_an_absolute_database_and_its_query_stay_as_they_are(sandbox: Sandbox) -> None:
    for url in ("sqlite:////srv/photo.db?timeout=3", "postgresql+psycopg://u:p%40@db/photo?sslmode=require"):
        assert sandbox.load({"PHOTO_API_DATABASE__URL": url}).settings.database.url == SecretStr(url)


def test_loading_makes_no_file_and_no_folder(sandbox: Sandbox) -> None:
    sandbox.load()

    assert list(sandbox.working_folder.iterdir()) == []


def test_a_secret_takes_the_place_of_the_default_key_ring(sandbox: Sandbox) -> None:
    assert sandbox.load({"PHOTO_API_AUTH__JWT_SECRET": "k" * 40}).settings.auth.key_ring_file is None


def test_lists_are_parted_by_commas_in_variables_and_are_arrays_in_toml(sandbox: Sandbox) -> None:
    sandbox.write_profile("development", '[server]\ntrusted_proxies = ["10.0.0.0/8", "::1"]\n')

    server = sandbox.load({"PHOTO_API_SERVER__ALLOWED_HOSTS": "A.example, .b.example"}).settings.server

    assert server.allowed_hosts == ("a.example", ".b.example")
    assert server.trusted_proxies == ("10.0.0.0/8", "::1")


def test_an_empty_list_is_shown_by_the_word_it_was_given_by(sandbox: Sandbox) -> None:
    rows = build_rows(sandbox.load({"PHOTO_API_RENDITIONS__EAGER_FORMATS": "none"}))

    shown = {row.variable: row.value for row in rows}
    assert shown["PHOTO_API_RENDITIONS__EAGER_FORMATS"] == "none"
    assert "(not set)" in shown.values()


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:80", "[::]:8000", "localhost:1", "unix:var/photo.sock", "api_1.internal:65535"]
)
def test_a_listener_is_an_address_or_a_socket(sandbox: Sandbox, bind: str) -> None:
    assert sandbox.load({"PHOTO_API_SERVER__BIND": bind}).settings.server.bind == bind


@pytest.mark.parametrize("bind", ["10.1.2.3:9", "[::1]:9", "[fd00::1]:9", "localhost:9", "unix:/run/photo.sock"])
def test_the_management_listener_may_be_private(sandbox: Sandbox, bind: str) -> None:
    assert sandbox.load({"PHOTO_API_SERVER__MANAGEMENT_BIND": bind}).settings.server.management_bind == bind


def test_two_unix_sockets_collide_only_on_the_same_path() -> None:
    first, second = parse_address("unix:/run/a"), parse_address("unix:/run/b")

    assert first.collides_with(parse_address("unix:/run/a"))
    assert not first.collides_with(second)
    assert not first.collides_with(parse_address("127.0.0.1:80"))


def test_service_timeouts_are_caps_and_may_exceed_the_deadline(sandbox: Sandbox) -> None:
    settings = sandbox.load({"PHOTO_API_STORAGE__UPLOAD_TIMEOUT_SECONDS": "3600"}).settings

    assert settings.storage.upload_timeout_seconds > settings.server.request_deadline_seconds


def test_settings_made_directly_know_nothing_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER", '{"workers": 9}')
    monkeypatch.setenv("PROFILE", "production")

    settings = Settings(database=DatabaseSettings(pool_size=3))

    assert (settings.profile, settings.server.workers, settings.database.pool_size) == ("development", 2, 3)


def test_settings_are_immutable() -> None:
    settings = Settings()

    with pytest.raises(ValidationError):
        settings.server.workers = 3  # type: ignore[misc]  # that it is refused is the point
    with pytest.raises(ValidationError):
        settings.profile = "test"  # type: ignore[misc]  # that it is refused is the point


def test_a_list_that_may_be_empty_says_so_by_a_word(sandbox: Sandbox) -> None:
    sandbox.write_profile("development", "[renditions]\neager_presets = []\n")

    renditions = sandbox.load({"PHOTO_API_RENDITIONS__EAGER_FORMATS": "none"}).settings.renditions

    assert (renditions.eager_presets, renditions.eager_formats) == ((), ())


@pytest.mark.parametrize("profile", ["development", "test"])
def test_the_shipped_profiles_start_without_any_variable(tmp_path: Path, profile: str) -> None:
    assert load_settings({"PHOTO_API_PROFILE": profile}, working_folder=tmp_path).profile == profile


def test_every_example_starts_once_its_placeholders_are_replaced(sandbox: Sandbox) -> None:
    for profile in ("development", "production"):
        example = (CONFIG_FOLDER / f".env.{profile}").read_text(encoding="utf-8")
        sandbox.write_env_file(example.replace("change-me", "k3J9xQ2mZ7pL4vR8"))

        assert load_settings({}, working_folder=sandbox.working_folder).profile == profile


def test_what_an_example_leaves_to_the_reader_is_refused_in_production(sandbox: Sandbox) -> None:
    example = (CONFIG_FOLDER / ".env.production").read_text(encoding="utf-8")
    sandbox.write_env_file(example)

    mistakes = sandbox.mistakes()

    given = "\n".join(line for line in example.splitlines() if not line.startswith("#"))
    assert len(mistakes) == given.count("=change-me") + given.count(":change-me@") > 0


def test_every_line_that_an_example_comments_out_is_right_as_well(sandbox: Sandbox) -> None:
    example = (CONFIG_FOLDER / ".env.development").read_text(encoding="utf-8")
    sandbox.write_env_file(example.replace("# PHOTO_API", "PHOTO_API"))

    assert sandbox.load().settings.storage.backend == "s3"
