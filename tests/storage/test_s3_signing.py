"""Signed requests: every header is what botocore writes."""

from __future__ import annotations

import datetime as dt
from functools import partial
from itertools import product
from urllib.parse import quote, urlencode

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from app.storage.s3_links import host_header
from app.storage.s3_signing import EMPTY_SHA256, S3Signer

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SHA256 = "f0" * 32
URLS = [
    "http://127.0.0.1:8080/photos",
    "https://storage.example.com/s3/photos",
    "https://storage.example.com:443/photos",
    "https://photos.s3.eu-west-1.amazonaws.com",
    "http://[::1]:9000/photos",
]
HEADERS: list[dict[str, str]] = [
    {},
    {"Range": "bytes=0-9"},
    {
        "Content-Type": "image/jpeg",
        "Content-MD5": "CY9rzUYh03PK3k6DJie09g==",
        "If-None-Match": "*",
        "x-amz-meta-sha256": SHA256,
    },
    {"X-Odd": "  two   words "},
]
QUERIES: list[dict[str, str]] = [
    {},
    {"list-type": "2", "max-keys": "10", "prefix": "originals/ü +~", "continuation-token": "a/b=="},
]
TIMES = [
    dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC),
    dt.datetime(1999, 12, 31, 23, 30, tzinfo=dt.timezone(dt.timedelta(hours=-9))),
]


class _KnownPayload(S3SigV4Auth):
    def payload(self, request: AWSRequest) -> str:
        return str(request.context["sha256"])


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_every_header_is_botocores(url: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for headers, query, now, sha256 in product(HEADERS, QUERIES, TIMES, [SHA256, EMPTY_SHA256]):
        monkeypatch.setattr("botocore.auth.get_current_datetime", partial(now.astimezone, dt.UTC))
        encoded = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
        asked = f"{url}/key" + (f"?{encoded}" if encoded else "")
        expected = AWSRequest(method=method, url=asked, headers=dict(headers))
        expected.context["sha256"] = sha256
        _KnownPayload(Credentials("test:tester", SECRET), "s3", "KR1").add_auth(expected)
        signer = S3Signer(
            host_header(url),
            region="KR1",
            access_key_id="test:tester",
            secret_access_key=SECRET,
            now=partial(now.astimezone, dt.UTC),
        )
        path = "/" + f"{url}/key".split("/", 3)[3]

        made = signer.sign(method, path, encoded, headers, payload_sha256=sha256)

        assert made.pop("Host") == host_header(url)
        assert {name.lower(): text for name, text in made.items()} == {
            name.lower(): text for name, text in expected.headers.items()
        }


def test_a_new_day_has_a_new_key() -> None:
    times = iter([TIMES[0], TIMES[0] + dt.timedelta(days=1), TIMES[0] + dt.timedelta(days=9), TIMES[0]])
    signer = S3Signer("s3", region="r", access_key_id="k", secret_access_key=SECRET, now=lambda: next(times))

    made = [signer.sign("GET", "/b/k", "", {}, payload_sha256=EMPTY_SHA256)["Authorization"] for _ in range(4)]

    assert len(set(made)) == 3
    assert made[0] == made[3]


def test_no_secret_is_sent() -> None:
    signer = S3Signer("s3", region="r", access_key_id="k", secret_access_key=SECRET)

    sent = signer.sign("GET", "/b/k", "", {}, payload_sha256=EMPTY_SHA256)

    assert SECRET not in repr(sent)
    assert SECRET not in repr(signer)
