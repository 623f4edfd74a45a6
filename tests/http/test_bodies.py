"""Reading uploads: raw bodies and forms, streamed into a spool that is freed whatever happens."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.exceptions import ClientDisconnected

from app.errors import (
    IncompleteBodyError,
    MalformedRequestError,
    PayloadTooLargeError,
    PhotoApiError,
    SpoolFullError,
    ValidationFailedError,
)
from app.http.bodies import CHUNK_BYTES, ReceivedUpload, UploadReceiver, announced_digest
from tests.fakes.descriptors import opened_in

APP = Flask("bodies")
MAX_BYTES = 2 * 1024 * 1024
BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


Stream = io.BytesIO | io.RawIOBase


class Inbox:
    """Receives uploads into spools under one folder, and knows which of them are still held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._receiver = UploadReceiver(folder, MAX_BYTES)

    def receive(self, content: bytes | Stream, kind: str = "image/jpeg", length: int | None = -1) -> ReceivedUpload:
        """Receive a body; ``length`` is what is announced: None for chunked, -1 for the truth."""
        if isinstance(content, bytes):
            length = len(content) if length == -1 else length
            content = io.BytesIO(content)
        # As gunicorn gives it: a stream that ends by itself, be the body as long as announced or not.
        announced = {} if length is None else {"CONTENT_LENGTH": str(length)}
        overrides = {"wsgi.input": content, "wsgi.input_terminated": True, "CONTENT_TYPE": kind, **announced}
        with APP.test_request_context("/", method="POST", environ_overrides=overrides):
            return self._receiver.receive(request)

    def held_files(self) -> list[str]:
        return [*(str(path) for path in self.folder.glob("*")), *opened_in(self.folder)]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def content_of(upload: ReceivedUpload) -> bytes:
    with upload.body as body, body.open() as reader:
        return reader.read()


class BreakingStream(io.RawIOBase):
    """Gives some bytes, then raises."""

    def __init__(self, first: bytes, error: Exception) -> None:
        self._first, self._error = first, error

    def readable(self) -> bool:
        return True

    def read(self, _size: int = -1) -> bytes:
        if not self._first:
            raise self._error
        first, self._first = self._first, b""
        return first


@pytest.mark.parametrize("length", [-1, None], ids=["announced", "chunked"])
@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, MAX_BYTES])
def test_a_raw_body_is_the_photo(inbox: Inbox, size_bytes: int, length: int | None) -> None:
    content = os.urandom(size_bytes)

    upload = inbox.receive(content, length=length)

    assert upload.body.sha256 == hashlib.sha256(content).hexdigest()
    assert (upload.filename, upload.fields) == (None, {})
    assert content_of(upload) == content
    assert inbox.held_files() == []


def test_a_form_has_the_photo_its_name_and_its_fields(inbox: Inbox) -> None:
    content = b"\xff\xd8\r\n--front\r\n" + os.urandom(100_000)
    raw = form(part("title", "Früh".encode()), part("file", content, "a.jpg"), part("tags", b"x"), part("tags", b""))

    upload = inbox.receive(raw, FORM)

    assert upload.filename == "a.jpg"
    assert upload.fields == {"title": ["Früh"], "tags": ["x", ""]}
    assert content_of(upload) == content


@pytest.mark.parametrize("length", [-1, None], ids=["announced", "chunked"])
@pytest.mark.parametrize("kind", ["image/jpeg", FORM])
def test_a_photo_over_the_limit_is_refused_without_a_trace(inbox: Inbox, kind: str, length: int | None) -> None:
    content = bytes(MAX_BYTES + 1)
    raw = form(part("file", content, "a.jpg")) if kind == FORM else content

    with pytest.raises(PayloadTooLargeError):
        inbox.receive(raw, kind, length)

    assert inbox.held_files() == []


def test_a_length_over_the_limit_is_refused_before_anything_is_read(inbox: Inbox) -> None:
    stream = io.BytesIO(b"x" * 100)

    with pytest.raises(PayloadTooLargeError):
        inbox.receive(stream, length=MAX_BYTES + 1)

    assert stream.tell() == 0
    assert inbox.held_files() == []


@pytest.mark.parametrize("error", [ClientDisconnected(), OSError(104, "reset"), ValueError("chunk"), EOFError()])
@pytest.mark.parametrize("kind", ["image/jpeg", FORM])
def test_a_client_that_leaves_is_an_incomplete_body(inbox: Inbox, kind: str, error: Exception) -> None:
    begun = part("file", bytes(1_500_000), "a.jpg") if kind == FORM else bytes(1_500_000)

    with pytest.raises(IncompleteBodyError):
        inbox.receive(BreakingStream(begun, error), kind, None)

    assert inbox.held_files() == []


