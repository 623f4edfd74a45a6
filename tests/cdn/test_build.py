"""The CDN that settings name is built, and no vendor's library without need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from app.cdn.base import Purger, UrlSigner
from app.cdn.build import build_bare_signer, build_probe, build_purger, build_signer, is_purged
from app.cdn.cached import CachedSigner
from app.errors import ConfigurationError
from app.settings_delivery import CdnSettings
from app.stability import Pipeline
from app.upstream.observing import SilentObserver

PIPELINES = {name: Pipeline(name) for name in ("cdn", "cdn_token", "cdn_purge")}
BASE_URL = "https://cdn.example.org"
NHN = {"nhn_app_key": "app", "nhn_secret_key": "secret"}
KEY = {"base_url": BASE_URL, "edge_auth_key": "52a152a152a152a152a152a152a1"}


class NoGauge:
    def set(self, value: float) -> None:
        """Do nothing."""


def settings(backend: str, **more: Any) -> CdnSettings:
    return CdnSettings.model_validate({"backend": backend, **more})


def signer_of(cdn: CdnSettings) -> UrlSigner | None:
    return build_signer(cdn, pipelines=PIPELINES, observer=SilentObserver(), gauge=NoGauge())


def purger_of(cdn: CdnSettings) -> Purger | None:
    return build_purger(cdn, pipelines=PIPELINES, observer=SilentObserver())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "key.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


def every_backend(key_file: Path) -> list[CdnSettings]:
    return [
        settings("edge_auth", **KEY),
        settings("nhn", **KEY, **NHN),
        settings("cloudfront", base_url=BASE_URL, cloudfront_key_pair_id="K1", cloudfront_private_key_file=key_file),
        settings("nginx_secure_link", base_url=BASE_URL, secure_link_secret="secret"),
    ]


def test_each_backend_has_its_signer(key_file: Path) -> None:
    for cdn in every_backend(key_file):
        signer, bare = signer_of(cdn), build_bare_signer(cdn, SilentObserver())

        assert signer is not None
        assert bare is not None
        assert signer.name == bare.name == cdn.backend
        assert isinstance(signer, CachedSigner) is (cdn.backend in {"nhn", "cloudfront"})
        signer.close()
        bare.close()


def test_without_a_cdn_there_is_nothing() -> None:
    cdn = settings("none")

    assert signer_of(cdn) is None
    assert purger_of(cdn) is None
    assert build_probe(cdn, pipelines=PIPELINES, observer=SilentObserver()) is None


def test_each_cdn_is_looked_at(key_file: Path) -> None:
    for cdn in every_backend(key_file):
        probe = build_probe(cdn, pipelines=PIPELINES, observer=SilentObserver())

        assert probe is not None
        probe.close()


def test_who_has_an_api_is_purged(key_file: Path) -> None:
    edge_auth, nhn, cloudfront, secure_link = every_backend(key_file)

    assert [is_purged(cdn) for cdn in (edge_auth, nhn, cloudfront, secure_link)] == [False, True, False, False]
    assert is_purged(settings("edge_auth", **KEY, **NHN))
    assert is_purged(cloudfront.model_copy(update={"cloudfront_distribution_id": "E1"}))
    assert not is_purged(settings("none", **NHN))


def test_what_is_purged_has_a_purger(key_file: Path) -> None:
    _, nhn, cloudfront, secure_link = every_backend(key_file)
    purged = [
        nhn,
        settings("edge_auth", **KEY, **NHN),
        cloudfront.model_copy(update={"cloudfront_distribution_id": "E"}),
    ]

    for cdn in purged:
        purger = purger_of(cdn)
        assert purger is not None
        purger.close()
    assert purger_of(secure_link) is None


def test_a_key_file_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    cdn = settings(
        "cloudfront", base_url=BASE_URL, cloudfront_key_pair_id="K1", cloudfront_private_key_file=tmp_path / "none"
    )

    with pytest.raises(ConfigurationError, match="CLOUDFRONT_PRIVATE_KEY_FILE"):
        signer_of(cdn)


def test_only_the_vendor_in_use_is_loaded() -> None:
    program = "import sys, app.cdn.build; print({'boto3', 'botocore', 'cryptography'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
