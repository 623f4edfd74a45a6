"""A secret is never shown, wherever it was written by mistake."""

from __future__ import annotations

import json
import random
import secrets
import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.errors import ConfigurationError
from app.settings import LoadedSettings, known_settings, load_settings
from app.settings_forms import contains_placeholder, mask_database_url, secret_weakness
from app.settings_sources import printable, variable_of
from app.settings_table import build_rows, format_text

if TYPE_CHECKING:
    from tests.settings.conftest import Sandbox

KNOWN = known_settings()
VARIABLES = ["PHOTO_API_PROFILE", *(variable_of(*key) for key in KNOWN.names)]
FILE_VARIABLES = [f"{variable_of(*key)}_FILE" for key in sorted(KNOWN.secrets)]

# Marked at both ends, so that a part of one is known from our own words as well.
BEGINNING, END = "hq7X", "Vk3z"
SECRETS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).map(
    lambda text: f"{BEGINNING}{text}{END}"
)
ENV_LINES = (
    "{}",
    "PHOTO_API_AUTH__JWT_SECRET {}",
    "PHOTO_API_AUTH__JWT_SECRET:{}",
    "PHOTO_API_AUTH__JWT_SECRET='{}",
    "PHOTO_API_SERVER__WORKERS={}",
    'PHOTO_API_SERVER__WORKERS="{}"',
    "export PHOTO_API_PROFILE={}",
)
SCHEMES = ("postgresql+psycopg", "mysql+pymysql", "postgres", "sqlite")
URLS = (
    "u:{}@db/photo",
    "{}@db/photo",
    "u:{}@db:5432/photo?sslmode=require",
    "db/photo?password={}",
    "u:p@db/photo?password={}",
    "u:{}",
)
any_example = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=150
)


def everything_said(sandbox: Sandbox, environ: dict[str, str], section_name: tuple[str, str] | None = None) -> str:
    """Return all that is printed about a configuration; a value that is sound in its place may be shown there."""
    try:
        loaded = sandbox.load(environ)
    except ConfigurationError as error:
        return "".join(traceback.format_exception(error)) + repr(error) + "\n".join(error.mistakes)
    if section_name is not None and section_name not in KNOWN.secrets:
        return ""
    return said_of(loaded)


def said_of(loaded: LoadedSettings) -> str:
    rows = build_rows(loaded)
    return "\n".join(
        [format_text(rows), json.dumps([row.to_json() for row in rows]), repr(loaded), str(loaded.settings)]
    )


@any_example
@given(secret=SECRETS, variable=st.sampled_from([*VARIABLES, *FILE_VARIABLES]))
def test_a_secret_in_any_variable_is_not_shown(module_sandbox: Sandbox, secret: str, variable: str) -> None:
    key = next((key for key in KNOWN.names if variable_of(*key) == variable), None)

    said = everything_said(module_sandbox, {variable: secret}, key)

    assert BEGINNING not in said
    assert END not in said


@any_example
@given(secret=SECRETS, key=st.sampled_from(KNOWN.names), broken=st.booleans())
def test_a_secret_in_any_place_of_a_profile_file_is_not_shown(
    module_sandbox: Sandbox, secret: str, key: tuple[str, str], *, broken: bool
) -> None:
    written = secret.replace("\n", " ").replace("\r", " ") if broken else json.dumps(secret)
    assume(not broken or "]" not in written)
    module_sandbox.write_profile("test", f"[{key[0]}]\n{key[1]} = {written}\n")

    said = everything_said(module_sandbox, {"PHOTO_API_PROFILE": "test"}, key)

    assert BEGINNING not in said
    assert END not in said


@any_example
@given(secret=SECRETS, form=st.sampled_from(ENV_LINES))
def test_a_secret_in_any_line_of_an_env_file_is_not_shown(module_sandbox: Sandbox, secret: str, form: str) -> None:
    module_sandbox.write_env_file(form.format(secret) + "\n")

    said = everything_said(module_sandbox, {})
    module_sandbox.write_env_file("")

    assert BEGINNING not in said
    assert END not in said


@any_example
@given(secret=SECRETS, scheme=st.sampled_from(SCHEMES), form=st.sampled_from(URLS))
def test_a_secret_in_a_database_url_is_not_shown(
    module_sandbox: Sandbox, secret: str, scheme: str, form: str
) -> None:
    assume(scheme != "sqlite" or "@" in form or "?" in form)  # a path is no secret
    url = f"{scheme}://{'/' if scheme == 'sqlite' else ''}{form.format(secret)}"

    said = everything_said(module_sandbox, {"PHOTO_API_DATABASE__URL": url}, ("database", "url"))

    assert BEGINNING not in said + mask_database_url(url)
    assert END not in said + mask_database_url(url)


def test_a_masked_url_still_says_which_database(sandbox: Sandbox) -> None:
    url = "postgresql+psycopg://photo:hunter2@db.example.org:5432/photo?sslmode=require"

    rows = build_rows(sandbox.load({"PHOTO_API_DATABASE__URL": url}))

    assert rows[1].value == "postgresql+psycopg://********@db.example.org:5432/photo"


def test_a_secret_that_is_set_is_told_from_one_that_is_not(sandbox: Sandbox) -> None:
    rows = build_rows(sandbox.load({"PHOTO_API_AUTH__JWT_SECRET": "k" * 40}))

    shown = {row.variable: (row.value, row.origin) for row in rows}
    assert shown["PHOTO_API_AUTH__JWT_SECRET"] == ("********", "environment")
    assert shown["PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY"] == ("(not set)", "default")


def test_an_error_keeps_no_other_error_that_holds_the_values(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sandbox.load({"PHOTO_API_SERVER__WORKERS": "hunter2", "PHOTO_API_AUTH__JWT_SECRET": "hunter3"})

    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("encode", [lambda raw: urlsafe_b64encode(raw).decode().rstrip("="), bytes.hex])
def test_thirty_two_random_bytes_are_strong(encode: Callable[[bytes], str]) -> None:
    chance = random.Random(4)  # always the same: one of a million is refused for its looks

    judged = {secret_weakness(encode(chance.randbytes(32))) for _ in range(2000)}

    assert judged == {None}


def test_what_the_documents_advise_starts_production(sandbox: Sandbox) -> None:
    settings = load_settings(
        {
            "PHOTO_API_PROFILE": "production",
            "PHOTO_API_SERVER__ALLOWED_HOSTS": "photos.example.org",
            "PHOTO_API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        },
        working_folder=sandbox.working_folder,
    )

    assert settings.auth.registration == "closed"
    assert settings.auth.key_ring_file is None


def test_a_placeholder_is_known_in_any_case() -> None:
    assert contains_placeholder("Change-Me")
    assert not contains_placeholder("k3J9xQ2mZ7pL4vR8")


@pytest.mark.parametrize(
    ("name", "shown"), [("JWT_SECRET:abc=", "JWT_SECRET…"), ("A" * 70, "A" * 60 + "…"), ("a.b", "a.b")]
)
def test_only_what_can_be_a_name_is_repeated(name: str, shown: str) -> None:
    assert printable(name) == shown
