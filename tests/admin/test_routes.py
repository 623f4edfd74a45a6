"""The operators' routes on the management listener's application: who may, what is answered, what is refused."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import validate
from werkzeug.test import TestResponse

from app.admin.routes import BreakerRoutes, ModeRoutes
from app.admin.schemas import BreakerState
from app.admin.service import BreakerService, ModeService
from app.errors import InvalidTokenError
from app.http.docs import mount_document
from app.http.identity import Principal
from app.http.operations import mount
from app.ops.host_board import MODES, HostBoard
from app.ops.logging import bind, bound
from app.ops.mode_reasons import DatabaseWord, OperatorWord
from app.ops.modes import Modes
from app.ops.state import PAGE_NAME, StatePage
from app.server.management import build_operations_app
from app.stability import CircuitBreaker, State

ADA = UUID("019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21")
SCOPES = {"reader": {"admin:read"}, "operator": {"admin:read", "admin:ops"}, "user": {"photos:read", "photos:write"}}
MAIL = "/api/v1/admin/breakers/mail"
MODE = "/api/v1/admin/modes"


class Callers:
    """Knows a token for each kind of caller: its name."""

    def __init__(self) -> None:
        self.asked_fresh: list[bool] = []

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:
        self.asked_fresh.append(fresh)
        if credential not in SCOPES:
            raise InvalidTokenError("The access token is not valid. Log in again.")
        return Principal(ADA, frozenset(SCOPES[credential]), session_id=ADA)


class Listener:
    """The management listener's application with two breakers."""

    def __init__(self, folder: Path) -> None:
        self.board = HostBoard(StatePage(folder / PAGE_NAME), now=lambda: 1_777_896_000.0)
        self.breakers = {name: CircuitBreaker(name, board=self.board) for name in ("mail", "disk")}
        app = build_operations_app([])
        self.callers = Callers()
        operations = mount(app, BreakerRoutes(BreakerService(self.breakers, self.board)), self.callers)
        self.mode_board = HostBoard(StatePage(folder / PAGE_NAME), prefix=MODES, now=lambda: 1_777_896_000.0)
        word, self.database = OperatorWord(self.mode_board), DatabaseWord(self.mode_board)
        modes = ModeService(Modes([word, self.database]), word, self.mode_board)
        operations += mount(app, ModeRoutes(modes), self.callers)
        mount_document(app, operations, version="1.2.3")
        self.client: FlaskClient = app.test_client()

    def get(self, path: str, who: str = "reader") -> TestResponse:
        return self.client.get(path, headers={"Authorization": f"Bearer {who}"})

    def put(self, body: Any, path: str = f"{MAIL}/state", who: str = "operator") -> TestResponse:
        return self.client.put(path, json=body, headers={"Authorization": f"Bearer {who}"})


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


def test_a_reader_sees_every_breaker(listener: Listener) -> None:
    answer = listener.get("/api/v1/admin/breakers")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert [item["name"] for item in answer.get_json()["items"]] == ["disk", "mail"]
    mail = answer.get_json()["items"][1]
    assert mail == listener.get(MAIL).get_json()
    assert mail == {
        "name": "mail",
        "state": "closed",
        "ends_in_seconds": None,
        "since": None,
        "by": None,
        "reason": None,
        "openings": 0,
        "can_be_set_to": ["open", "disabled", "metrics_only", "forced_open", "forced_half_open"],
        "is_shared": True,
    }


def test_an_operator_sets_a_state_with_who_and_why(listener: Listener) -> None:
    answer = listener.put({"state": "open", "for_seconds": 300, "reason": "the store is being moved"})

    view = answer.get_json()
    assert answer.status_code == 200
    assert (view["state"], view["by"], view["reason"]) == ("open", str(ADA), "the store is being moved")
    assert view["since"] == "2026-05-04T12:00:00Z"
    assert 290 < view["ends_in_seconds"] <= 300
    assert listener.breakers["mail"].state is State.OPEN
    assert listener.breakers["disk"].state is State.CLOSED
    assert listener.get(MAIL).get_json()["state"] == "open"
    assert listener.callers.asked_fresh == [True, False]  # a session that has ended changes nothing


