"""Originals: conditions answered without storage, ranges, names, headers."""

from __future__ import annotations

import datetime as dt
import secrets
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import unquote

import pytest

from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.product import Product

SIZE_BYTES = 300_000


@pytest.fixture(scope="module")
def content() -> bytes:
    return new_photo()[:-16] + secrets.token_bytes(SIZE_BYTES)


@pytest.fixture(scope="module")
def url(owner: Client, content: bytes) -> str:
    return str(owner.upload(content)["links"]["original"])


def count_gets(product: Product) -> float:
    """Return how often the product has asked storage for a photo's bytes, by its own metrics and the proxy's.

    What is deleted is not counted: the photos that earlier tests have removed go by and by.
    """
    name = "photo_api_external_request_duration_seconds_count"
    calls = [product.metric(name, service="storage", operation=operation) for operation in ("get", "put")]
    seen = [] if product.stack.proxy is None else list(product.stack.proxy.requests)
    return sum(calls) + sum("originals" in each.path and each.method != "DELETE" for each in seen)


def test_conditional_requests_touch_no_storage_over_workers_and_restarts(
    product: Product, owner: Client, url: str
) -> None:
    whole = owner.get(url)
    conditions = [
        {"If-None-Match": whole.headers["ETag"]},
        {"If-None-Match": f'"other", W/{whole.headers["ETag"]}'},
        {"If-None-Match": "*"},
        {"If-Modified-Since": whole.headers["Last-Modified"]},
    ]
    before = count_gets(product)

    answers = []
    for turn in range(20):
        if turn == 7:
            product.kill_workers()
        elif turn == 14:
            product.restart()
        twin = owner.twin()  # a connection of its own reaches any worker
        answers.append(twin.get(url, headers=conditions[turn % len(conditions)]))
        twin.close()

    assert [answer.status_code for answer in answers] == [304] * 20
    assert {answer.content for answer in answers} == {b""}
    assert {answer.headers["ETag"] for answer in answers} == {whole.headers["ETag"]}
    assert count_gets(product) <= before  # a stopped master starts its counts anew
    assert product.metric("photo_api_etag_requests_total", result="hit") >= 6


def test_a_copy_that_is_not_current_gets_the_bytes(owner: Client, url: str, content: bytes) -> None:
    modified = parsedate_to_datetime(owner.head(url).headers["Last-Modified"])
    earlier = format_datetime(modified - dt.timedelta(seconds=1), usegmt=True)
    later = format_datetime(modified + dt.timedelta(days=1), usegmt=True)

    other_tag = owner.get(url, headers={"If-None-Match": '"other"'})
    older = owner.get(url, headers={"If-Modified-Since": earlier})
    tag_decides = owner.get(url, headers={"If-None-Match": '"other"', "If-Modified-Since": later})
    no_date = owner.get(url, headers={"If-Modified-Since": "last week"})

    for answer in (other_tag, older, tag_decides, no_date):
        assert (answer.status_code, answer.content) == (200, content)
    assert owner.get(url, headers={"If-Modified-Since": later}).status_code == 304


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 0)),
        ("bytes=100-199", (100, 199)),
        ("bytes=100000-", (100_000, -1)),
        ("bytes=-500", (-500, -1)),
        ("bytes=0-99999999999", (0, -1)),
        ("bytes=-99999999999", (0, -1)),
        ("BYTES = 5 - 9", (5, 9)),
    ],
)
def test_a_range_is_answered_with_its_bytes(
    owner: Client, url: str, content: bytes, header: str, span: tuple[int, int]
) -> None:
    first, last = (offset % len(content) for offset in span)

    answer = owner.get(url, headers={"Range": header})

    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(content)}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.content == content[first : last + 1]


@pytest.mark.parametrize(
    "header", ["bytes=0-1,5-6", "bytes=9-3", "bytes=-", "bytes=x-y", "lines=1-2", "bytes", "0-5"]
)
def test_several_ranges_and_what_is_none_get_the_whole(owner: Client, url: str, content: bytes, header: str) -> None:
    answer = owner.get(url, headers={"Range": header})

    assert (answer.status_code, answer.content) == (200, content)


