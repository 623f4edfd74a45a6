"""Operations: what a request's parts become, what is refused before a handler runs, what a reply becomes."""

from __future__ import annotations

import io
import json
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from flask import Response, request
from flask.testing import FlaskClient
from pydantic import Field, RootModel
from werkzeug.test import TestResponse

from app.errors import DatabaseReadOnlyError, ReadOnlyError
from app.http.fields import Line
from app.http.identity import PUBLIC, Principal
from app.http.operations import (
    Changes,
    QueryModel,
    Reply,
    RequestModel,
    declared_operations,
    delete,
    get,
    operations_of,
    patch,
    pointer_of,
    post,
)
from tests.http.edge import KEY, USER_ID, bearer, build_app, client_of

ID = "019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21"


class Note(RequestModel):
    """A body."""

    text: Line
    stars: int = 0
    tags: list[Line] = Field(default_factory=list)


class Cat(RequestModel):
    """One kind of pet."""

    kind: Literal["cat"]
    lives: int


class Dog(RequestModel):
    """Another."""

    kind: Literal["dog"]
    tricks: int


class Pet(RootModel[Annotated[Cat | Dog, Field(discriminator="kind")]]):
    """A choice."""


class Question(QueryModel):
    """A query."""

    limit: int = 10
    flag: bool = False


class NoteRoutes:
    """One operation of each kind, and a count of how often one ran."""

    def __init__(self) -> None:
        self.ran = 0

    @post("/notes", summary="s", access="photos:read", answers={201: Note})
    def create(self, principal: Principal, body: Note) -> Reply:
        """Create."""
        self.ran += 1
        return Reply(201, body, {"Location": f"/notes/{principal.user_id}"})

    @get("/notes", summary="s", access=PUBLIC, answers={200: Note})
    def find(self, query: Question) -> Reply:
        """Find."""
        return Reply(200, query)

    @get("/notes/<uuid:note_id>", summary="s", access=PUBLIC, answers={200: None})
    def show(self, note_id: UUID) -> Reply:
        """Show."""
        return Reply(200, b'{"id":"' + str(note_id).encode() + b'"}', {"X-Method": request.method})

    @delete("/notes/<uuid:note_id>", summary="s", access="photos:delete", answers={204: None})
    def remove(self, note_id: UUID) -> Reply:
        """Remove."""
        return Reply(204, None, {"X-Removed": str(note_id)})

    @patch("/pets", summary="s", access=PUBLIC, answers={200: Pet})
    def pet(self, body: Pet) -> Response:
        """Pet."""
        return Response(body.model_dump_json(), 200, {"Cache-Control": "no-store"}, content_type="application/json")


@pytest.fixture
def routes() -> NoteRoutes:
    return NoteRoutes()


@pytest.fixture
def client(routes: NoteRoutes) -> FlaskClient:
    return client_of(routes)


def create(
    client: FlaskClient, content: bytes | dict[str, Any], content_type: str = "application/json"
) -> TestResponse:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post("/notes", data=raw, content_type=content_type, headers=bearer())


def problem(answer: TestResponse) -> dict[str, Any]:
    """Return the document of an answer that must be a problem."""
    assert answer.content_type == "application/problem+json"
    document: dict[str, Any] = answer.get_json()
    return document


def slug(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, problem(answer)["type"].rpartition(":")[2]


def test_body_and_caller_are_bound_by_name_and_a_model_becomes_json(client: FlaskClient) -> None:
    answer = create(client, {"text": "a", "stars": 3})

    assert answer.status_code == 201
    assert answer.json == {"text": "a", "stars": 3, "tags": []}
    assert answer.headers["Location"] == f"/notes/{USER_ID}"
    assert answer.headers["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON"])
def test_a_body_may_say_json_in_every_spelling(client: FlaskClient, kind: str) -> None:
    assert create(client, {"text": "a"}, kind).status_code == 201


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/problem+json", "json"]
)
def test_a_body_that_is_not_declared_as_json_is_415(client: FlaskClient, kind: str) -> None:
    assert slug(create(client, {"text": "a"}, kind)) == (415, "unsupported-media-type")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ["text", "unknown"])
