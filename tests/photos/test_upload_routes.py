"""What an upload's request says: keys, digests, names and fields, each read or refused before the photo counts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import TestResponse, encode_multipart

from app.http import context, problems
from app.http.bodies import UploadReceiver
from app.http.identity import Principal
from app.http.operations import mount
from app.photos.upload_routes import UploadRoutes
from tests.photos.world import DOCUMENTS, World, image

PATH = "/api/v1/photos"
AUTHORIZED = {"Authorization": "Bearer x"}


class Requests:
    """Hears of requests and keeps nothing."""

    def request_started(self, request_id: str, route: str) -> None: ...

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None: ...

    def unforeseen(self, kind: str) -> None: ...


class Everybody:
    """Takes every credential for the same user's."""

    def __init__(self, user_id: UUID) -> None:
        self._user_id = user_id

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:  # noqa: ARG002  # the protocol asks for it
        return Principal(self._user_id, frozenset({"photos:write"}), None, None)


@pytest.fixture
def owner_id(world: World) -> UUID:
    return world.new_user()


@pytest.fixture
def client(world: World, owner_id: UUID, tmp_path: Path) -> FlaskClient:
    app = Flask("photos")
    context.install(app, Requests(), deadline_seconds=28, allowed_hosts=[])
    problems.install(app)
    receiver = UploadReceiver(tmp_path / "spool", 1_000_000)
    mount(app, UploadRoutes(world.uploads, receiver, world.observer), Everybody(owner_id))
    return app.test_client()


Send = Callable[..., TestResponse]


@pytest.fixture
def send_form(client: FlaskClient) -> Send:
    """A function that sends the photo in a form with these fields."""

    def send(*fields: tuple[str, str], filename: str = "a.png", **headers: str) -> TestResponse:
        form = MultiDict[str, Any]([("file", FileStorage(BytesIO(image()), filename, "file")), *fields])
        # The client's own boundary is now and then longer than the 70 characters that RFC 2046 allows.
        boundary, body = encode_multipart(form, boundary="----a-boundary")
        kind = f"multipart/form-data; boundary={boundary}"
        return client.post(PATH, data=body, headers={"Content-Type": kind, **AUTHORIZED, **headers})

    return send


def send_raw(client: FlaskClient, content: bytes | None = None, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = image() if content is None else content
    return client.post(PATH, data=body, headers={"Content-Type": "image/png", **AUTHORIZED, **named})


def said(answer: TestResponse) -> dict[str, Any]:
    document: dict[str, Any] = answer.get_json()
    return document


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_a_photo_is_created_once_with_its_place_and_tag(client: FlaskClient) -> None:
    first, again = send_raw(client), send_raw(client)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["Location"] == said(first)["links"]["self"]
    assert first.headers["ETag"] == f'"{DOCUMENTS.mark(said(first), 1)}"'
    assert "Location" not in again.headers
    assert said(again)["status"] == "duplicate"


def test_a_replay_says_that_it_is_one(client: FlaskClient) -> None:
    first, again = (send_raw(client, Idempotency_Key="k") for _ in range(2))

    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.data) == (201, first.data)


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "k" * 256, "\x7f"])
def test_a_key_that_is_none_is_refused(client: FlaskClient, world: World, key: str) -> None:
    answer = send_raw(client, Idempotency_Key=key)

    assert answer.status_code == 400
    assert world.rows() == []


def test_a_known_digest_is_answered_without_the_bytes(client: FlaskClient, world: World) -> None:
    send_raw(client)

    answer = send_raw(client, b"these are not read", Repr_Digest=digest_of(image()))

    assert answer.status_code == 200
    assert said(answer)["status"] == "duplicate"


def test_bytes_that_are_not_those_announced_are_refused(client: FlaskClient, world: World) -> None:
    answer = send_raw(client, Repr_Digest=digest_of(b"others"))

    assert answer.status_code == 400
    assert said(answer)["type"].endswith(":digest-mismatch")
    assert world.rows() == []


def test_an_empty_body_is_refused(client: FlaskClient) -> None:
    answer = send_raw(client, b"")

    assert answer.status_code == 400
    assert "empty" in said(answer)["detail"]


def test_tags_are_parted_by_commas_and_may_be_repeated(send_form: Send) -> None:
    answer = send_form(("tags", "sea, pier ,,"), ("tags", "wind"), ("tags", "sea"))

    assert said(answer)["tags"] == ["sea", "pier", "wind"]


def test_an_empty_field_is_as_if_it_were_not_there(send_form: Send) -> None:
    answer = send_form(("title", ""), ("taken_at", ""), ("description", "x"))

    assert answer.status_code == 201
    assert (said(answer)["title"], said(answer)["description"]) == (None, "x")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ([("title", "a"), ("title", "b")], "/title"),
        ([("title", "x" * 201)], "/title"),
        ([("colour", "red")], "/colour"),
        ([("taken_at", "yesterday")], "/taken_at"),
        ([("tags", "x" * 51)], "/tags/0"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_stored(
    send_form: Send, world: World, fields: list[tuple[str, str]], pointer: str
) -> None:
    answer = send_form(*fields)

    assert answer.status_code == 422
    assert [mistake["pointer"] for mistake in said(answer)["errors"]] == [pointer]
    assert world.rows() == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("DSCF0412.JPG", "DSCF0412.JPG"),
        ("../../etc/passwd", "passwd"),
        ("C:\\\\photos\\\\a.png", "a.png"),
        ("a\tb.png", "ab.png"),
        ("ä “x”.png", "ä “x”.png"),
        ("x" * 300 + ".png", "x" * 255),
        ("folder/", None),
    ],
)
def test_a_name_is_kept_without_its_folders_and_controls(send_form: Send, given: str, kept: str | None) -> None:
    answer = send_form(filename=given)

    assert answer.status_code == 201
    assert said(answer)["original_filename"] == kept


def test_a_client_that_leaves_is_counted_and_leaves_nothing(client: FlaskClient, world: World) -> None:
    content = image()

    answer = client.post(
        PATH,
        input_stream=BytesIO(content[:-10]),
        headers={**AUTHORIZED, "Content-Type": "image/png"},
        environ_overrides={"CONTENT_LENGTH": str(len(content))},
    )

    assert answer.status_code == 400
    assert said(answer)["type"].endswith(":incomplete-body")
    assert world.observer.heard == {"left upload": 1}
    assert world.rows() == []