def test_counts_of_a_process_that_calls_nothing_are_not_shown_as_the_host_s(listener: Listener) -> None:
    schema = listener.client.get("/openapi.json").get_json()["components"]["schemas"]["BreakerView"]

    shown = listener.get("/api/v1/admin/breakers/disk").get_json()

    assert set(shown) == set(schema["properties"])
    assert not set(shown) & {"figures", "calls", "failure_rate", "slow_call_rate", "results", "worker_pid"}


def test_the_states_are_those_of_the_breaker() -> None:
    assert set(BreakerState.__args__) == {state.value for state in State}  # type: ignore[attr-defined]  # a Literal has it


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"state": "ajar", "reason": "r"}, "/state"),
        ({"state": "closed"}, "/reason"),
        ({"state": "closed", "reason": " "}, "/reason"),
        ({"state": "closed", "reason": "r" * 201}, "/reason"),
        ({"state": "closed", "reason": "ö" * 101}, "/reason"),
        ({"state": "closed", "reason": "r", "for": 1}, "/for"),
        ({"state": "closed", "reason": "r", "for_seconds": 1}, "/for_seconds"),
        ({"state": "open", "reason": "r", "for_seconds": 0}, "/for_seconds"),
        ({"state": "open", "reason": "r", "for_seconds": 86_401}, "/for_seconds"),
        ({"state": "open", "reason": "r", "for_seconds": "5"}, "/for_seconds"),
    ],
)
def test_a_wrong_field_is_422_with_its_place(listener: Listener, body: Any, pointer: str) -> None:
    answer = listener.put(body)

    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert [mistake["pointer"] for mistake in answer.get_json()["errors"]] == [pointer]
    assert listener.board.read("mail") is None


def test_a_move_that_is_not_allowed_is_409(listener: Listener) -> None:
    listener.put({"state": "metrics_only", "reason": "r"})

    answer = listener.put({"state": "half_open", "reason": "r"})

    assert (answer.status_code, answer.get_json()["type"]) == (409, "urn:photo-api:problem:conflict")
    assert "only to: closed" in answer.get_json()["detail"]


def test_an_unknown_breaker_is_404_for_all_routes(listener: Listener) -> None:
    got = listener.get("/api/v1/admin/breakers/none")
    put = listener.put({"state": "closed", "reason": "r"}, path="/api/v1/admin/breakers/none/state")

    assert (got.status_code, put.status_code) == (404, 404)
    assert put.get_json()["detail"] == "There is no such breaker. There are: disk, mail."


@pytest.mark.parametrize(("who", "status"), [("user", 403), ("nobody", 401), ("reader", 403)])
def test_who_may_not_changes_nothing_and_is_in_the_log(
    listener: Listener, caplog: pytest.LogCaptureFixture, who: str, status: int
) -> None:
    caplog.set_level(logging.INFO, "photo_api.request")

    answer = listener.put({"state": "forced_open", "reason": "r"}, who=who)

    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert listener.breakers["mail"].state is State.CLOSED
    (record,) = [record for record in caplog.records if record.name == "photo_api.request"]
    assert (vars(record)["method"], vars(record)["status"]) == ("PUT", status)
    assert vars(record)["route"] == "/api/v1/admin/breakers/<name>/state"


@pytest.mark.parametrize(("who", "status"), [("user", 403), ("nobody", 401), ("operator", 200)])
def test_reading_needs_the_scope_for_reading(listener: Listener, who: str, status: int) -> None:
    assert listener.get(MAIL, who).status_code == status
    assert listener.get("/api/v1/admin/breakers", who).status_code == status


def test_what_was_bound_to_a_request_is_not_bound_to_the_next(listener: Listener) -> None:
    bind(user_id="somebody before")

    listener.get(MAIL)

    assert bound() == {}


def test_a_path_that_does_not_exist_is_answered_with_where_the_routes_of_this_listener_are(
    listener: Listener,
) -> None:
    detail = listener.get("/nowhere").get_json()["detail"]

    path = detail.removeprefix("There is nothing at this path. The routes are listed at ").removesuffix(".")
    assert path == "/openapi.json"
    assert listener.client.get(path).status_code == 200


