"""Links into a bucket: every byte is what botocore writes, and a real server takes them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest
import requests
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from app.storage.probe import BytesBody
from app.storage.s3 import S3Config, S3ObjectStore
from app.storage.s3_links import LONGEST_SECONDS, S3Links

NOON = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

KEYS = ["a", "originals/0123456789abcdef/fedcba9876543210", "x.y-z_/q", "a/" + "b" * 500]
URLS = [
    "http://127.0.0.1:8080/photos",
    "https://storage.example.com/s3/photos",
    "https://photos.s3.eu-west-1.amazonaws.com",
    "https://storage.example.com:443/photos",
    "http://storage.example.com:80/photos",
    "http://[::1]:9000/photos",
    "https://Storage.Example.com:8443/Photos",
]
LIVES = [
    (NOON, 3600),
    (dt.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=dt.UTC), 1),
    (dt.datetime(1999, 12, 31, 23, 30, tzinfo=dt.timezone(dt.timedelta(hours=-9))), LONGEST_SECONDS),
]
TYPES = ["image/jpeg", "image/avif", 'image/x; a="b c"&d=~+%ü']
OWNERS = [("AKIAIOSFODNN7EXAMPLE", "eu-west-1"), ("test:tester/+ %ü", "KR1")]


def botocores(url: str, signer: S3SigV4QueryAuth, content_type: str) -> str:
    request = AWSRequest("GET", url, params={"response-content-type": content_type})
    signer.add_auth(request)
    return str(request.url)


@pytest.mark.parametrize(("key_id", "region"), OWNERS, ids=["amazon", "swift"])
@pytest.mark.parametrize("bucket_url", URLS)
def test_every_byte_is_botocores(bucket_url: str, key_id: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    links = S3Links(bucket_url, region=region, access_key_id=key_id, secret_access_key=SECRET)
    for key, (issued_at, seconds), content_type in product(KEYS, LIVES, TYPES):
        expires_at = issued_at + dt.timedelta(seconds=seconds)
        monkeypatch.setattr("botocore.auth.get_current_datetime", partial(issued_at.astimezone, dt.UTC))
        signer = S3SigV4QueryAuth(Credentials(key_id, SECRET), "s3", region, expires=seconds)

        made = links.presigned_get(key, issued_at=issued_at, expires_at=expires_at, content_type=content_type)

        assert made == botocores(f"{bucket_url}/{key}", signer, content_type)


def links() -> S3Links:
    return S3Links(URLS[0], region="KR1", access_key_id="id", secret_access_key=SECRET)


@pytest.mark.parametrize("seconds", [0, -1, LONGEST_SECONDS + 1])
def test_a_link_that_would_not_live_or_live_too_long_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match="seconds"):
        links().presigned_get(
            "a", issued_at=NOON, expires_at=NOON + dt.timedelta(seconds=seconds), content_type="image/png"
        )


@pytest.mark.parametrize("key", ["", "../x", "a?b", "a%2fb", "A", "/a"])
def test_a_bad_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="object key"):
        links().presigned_get(
            key, issued_at=NOON, expires_at=NOON + dt.timedelta(seconds=60), content_type="image/png"
        )


@pytest.fixture
def store(s3_config: S3Config) -> Iterator[S3ObjectStore]:
    store = S3ObjectStore(s3_config)
    store.put("photo/a", BytesBody(b"the bytes"), content_type="application/octet-stream")
    store.put("photo/b", BytesBody(b"others"), content_type="application/octet-stream")
    yield store
    store.close()


def link_to(store: S3ObjectStore, key: str = "photo/a", *, ends_in_minutes: float = 31) -> str:
    """Return a link as one gets it at the end of a window: made half an hour ago."""
    now = dt.datetime.now(dt.UTC)
    ends = dt.timedelta(minutes=ends_in_minutes)
    return store.presigned_get(
        key, issued_at=now - dt.timedelta(minutes=29), expires_at=now + ends, content_type="image/jpeg"
    )


def test_a_link_gives_the_bytes_and_their_type_without_credentials(store: S3ObjectStore) -> None:
    whole = requests.get(link_to(store), timeout=10)
    part = requests.get(link_to(store), headers={"Range": "bytes=4-6"}, timeout=10)

    assert (whole.status_code, whole.content, whole.headers["Content-Type"]) == (200, b"the bytes", "image/jpeg")
    assert (part.status_code, part.content) == (206, b"byt")


def test_a_link_that_was_changed_or_has_ended_gives_nothing(store: S3ObjectStore) -> None:
    link = link_to(store)
    changed = {
        "signature": link[:-1] + ("0" if link[-1] != "0" else "1"),
        "key": link.replace("/photo/a?", "/photo/b?"),
        "life": re.sub(r"Expires=\d+", "Expires=7200", link),
        "type": link.replace("image%2Fjpeg", "text%2Fhtml"),
        "ended": link_to(store, ends_in_minutes=-1),
    }

    assert {name: requests.get(url, timeout=10).status_code for name, url in changed.items()} == dict.fromkeys(
        changed, 403
    )


def test_a_link_to_an_object_that_is_not_there_is_404(store: S3ObjectStore) -> None:
    assert requests.get(link_to(store, "photo/c"), timeout=10).status_code == 404