@pytest.mark.parametrize("kind", ["image/jpeg", FORM])
def test_a_body_shorter_than_announced_is_incomplete(inbox: Inbox, kind: str) -> None:
    raw = form(part("file", b"abc", "a.jpg")) if kind == FORM else b"abc"

    with pytest.raises(IncompleteBodyError):
        inbox.receive(raw, kind, len(raw) + 10)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no form at all",
        form(),
        part("file", b"abc", "a.jpg"),
        part("file", b"abc", "a.jpg") + b"--other--\r\n",
        f"--{BOUNDARY}\r\nno colon\r\n\r\nabc\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\n\r\nabc\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\nContent-Disposition: attachment\r\n\r\nabc\r\n--{BOUNDARY}--\r\n".encode(),
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n{"X: y" * 30_000}'.encode(),
        form(*[part(f"f{number}", b"") for number in range(200)], part("file", b"abc", "a.jpg")),
        form(part("title", b"\xff\xfe"), part("file", b"abc", "a.jpg")),
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_a_form_that_cannot_be_read_is_400(inbox: Inbox, raw: bytes) -> None:
    with pytest.raises((MalformedRequestError, ValidationFailedError, PayloadTooLargeError)):
        inbox.receive(raw, FORM)

    assert inbox.held_files() == []


@pytest.mark.parametrize("parameter", ["", "; boundary=", f"; boundary={'x' * 71}", '; boundary="é"'])
def test_a_form_needs_a_boundary(inbox: Inbox, parameter: str) -> None:
    with pytest.raises(MalformedRequestError, match="boundary"):
        inbox.receive(form(part("file", b"abc", "a.jpg")), f"multipart/form-data{parameter}")


@pytest.mark.parametrize(
    "parts",
    [
        (part("title", b"x"),),
        (part("photo", b"abc", "a.jpg"),),
        (part("file", b"abc", "a.jpg"), part("file", b"abc", "b.jpg")),
    ],
)
def test_a_form_has_exactly_one_photo(inbox: Inbox, parts: tuple[bytes, ...]) -> None:
    with pytest.raises(ValidationFailedError) as refused:
        inbox.receive(form(*parts), FORM)

    assert refused.value.errors[0]["pointer"] == "/file"
    assert inbox.held_files() == []


def test_fields_have_a_limit_together(inbox: Inbox) -> None:
    with pytest.raises(PayloadTooLargeError):
        inbox.receive(form(part("title", bytes(40_000)), part("description", bytes(40_000))), FORM, None)


def test_a_spool_without_room_is_told_and_nothing_stays(inbox: Inbox) -> None:
    inbox.folder.rmdir()

    with pytest.raises(SpoolFullError):
        inbox.receive(bytes(1_500_000))


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(st.data())
def test_whatever_comes_as_a_form_is_one_of_our_errors(inbox: Inbox, data: st.DataObject) -> None:
    whole = form(part("title", b"x"), part("file", b"abc" * 20, "a.jpg"), part("tags", b"y"))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    raw = whole[:start] + data.draw(st.binary(max_size=30)) + whole[end:]

    with contextlib.suppress(PhotoApiError):
        inbox.receive(raw, FORM).body.close()

    assert inbox.held_files() == []


def digest_header(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


@pytest.mark.parametrize("around", ["{}", "sha-512=:AAAA:, {}", "{}, unixsum=:AAAA:", " {} ", "{};x=1"])
def test_the_digest_is_found_among_others(around: str) -> None:
    with APP.test_request_context(headers={"Repr-Digest": around.format(digest_header(b"a"))}):
        assert announced_digest(request) == hashlib.sha256(b"a").hexdigest()


def test_no_digest_is_none() -> None:
    with APP.test_request_context():
        assert announced_digest(request) is None


@pytest.mark.parametrize(
    "others", ["sha-512=:AAAA:", "xsha-256=:AAAA:", "sha-512=:AAAA:, md5=:AA==:;x=1", "unixsum=:MTI=:"]
)
def test_digests_of_other_algorithms_say_nothing(others: str) -> None:
    with APP.test_request_context(headers={"Repr-Digest": others}):
        assert announced_digest(request) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda _: "",
        lambda _: "sha-256",
        lambda _: "sha-256=::",
        lambda _: "sha-256=:AAAA:",
        lambda right: right.replace("=:", "=", 1),
        lambda right: right.removesuffix(":"),
        lambda right: right.removesuffix(":") + ", sha-512=:AAAA:",
        lambda right: f"sha-512=:AAAA:, {right.removesuffix(':')}",
        lambda _: "sha-512",
        lambda right: right[:-2] + ":",
        lambda right: right.replace(":", '"', 2),
        lambda _: f"sha-256=:{hashlib.sha256(b'a').hexdigest()}:",
    ],
)
def test_a_digest_that_cannot_be_read_is_400(make: Callable[[str], str]) -> None:
    with (
        APP.test_request_context(headers={"Repr-Digest": make(digest_header(b"a"))}),
        pytest.raises(MalformedRequestError, match="Repr-Digest"),
    ):
        announced_digest(request)


def test_a_spool_folder_that_cannot_be_made_refuses_uploads_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"a file stands where the folder should be")

    receiver = UploadReceiver(tmp_path / "spool", MAX_BYTES)

    with APP.test_request_context(method="POST", data=bytes(MAX_BYTES)), pytest.raises(SpoolFullError):
        receiver.receive(request)