def test_what_a_page_has_forgotten_is_shown_again(listener: Listener, tmp_path: Path) -> None:
    listener.put({"state": "forced_open", "reason": "moving"})
    before = listener.get(MAIL).get_json()
    (tmp_path / PAGE_NAME).write_bytes(b"")

    after = listener.get(MAIL).get_json()

    assert after == before
    assert (after["state"], after["by"], after["reason"], after["is_shared"]) == (
        "forced_open",
        str(ADA),
        "moving",
        True,
    )


def test_a_path_that_does_not_exist_is_logged_without_itself(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "photo_api.request")

    answer = listener.get("/api/v1/admin/secrets")

    assert answer.status_code == 404
    (record,) = [record for record in caplog.records if record.name == "photo_api.request"]
    assert vars(record)["route"] == "unmatched"
    assert "secrets" not in caplog.text


def test_the_listener_documents_its_own_routes(listener: Listener) -> None:
    document = listener.client.get("/openapi.json").get_json()

    validate(document)
    assert set(document["paths"]) == {
        "/api/v1/admin/breakers",
        "/api/v1/admin/breakers/{name}",
        "/api/v1/admin/breakers/{name}/state",
        MODE,
    }
    change = document["paths"]["/api/v1/admin/breakers/{name}/state"]["put"]
    assert change["security"] == [{"bearer": ["admin:ops"]}, {"apiKey": ["admin:ops"]}]
    assert set(change["responses"]) >= {"200", "401", "403", "404", "409", "422"}
    assert document["tags"][0]["name"] == "Operation"
    assert re.search(r"over restarts too", json.dumps(document))


def test_a_reader_sees_the_mode_and_an_operator_sets_it_with_who_and_why(listener: Listener) -> None:
    before = listener.get(MODE).get_json()

    answer = listener.put({"mode": "read_only", "for_seconds": 300, "reason": "moving"}, path=MODE)

    view = answer.get_json()
    ends = view["reasons"][0].pop("ends_in_seconds")
    assert before == {"mode": "normal", "reasons": [], "is_shared": True}
    assert (answer.status_code, 290 < ends <= 300) == (200, True)
    assert view == {
        "mode": "read_only",
        "reasons": [
            {
                "name": "operator",
                "mode": "read_only",
                "output": "an operator has said that nothing changes now",
                "since": "2026-05-04T12:00:00Z",
                "by": str(ADA),
                "reason": "moving",
            }
        ],
        "is_shared": True,
    }
    assert listener.get(MODE).get_json()["mode"] == "read_only"


def test_what_an_operator_takes_back_leaves_what_the_server_has_found(listener: Listener) -> None:
    listener.database.note_refused()
    listener.put({"mode": "read_only", "reason": "moving"}, path=MODE)

    answer = listener.put({"mode": "normal", "reason": "moved"}, path=MODE)

    view = answer.get_json()
    assert (answer.status_code, view["mode"]) == (200, "read_only")
    assert [reason["name"] for reason in view["reasons"]] == ["database"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"mode": "degraded", "reason": "r"}, "/mode"),
        ({"mode": "read-only", "reason": "r"}, "/mode"),
        ({"mode": "read_only"}, "/reason"),
        ({"mode": "read_only", "reason": " "}, "/reason"),
        ({"mode": "read_only", "reason": "r", "for_seconds": 0}, "/for_seconds"),
        ({"mode": "read_only", "reason": "r", "for_seconds": 86_401}, "/for_seconds"),
        ({"mode": "normal", "reason": "r", "for_seconds": 5}, "/for_seconds"),
        ({"mode": "normal", "reason": "r", "until": 5}, "/until"),
    ],
)
def test_a_wrong_field_of_a_mode_is_422_with_its_place(listener: Listener, body: Any, pointer: str) -> None:
    answer = listener.put(body, path=MODE)

    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert [mistake["pointer"] for mistake in answer.get_json()["errors"]] == [pointer]
    assert listener.mode_board.entries() == {}


@pytest.mark.parametrize(("who", "read", "write"), [("user", 403, 403), ("nobody", 401, 401), ("reader", 200, 403)])
def test_the_mode_needs_the_scopes_of_operators(listener: Listener, who: str, read: int, write: int) -> None:
    statuses = [
        listener.get(MODE, who).status_code,
        listener.put({"mode": "read_only", "reason": "r"}, path=MODE, who=who).status_code,
    ]

    assert statuses == [read, write]
    assert listener.mode_board.entries() == {}