@pytest.mark.parametrize("header", ["bytes=9999999-", "bytes=9999999-99999999", "bytes=-0", f"bytes={'9' * 40}-"])
def test_a_range_outside_is_416_and_says_the_size(owner: Client, url: str, content: bytes, header: str) -> None:
    answer = owner.get(url, headers={"Range": header})

    assert_problem(answer, 416, "range-not-satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(content)}"


def test_if_range_gives_the_whole_when_the_photo_is_another(owner: Client, url: str, content: bytes) -> None:
    head = owner.head(url)
    tag, date = head.headers["ETag"], head.headers["Last-Modified"]

    def statuses(*conditions: str) -> list[int]:
        headers = [{"Range": "bytes=0-9", "If-Range": condition} for condition in conditions]
        return [owner.get(url, headers=each).status_code for each in headers]

    assert statuses(tag, date) == [206, 206]
    assert statuses('"other"', f"W/{tag}", "Mon, 01 Jan 2001 00:00:00 GMT", "nonsense") == [200] * 4


def test_head_says_what_get_would_and_sends_nothing(
    product: Product, owner: Client, url: str, content: bytes
) -> None:
    got = owner.get(url)
    before = count_gets(product)

    head = owner.head(url)
    ranged = owner.head(url, headers={"Range": "bytes=0-9"})
    unchanged = owner.head(url, headers={"If-None-Match": got.headers["ETag"]})

    assert (head.status_code, head.content, unchanged.status_code) == (200, b"", 304)
    same = set(got.headers) - {"Date", "X-Request-Id", "Connection"}
    assert {name: head.headers.get(name) for name in same} == {name: got.headers[name] for name in same}
    assert (ranged.status_code, ranged.headers["Content-Length"]) == (200, str(len(content)))
    assert count_gets(product) == before


def test_an_original_has_the_headers_of_untrusted_bytes(owner: Client, url: str) -> None:
    headers = owner.get(url).headers

    assert headers["Cache-Control"] == "private, max-age=86400, no-transform"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-Type"] == "image/jpeg"
    assert headers["ETag"][:1] == '"'
    assert "Set-Cookie" not in headers


NAMES = [
    ("photo.jpg", "photo.jpg"),
    ("Ferien in Zürich.jpg", "Ferien in Zürich.jpg"),
    ("写真 📷.jpg", "写真 📷.jpg"),
    ('a"b; filename=evil.html', 'a"b; filename=evil.html'),
    ("..\\..\\windows\\system.ini", "system.ini"),
    ("../../etc/passwd", "passwd"),
    ("back\\slash's.jpg", "slash's.jpg"),
    ("line\u2028break\x7f.jpg", "linebreak.jpg"),
    ("right\u202eto left.jpg", "rightto left.jpg"),
    ("%22%0d%0aX-Evil%3a 1.jpg", '"%0d%0aX-Evil%3a 1.jpg'),  # browsers write a quote as %22
    ("x" * 300 + ".jpg", "x" * 255),
    ("/", None),
    ("   ", None),
]


@pytest.mark.parametrize(("sent", "kept"), NAMES, ids=range(len(NAMES)))
def test_a_name_comes_back_clean_and_cannot_leave_its_header(owner: Client, sent: str, kept: str | None) -> None:
    boundary = secrets.token_hex(8)
    part = f'Content-Disposition: form-data; name="file"; filename="{_escaped(sent)}"\r\nContent-Type: text/html'
    body = f"--{boundary}\r\n{part}\r\n\r\n".encode() + new_photo() + f"\r\n--{boundary}--\r\n".encode()

    photo = owner.post(
        "/api/v1/photos", data=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    ).json()
    headers = owner.get(photo["links"]["original"]).headers

    shown = kept or f"{photo['id']}.jpg"
    assert photo["original_filename"] == kept
    disposition = headers["Content-Disposition"]
    plain, _, extended = disposition.partition("; filename*=UTF-8''")
    assert unquote(extended) == shown
    assert disposition.isascii()
    assert plain.startswith('inline; filename="')
    assert plain.count('"') == 2
    assert headers["Content-Type"] == "image/jpeg"
    assert not [name for name in headers if "evil" in name.lower()]


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', "%22") if '"' in name else name.replace("\\", "\\\\")