def test_what_only_javascript_takes_for_a_number_is_no_json(client: FlaskClient, place: str, number: str) -> None:
    answer = create(client, f'{{"{place}": {number}}}'.encode())

    assert slug(answer) == (400, "malformed-request")


def test_a_text_may_name_what_is_no_number(client: FlaskClient) -> None:
    assert create(client, b'{"text": "NaN, -Infinity"}').status_code == 201


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"}", b'{"text": "a"', b'{"text": }', b"{'text': 'a'}", b'{"text": "a"} {}', b'{"text": "a",}',
        b"\x00", b'{"text": "\xff"}', b'{"text": "\\ud800"}', b'{"text": "\n"}',
        '{"text": "a"}'.encode("utf-16"), b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 50_000, b"nul",
        b"\x1f\x8b\x08\x00",
    ],
    ids=lambda raw: repr(raw[:20]),
)  # fmt: skip
def test_a_body_that_is_no_json_is_400(client: FlaskClient, routes: NoteRoutes, raw: bytes) -> None:
    answer = create(client, raw)

    assert slug(answer) == (400, "malformed-request")
    assert routes.ran == 0


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b"[]", ""),
        (b"null", ""),
        (b"{}", "/text"),
        (b'{"text": null}', "/text"),
        (b'{"text": 1}', "/text"),
        (b'{"text": "a", "stars": "1"}', "/stars"),
        (b'{"text": "a", "stars": 1.5}', "/stars"),
        (b'{"text": "a", "stars": true}', "/stars"),
        (b'{"text": "a", "tags": ["b", "\\t"]}', "/tags/1"),
        (b'{"text": "a", "id": 1}', "/id"),
        (b'{"text": "a", "a/b~c": 1}', "/a~1b~0c"),
        (b'{"text": "a", "": 1}', "/"),
        (b'{"text": "a", "__proto__": {}}', "/__proto__"),
    ],
)
def test_a_wrong_missing_or_unknown_field_is_422_with_its_place(
    client: FlaskClient, raw: bytes, pointer: str
) -> None:
    answer = create(client, raw)

    assert slug(answer) == (422, "validation-failed")
    assert [mistake["pointer"] for mistake in problem(answer)["errors"]] == [pointer]
    assert not problem(answer)["errors"][0]["detail"].startswith("Value error")


@pytest.mark.parametrize("digits", [5000, 100_000])
def test_a_number_of_absurd_length_is_refused_and_not_computed(client: FlaskClient, digits: int) -> None:
    answer = create(client, b'{"text": "a", "stars": ' + b"9" * digits + b"}")

    assert answer.status_code in {400, 422}


def test_every_mistake_is_told_at_once(client: FlaskClient) -> None:
    answer = create(client, {"text": "", "stars": "x", "tags": [1], "more": 1})

    assert {mistake["pointer"] for mistake in problem(answer)["errors"]} == {"/text", "/stars", "/tags/0", "/more"}


@pytest.mark.parametrize("announced", [True, False])
def test_a_json_body_has_a_limit_whether_its_length_is_announced_or_not(
    client: FlaskClient, *, announced: bool
) -> None:
    raw = b'{"text": "' + b"a" * 262_144 + b'"}'
    how: dict[str, Any] = {} if announced else {"environ_overrides": {"wsgi.input_terminated": True}}
    stream = io.BytesIO(raw)

    answer = client.post(
        "/notes",
        input_stream=stream,
        content_type="application/json",
        content_length=len(raw) if announced else None,
        headers=bearer(),
        **how,
    )

    assert slug(answer) == (413, "payload-too-large")
    assert not announced or stream.tell() == 0


def test_a_body_whose_framing_breaks_is_400(client: FlaskClient) -> None:
    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise OSError(104, "Connection reset by peer")

    answer = client.post(
        "/notes",
        input_stream=Broken(),
        content_type="application/json",
        headers=bearer(),
        environ_overrides={"wsgi.input_terminated": True},
    )

    assert slug(answer) == (400, "malformed-request")


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        ({"kind": "cat", "lives": "9"}, "/lives"),
        ({"kind": "cat", "tricks": 1, "lives": 9}, "/tricks"),
        ({"kind": "cow"}, ""),
        ({"lives": 9}, ""),
        ([], ""),
    ],
)
def test_the_place_of_a_mistake_in_a_choice_is_a_place_in_the_body(
    client: FlaskClient, content: Any, pointer: str
) -> None:
    answer = client.patch("/pets", json=content)

    assert slug(answer) == (422, "validation-failed")
    assert [mistake["pointer"] for mistake in problem(answer)["errors"]] == [pointer]


