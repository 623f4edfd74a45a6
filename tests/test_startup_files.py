"""Files that settings name are judged with the settings, before a worker reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from app.accounts.ring_file import create_ring_file, read_ring_file
from app.errors import ConfigurationError
from app.pipelines import load_configuration
from app.settings import AuthSettings, Settings
from app.settings_delivery import CdnSettings
from app.startup_files import find_file_mistakes

RING = "PHOTO_API_AUTH__KEY_RING_FILE"
KEY = "PHOTO_API_CDN__CLOUDFRONT_PRIVATE_KEY_FILE"


def with_ring(file: Path, profile: Literal["development", "production"] = "development") -> Settings:
    return Settings(profile=profile, auth=AuthSettings(key_ring_file=file))


def with_key(file: Path | None, backend: Literal["none", "cloudfront"] = "cloudfront") -> Settings:
    return Settings(
        auth=AuthSettings(jwt_secret=SecretStr("k" * 40), key_ring_file=None),
        cdn=CdnSettings(backend=backend, base_url="https://cdn.example.org", cloudfront_private_key_file=file),
    )


@pytest.mark.parametrize("content", [None, "no key"], ids=["missing", "no-pem"])
def test_a_key_of_cloudfront_that_cannot_be_used_is_one_mistake_that_names_its_setting(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_text(content, encoding="ascii")

    (said,) = find_file_mistakes(with_key(file))

    assert said.startswith(f"{KEY}: the file ")
    assert "no key" not in said


def test_a_key_that_is_used_by_nobody_or_not_named_is_not_looked_at(tmp_path: Path) -> None:
    assert list(find_file_mistakes(with_key(tmp_path / "key.pem", "none"))) == []
    assert list(find_file_mistakes(with_key(None))) == []


def test_files_that_can_be_used_are_no_mistake(tmp_path: Path) -> None:
    ring, file = tmp_path / "ring.json", tmp_path / "key.pem"
    create_ring_file(ring)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*form))

    assert list(find_file_mistakes(with_ring(ring, "production"))) == []
    assert list(find_file_mistakes(with_key(file))) == []


def test_a_key_ring_that_is_damaged_is_a_mistake_in_every_profile(tmp_path: Path) -> None:
    ring = tmp_path / "ring.json"
    ring.write_text("{}", encoding="ascii")
    ring.chmod(0o600)

    for profile in ("development", "production"):
        said = list(find_file_mistakes(with_ring(ring, profile)))

        assert said
        assert all(mistake.startswith(f"{RING}: the ring ") for mistake in said)


def test_a_key_ring_that_is_not_there_is_a_mistake_where_it_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    (missing,) = find_file_mistakes(with_ring(tmp_path / "ring.json", "production"))
    (no_place,) = find_file_mistakes(with_ring(tmp_path / "file" / "keys" / "ring.json"))

    assert missing.startswith(f"{RING}: there is no such file")
    assert no_place.startswith(f"{RING}: the file cannot be made there")
    assert list(find_file_mistakes(with_ring(tmp_path / "keys" / "ring.json"))) == []
    assert not (tmp_path / "keys").exists()


def test_a_start_makes_the_key_ring_and_tells_when_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ring, no_place = tmp_path / "keys" / "ring.json", tmp_path / "file" / "var" / "keys" / "ring.json"

    assert list(find_file_mistakes(with_ring(ring), make=True)) == []
    assert read_ring_file(ring)
    (said,) = find_file_mistakes(with_ring(no_place), make=True)

    assert said.startswith(f"{RING}: the file cannot be made (")
    (missing,) = find_file_mistakes(with_ring(tmp_path / "none.json", "production"), make=True)
    assert missing.startswith(f"{RING}: there is no such file")
    assert not (tmp_path / "none.json").exists()


def test_mistakes_in_files_are_told_together_with_those_of_the_settings(tmp_path: Path) -> None:
    environ = {
        "PHOTO_API_STORAGE__BACKEND": "s3",
        "PHOTO_API_CDN__BACKEND": "cloudfront",
        "PHOTO_API_CDN__BASE_URL": "https://cdn.example.org",
        "PHOTO_API_CDN__CLOUDFRONT_KEY_PAIR_ID": "K1",
        KEY: "none.pem",
        "PHOTO_API_STABILITY__PIPELINES_FILE": "none.toml",
    }

    with pytest.raises(ConfigurationError) as caught:
        load_configuration(environ, working_folder=tmp_path, look_further=find_file_mistakes)

    named = [re.split(r"[: ]", mistake)[0] for mistake in caught.value.mistakes]
    assert {"PHOTO_API_STORAGE__S3_BUCKET", KEY, "PHOTO_API_STABILITY__PIPELINES_FILE"} <= set(named)
    assert named.count(KEY) == 1
