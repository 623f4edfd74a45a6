"""What bad input gets: a 4xx problem that says what to do, nothing stored, the spool empty, the workers alive."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from app.errors import ImageLimitError, RequestError, UndecodableImageError, UnsupportedMediaTypeError
from tests.fakes import hostile_images
from tests.fakes.naughty import NAUGHTY_TEXTS
from tests.integration.judging import REQUEST_ID, assert_problem, assert_problem_document, head_of, send_raw, stored
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until

EXPECTED: dict[type[RequestError], tuple[int, str]] = {
    UnsupportedMediaTypeError: (415, "unsupported-media-type"),
    UndecodableImageError: (422, "undecodable-image"),
    ImageLimitError: (422, "image-limit-exceeded"),
}


@pytest.fixture(autouse=True)
def unharmed(product: Product, owner: Client) -> Iterator[None]:
    """After every test: nothing stored, the spool empty, the same workers, no unforeseen exception."""
    workers, unforeseen = product.worker_pids(), product.metric("photo_api_exceptions_total")

    yield

    fresh = owner.twin()  # a refusal in the middle of a body ends its connection
    assert stored(product, fresh) == (0, 0)
    assert fresh.used_bytes() == 0
    fresh.close()
    until(lambda: product.spooled_files() == [], "the spool to be empty")
    assert product.worker_pids() == workers
    assert product.metric("photo_api_exceptions_total") == unforeseen


def test_every_hostile_image_is_refused(owner: Client) -> None:
    wrong = []
    for index, image in enumerate(hostile_images.hostile_images()):
        if not image.data:
            continue  # an empty body is no image: see below
        answer = owner.send_form(image.data) if index % 2 else owner.send(image.data)
        status, slug = EXPECTED[image.error]
        if (answer.status_code, answer.json()["type"].rpartition(":")[2]) != (status, slug):
            wrong.append((image.name, answer.status_code, answer.text[:200]))
            continue
        assert_problem(answer, status, slug)

    assert wrong == []


def test_an_empty_body_is_400(owner: Client) -> None:
    assert_problem(owner.send(b""), 400, "malformed-request")
    assert_problem(owner.send_form(b""), 400, "malformed-request")


FORM = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\n%b\r\n'
BROKEN_FORMS = {
    "empty": (400, b""),
    "only-the-end": (422, b"--b--\r\n"),
    "no-end": (400, FILE % new_photo()),
    "end-cut": (400, FILE % new_photo() + b"--b"),
    "other-boundary": (400, (FILE % new_photo()).replace(b"--b", b"--c") + b"--c--\r\n"),
    "no-headers": (400, b"--b\r\n\r\n" + new_photo() + b"\r\n--b--\r\n"),
    "no-disposition": (400, b"--b\r\nContent-Type: image/jpeg\r\n\r\nx\r\n--b--\r\n"),
    "header-without-colon": (400, b"--b\r\nnonsense\r\n\r\nx\r\n--b--\r\n"),
    "endless-header": (400, b"--b\r\nContent-Disposition: " + b"a" * 300_000 + b"\r\n\r\nx\r\n--b--\r\n"),
    "endless-preamble": (400, b"a" * 300_000 + b"\r\n" + FILE % new_photo() + b"--b--\r\n"),
    "no-file": (422, FORM % (b"title", b"x") + b"--b--\r\n"),
    "two-files": (422, FILE % new_photo() + FILE % new_photo() + b"--b--\r\n"),
    "unknown-field": (422, FILE % new_photo() + FORM % (b"colour", b"red") + b"--b--\r\n"),
    "read-only-field": (422, FILE % new_photo() + FORM % (b"id", b"1") + b"--b--\r\n"),
    "title-twice": (422, FILE % new_photo() + FORM % (b"title", b"x") * 2 + b"--b--\r\n"),
    "title-too-long": (422, FILE % new_photo() + FORM % (b"title", b"x" * 201) + b"--b--\r\n"),
    "bad-time": (422, FILE % new_photo() + FORM % (b"taken_at", b"noon") + b"--b--\r\n"),
    "field-not-utf-8": (400, FILE % new_photo() + FORM % (b"title", b"\xff\xfe") + b"--b--\r\n"),
    "fields-too-large": (413, FILE % new_photo() + FORM % (b"description", b"x" * 70_000) + b"--b--\r\n"),
    "too-many-parts": (413, FORM % (b"tags", b"x") * 200 + FILE % new_photo() + b"--b--\r\n"),
}


@pytest.mark.parametrize("name", BROKEN_FORMS)
def test_a_broken_form_is_refused(owner: Client, name: str) -> None:
    status, body = BROKEN_FORMS[name]

    answer = owner.post("/api/v1/photos", data=body, headers={"Content-Type": "multipart/form-data; boundary=b"})

    assert_problem(answer, status)


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 71, '; boundary="\u00fc"'])
def test_a_form_without_a_fit_boundary_is_400(owner: Client, boundary: str) -> None:
    content_type = f"multipart/form-data{boundary}".encode()

    assert_problem(owner.post("/api/v1/photos", data=b"x", headers={"Content-Type": content_type}), 400)


CHUNKED = {
    "no-hexadecimal": b"zz\r\nabc\r\n0\r\n\r\n",
    "negative": b"-5\r\nabcde\r\n0\r\n\r\n",
    "no-line-end": b"3abc0",
    "shorter-than-said": b"ff\r\nabc",
    "no-end": b"3\r\nabc\r\n",
    "longer-than-said": b"3\r\nabcdef\r\n0\r\n\r\n",
    "cut-in-size": b"f",
    "nothing": b"",
}


@pytest.mark.parametrize("path", ["/api/v1/photos", "/api/v1/photos/check"])
@pytest.mark.parametrize("name", CHUNKED)
def test_a_broken_chunked_body_is_400(product: Product, owner: Client, path: str, name: str) -> None:
    content_type = "image/jpeg" if path == "/api/v1/photos" else "application/json"
    head = head_of(owner, path, f"Content-Type: {content_type}", "Transfer-Encoding: chunked")

    answer = send_raw(product, head + CHUNKED[name])

    assert answer.status == 400
    if answer.headers["Content-Type"] == "application/problem+json":
        assert_problem_document(400, dict(answer.headers), json.loads(answer.body))


@pytest.mark.parametrize("form", [False, True])
def test_a_body_shorter_than_announced_is_400(product: Product, owner: Client, *, form: bool) -> None:
    content_type = "multipart/form-data; boundary=b" if form else "image/jpeg"
    head = head_of(owner, "/api/v1/photos", f"Content-Type: {content_type}", "Content-Length: 5000000")
    body = FILE[:-2] % new_photo(2_000_000) if form else new_photo(2_000_000)

    answer = send_raw(product, head + body)

    assert_problem_document(answer.status, dict(answer.headers), json.loads(answer.body), "incomplete-body")
    assert answer.status == 400


def test_two_lengths_or_a_length_and_chunks_are_refused(product: Product, owner: Client) -> None:
    for lines in (
        ("Content-Length: 3", "Content-Length: 4"),
        ("Content-Length: 3", "Transfer-Encoding: chunked"),
        ("Content-Length: -1",),
        ("Content-Length: 3x",),
        ("Transfer-Encoding: gzip, chunked",),
    ):
        answer = send_raw(product, head_of(owner, "/api/v1/photos", *lines) + b"abc")

        assert answer.status in {400, 501}, lines


BAD_JSON = {
    "empty": (400, b""),
    "no-json": (400, b"digests"),
    "cut": (400, b'{"digests": ["'),
    "twice": (400, b"{}{}"),
    "not-a-number": (400, b'{"digests": NaN}'),
    "deep": (400, b"[" * 100_000 + b"]" * 100_000),
    "deep-object": (400, b'{"digests":' * 20_000 + b"1" + b"}" * 20_000),
    "not-utf-8": (400, b'{"digests": "\xff"}'),
    "utf-16": (400, '{"digests": []}'.encode("utf-16")),
    "lone-surrogate": (400, b'{"digests": ["\\ud800"]}'),
    "digits": (400, b'{"digests": ' + b"9" * 5000 + b"}"),
    "exponent": (422, b'{"digests": 1e999999}'),
    "same-name-twice": (422, b'{"digests": ["x"], "digests": ["x"]}'),
    "unknown-field": (422, b'{"digests": ["' + b"a" * 64 + b'"], "more": 1}'),
    "too-large": (413, b'{"digests": ["' + b"a" * 300_000 + b'"]}'),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_refused(owner: Client, name: str) -> None:
    status, body = BAD_JSON[name]

    answer = owner.post("/api/v1/photos/check", data=body, headers={"Content-Type": "application/json"})

    assert_problem(answer, status)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_json_must_be_declared_as_json(owner: Client, content_type: str) -> None:
    answer = owner.post("/api/v1/photos/check", data=b"{}", headers={"Content-Type": content_type})

    assert_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/v1/photos/x", "/api/v1/photos/%00", "/api/v1/photos/..%2f..%2fx"]
)
def test_a_path_that_is_none_is_404(owner: Client, path: str) -> None:
    assert_problem(owner.get(path), 404, "not-found")


def test_a_method_that_a_path_does_not_know_is_405_with_those_it_knows(owner: Client) -> None:
    answer = owner.request("PUT", "/api/v1/photos")

    assert_problem(answer, 405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_a_foreign_host_is_refused(product: Product, owner: Client) -> None:
    head = head_of(owner, "/api/v1/photos", method="GET").replace(b"Host: localhost", b"Host: evil.example")

    answer = send_raw(product, head, half_close=False)

    assert_problem_document(answer.status, dict(answer.headers), json.loads(answer.body), "host-not-allowed")
    assert answer.status == 400


@pytest.mark.parametrize("text", NAUGHTY_TEXTS, ids=range(len(NAUGHTY_TEXTS)))
def test_naughty_accounts_are_refused_in_words(product: Product, text: str) -> None:
    client = product.client()
    fine = "a lighthouse in the rain"

    for body in (
        {"email": text, "password": fine},
        {"email": f"{text}@example.org", "password": text[:7]},
        {"email": "ada@example.org", "password": text[:7]},
    ):
        assert_problem(client.post("/api/v1/users", data=_json(body), headers=_JSON), _status_of(body))
    login = client.post("/api/v1/auth/tokens", data=_json({"email": text, "password": text}), headers=_JSON)
    assert login.status_code in {400, 401, 422, 429}
    client.close()


_JSON = {"Content-Type": "application/json"}


def _json(body: dict[str, str]) -> bytes:
    return json.dumps(body).encode()


def _status_of(body: dict[str, str]) -> int:
    return 400 if any("\ud800" <= character <= "\udfff" for value in body.values() for character in value) else 422


def test_a_fit_request_id_is_kept_and_another_is_replaced(product: Product) -> None:
    client = product.client()

    kept = client.get("/api/v1/photos", headers={"X-Request-Id": "batch-7:a.b_C"})
    replaced = [
        client.get("/api/v1/photos", headers={"X-Request-Id": name}) for name in ("", "x" * 129, "a b", "<b>", "a,b")
    ]

    assert assert_problem(kept, 401)["request_id"] == "batch-7:a.b_C"
    ids = [assert_problem(answer, 401)["request_id"] for answer in replaced]
    assert all(REQUEST_ID.fullmatch(request_id) for request_id in ids)
    assert len(set(ids)) == len(ids)
