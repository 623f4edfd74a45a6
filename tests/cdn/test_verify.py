"""At start-up a URL is signed: what an operator has to mend is a mistake, what passes by itself is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cdn.verify import find_mistakes
from app.settings_delivery import CdnSettings
from tests.servers.base import find_free_port
from tests.servers.nhn_cdn import APP_KEY, ENCRYPT_KEY, SECRET_KEY, NhnCdn


@pytest.fixture
def api() -> Iterator[NhnCdn]:
    with NhnCdn() as running:
        yield running


def settings(backend: str, **more: Any) -> CdnSettings:
    given = {"base_url": "https://cdn.example.org", "edge_auth_key": ENCRYPT_KEY, "timeout_seconds": 20, **more}
    return CdnSettings.model_validate({"backend": backend, **given})


def nhn(url: str, **more: Any) -> CdnSettings:
    return settings("nhn", **{"nhn_api_url": url, "nhn_app_key": APP_KEY, "nhn_secret_key": SECRET_KEY, **more})


def test_keys_that_hold_are_no_mistake_and_the_api_is_asked_once(api: NhnCdn) -> None:
    assert list(find_mistakes(nhn(api.url))) == []

    assert [asked["singlePath"] for asked in api.asked] == ["/probe/startup"]


@pytest.mark.parametrize("wrong", [{"nhn_app_key": "wrong-key"}, {"nhn_secret_key": "wrong-key"}])
def test_keys_that_are_refused_are_a_mistake_without_their_values(api: NhnCdn, wrong: dict[str, str]) -> None:
    (mistake,) = find_mistakes(nhn(api.url, **wrong))

    assert "PHOTO_API_CDN__NHN_APP_KEY and PHOTO_API_CDN__NHN_SECRET_KEY" in mistake
    assert "wrong-key" not in mistake


def test_an_api_that_is_down_or_cannot_now_is_no_mistake(api: NhnCdn, caplog: pytest.LogCaptureFixture) -> None:
    api.fails_with = 30000

    with caplog.at_level(logging.WARNING):
        found = [*find_mistakes(nhn(f"http://127.0.0.1:{find_free_port()}")), *find_mistakes(nhn(api.url))]

    assert found == []
    assert len([record for record in caplog.records if record.name.startswith("app.cdn")]) == 2


def test_a_private_key_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("no key")

    (mistake,) = find_mistakes(settings("cloudfront", cloudfront_key_pair_id="K1", cloudfront_private_key_file=file))

    assert mistake.startswith("PHOTO_API_CDN__CLOUDFRONT_PRIVATE_KEY_FILE: ")


def test_what_is_signed_here_and_no_cdn_are_no_mistake() -> None:
    assert list(find_mistakes(settings("edge_auth"))) == []
    assert list(find_mistakes(settings("nginx_secure_link", secure_link_secret="secret"))) == []
    assert list(find_mistakes(CdnSettings())) == []
