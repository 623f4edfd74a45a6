"""CloudFront's canned policy, and what is accepted as its key. The signature is verified in the contract suite."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.cdn.cloudfront import CloudFrontUrlSigner, load_private_key
from app.errors import ConfigurationError


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    locked = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_a_key_is_read_in_both_forms(
    tmp_path: Path, key: rsa.RSAPrivateKey, form: serialization.PrivateFormat
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))

    assert load_private_key(file).private_numbers() == key.private_numbers()


def refused(tmp_path: Path, content: bytes) -> str:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_private_key(file)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_what_is_no_key_is_refused_without_being_shown(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    whole = pem(key)
    for content in (
        b"",
        b"secret",
        whole[:-60],
        whole.replace(b"PRIVATE", b"PUBLIC"),
        pem(key, b"password"),
        bytes(99),
    ):
        told = refused(tmp_path, content)

        assert told == (
            "PHOTO_API_CDN__CLOUDFRONT_PRIVATE_KEY_FILE: the file holds no private key in PEM without a password. "
            "Name that of openssl genrsa"
        )


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # what is refused

    assert "RSA key of 2048 bits" in refused(tmp_path, pem(ec.generate_private_key(ec.SECP256R1())))
    assert "RSA key of 2048 bits" in refused(tmp_path, pem(small))


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_private_key(tmp_path / "none.pem")
    with pytest.raises(ConfigurationError, match="must be set"):
        load_private_key(None)


def test_a_url_carries_end_signature_and_the_id_of_the_key(key: rsa.RSAPrivateKey) -> None:
    signer = CloudFrontUrlSigner("https://d1.cloudfront.net/", key_pair_id="K1", private_key=key)

    signed = signer.sign("/a.jpg", expires_at=datetime(2026, 1, 1, tzinfo=UTC))

    names = [part.partition("=")[0] for part in signed.url.partition("?")[2].split("&")]
    assert names == ["Expires", "Signature", "Key-Pair-Id"]
    assert signed.url.startswith("https://d1.cloudfront.net/a.jpg?Expires=1767225600&")
    assert signed.url.endswith("&Key-Pair-Id=K1")