def test_a_response_of_the_routes_own_is_sent_as_it_is(client: FlaskClient) -> None:
    answer = client.patch("/pets", json={"kind": "dog", "tricks": 2})

    assert answer.json == {"kind": "dog", "tricks": 2}
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_query_is_read_as_the_types_of_its_fields(client: FlaskClient) -> None:
    assert client.get("/notes?limit=7&flag=true").json == {"limit": 7, "flag": True}
    assert client.get("/notes").json == {"limit": 10, "flag": False}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=a", "limit"),
        ("limit=", "limit"),
        ("limit=1.5", "limit"),
        ("flag=perhaps", "flag"),
        ("limit=1&limit=1", "limit"),
        ("offset=1", "offset"),
        ("limit[]=1", "limit[]"),
        ("%00=1", "\x00"),
    ],
)
def test_a_wrong_repeated_or_unknown_parameter_is_422(client: FlaskClient, query: str, parameter: str) -> None:
    answer = client.get(f"/notes?{query}")

    assert slug(answer) == (422, "validation-failed")
    assert [mistake["parameter"] for mistake in problem(answer)["errors"]] == [parameter]


def test_an_operation_without_query_takes_none(client: FlaskClient) -> None:
    answer = client.get(f"/notes/{ID}?verbose=1")

    assert slug(answer) == (422, "validation-failed")


def test_who_names_something_unknown_is_told_what_is_known(client: FlaskClient) -> None:
    query = problem(client.get("/notes?offset=1"))["errors"]
    body = problem(client.patch("/pets", json={"kind": "cat", "tricks": 1, "lives": 9}))["errors"]

    assert query == [
        {"parameter": "offset", "detail": "This route does not know this parameter. It knows: limit, flag."}
    ]
    assert body == [{"pointer": "/tricks", "detail": "There is no such field."}]


def test_the_caller_is_judged_before_the_query_and_the_body(client: FlaskClient, routes: NoteRoutes) -> None:
    unknown = client.post("/notes?x=1", data=b"{", content_type="application/json")
    lacking = client.delete(f"/notes/{ID}?x=1", headers=bearer(KEY))

    assert slug(unknown) == (401, "invalid-token")
    assert slug(lacking) == (403, "missing-scope")
    assert routes.ran == 0


@pytest.mark.parametrize(
    "path", ["/notes/1", f"/notes/{ID}0", f"/notes/{ID}/", f"//notes/{ID}", "/notes/%2e%2e", "/x"]
)
def test_a_path_that_is_not_one_is_404_and_never_a_redirect(path: str) -> None:
    app = build_app(NoteRoutes())
    app.url_map.merge_slashes = False  # as the factory sets it

    assert slug(app.test_client().get(path)) == (404, "not-found")


def test_head_takes_the_way_of_get_without_a_body(client: FlaskClient) -> None:
    answer = client.head(f"/notes/{ID}")

    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["X-Method"] == "HEAD"
    assert answer.headers["Content-Length"] == client.get(f"/notes/{ID}").headers["Content-Length"]
    assert client.get(f"/notes/{ID}").headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "TRACE", "POST", "PROPFIND"])
def test_another_method_is_405_and_told_which_there_are(client: FlaskClient, method: str) -> None:
    answer = client.open(f"/notes/{ID}", method=method)

    assert slug(answer) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "DELETE, GET, HEAD"


def test_a_reply_without_content_has_neither_body_nor_type() -> None:
    class Routes:
        @delete("/x", summary="s", access=PUBLIC, answers={204: None})
        def remove(self) -> Reply:
            """Remove."""
            return Reply(204)

    answer = client_of(Routes()).delete("/x")

    assert (answer.status_code, answer.data) == (204, b"")
    assert "Content-Type" not in answer.headers


def test_operations_are_known_without_building_anything_in_the_order_they_are_written() -> None:
    declared = declared_operations(NoteRoutes)

    assert [operation.name for operation in declared] == ["create", "find", "show", "remove", "pet"]
    assert [operation for operation, _ in operations_of(NoteRoutes())] == declared
    assert declared[0].body is Note
    assert declared[1].query is Question
    assert declared[0].description == "Create."


def test_a_pointer_escapes_what_parts_it() -> None:
    assert pointer_of(["a/b", 0, "~"]) == "/a~1b/0/~0"


class Closed:
    """A door that refuses all changes, or none, and remembers what it was asked."""

    def __init__(self, *, is_closed: bool = True) -> None:
        self.is_closed = is_closed
        self.asked: list[tuple[Changes, int | None]] = []
        self.refusals = 0

    def admit(self, changes: Changes, size_bytes: int | None) -> None:
        self.asked.append((changes, size_bytes))
        if self.is_closed:
            raise ReadOnlyError("Not now.", retry_after_seconds=7)

    def note_refused(self) -> None:
        self.refusals += 1


class Unread(io.BytesIO):
    """A body that counts how often it is read."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        self.reads += 1
        return super().readinto(buffer)


class Ledgers:
    """Operations that change something, or that seem to."""

    @post("/entries", summary="s", access="photos:read", answers={201: Note})
    def enter(self, body: Note) -> Reply:
        """Enter."""
        return Reply(201, body)

    @post("/searches", summary="s", access=PUBLIC, answers={200: Note}, changes=Changes.NOTHING)
    def search(self, body: Note) -> Reply:
        """Search."""
        return Reply(200, body)

    @post("/visits", summary="s", access=PUBLIC, answers={204: None}, changes=Changes.SESSIONS)
    def visit(self) -> Reply:
        """Visit."""
        raise DatabaseReadOnlyError("None taken.", retry_after_seconds=2)

    @get("/entries", summary="s", access=PUBLIC, answers={200: Note})
    def look(self) -> Reply:
        """Look."""
        return Reply(200, b"{}")


def test_what_an_operation_changes_follows_from_its_method_unless_it_says_otherwise() -> None:
    declared = {operation.name: operation.changes for operation in declared_operations(Ledgers)}

    assert declared == {
        "enter": Changes.RECORDS,
        "search": Changes.NOTHING,
        "visit": Changes.SESSIONS,
        "look": Changes.NOTHING,
    }


@pytest.mark.parametrize(("is_closed", "status"), [(True, 503), (False, 201)], ids=["closed", "open"])
def test_a_door_that_is_closed_answers_before_anything_of_the_body_is_read(is_closed: bool, status: int) -> None:
    door, body = Closed(is_closed=is_closed), Unread(b'{"text": "a"}')
    client = build_app(Ledgers(), door=door).test_client()

    answer = client.post(
        "/entries", input_stream=body, content_length=13, content_type="application/json", headers=bearer()
    )

    assert (answer.status_code, body.reads > 0) == (status, not is_closed)
    assert door.asked == [(Changes.RECORDS, 13)]
    if is_closed:
        assert (slug(answer), answer.headers["Retry-After"]) == ((503, "read-only"), "7")


def test_who_asks_is_known_before_the_door_answers() -> None:
    door = Closed()

    answer = build_app(Ledgers(), door=door).test_client().post("/entries", json={"text": "a"})

    assert (slug(answer), door.asked) == ((401, "invalid-token"), [])


def test_a_closed_door_is_open_for_what_changes_nothing() -> None:
    door = Closed()
    client = build_app(Ledgers(), door=door).test_client()

    statuses = [client.get("/entries").status_code, client.post("/searches", json={"text": "a"}).status_code]

    assert (statuses, door.asked) == ([200, 200], [])


def test_a_change_that_the_database_refused_is_told_at_the_door() -> None:
    door = Closed(is_closed=False)

    answer = build_app(Ledgers(), door=door).test_client().post("/visits")

    assert slug(answer) == (503, "read-only")
    assert (door.refusals, door.asked) == (1, [(Changes.SESSIONS, None)])
