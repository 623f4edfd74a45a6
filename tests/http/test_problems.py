"""From errors to problem documents (RFC 9457): statuses, types, and what is never told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, RequestURITooLarge, SecurityError

from app import errors
from app.http import problems
from app.http.identity import PUBLIC
from app.http.operations import Reply, get
from app.stability import DeadlineExceededError
from app.storage import base as storage
from tests.http.edge import RememberingObserver, build_app

# Bases that nobody raises, and the one that never meets a client.
UNANSWERED = {errors.PhotoApiError, errors.RequestError, errors.ConfigurationError}


def classes(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from classes(child)


class FailingRoutes:
    """Raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    @get("/fail", summary="s", access=PUBLIC, answers={200: None})
    def fail(self) -> Reply:
        """Fail."""
        raise self._error


def answer(error: BaseException, observer: RememberingObserver | None = None) -> Any:
    return (
        build_app(FailingRoutes(error), observer=observer).test_client().get("/fail", headers={"X-Request-Id": "r-1"})
    )


@pytest.mark.parametrize(
    "kind",
    [kind for kind in dict.fromkeys(classes(errors.PhotoApiError)) if kind not in UNANSWERED],
    ids=lambda kind: kind.__name__,
)
def test_every_error_raised_on_purpose_has_an_answer_of_its_own(kind: type[Exception]) -> None:
    assert problems.problem_for(kind) is not problems.INTERNAL


@pytest.mark.parametrize(
    ("kind", "status", "slug", "retryable"),
    [
        (errors.MalformedRequestError, 400, "malformed-request", False),
        (errors.IncompleteBodyError, 400, "incomplete-body", True),
        (errors.DigestMismatchError, 400, "digest-mismatch", True),
        (errors.InvalidTokenError, 401, "invalid-token", False),
        (errors.InvalidCredentialsError, 401, "invalid-credentials", False),
        (errors.MissingScopeError, 403, "missing-scope", False),
        (errors.NotFoundError, 404, "not-found", False),
        (errors.RequestInProgressError, 409, "request-in-progress", True),
        (errors.PreconditionFailedError, 412, "precondition-failed", False),
        (errors.IdempotencyKeyReusedError, 422, "idempotency-key-reused", False),
        (errors.TooManyRequestsError, 429, "too-many-requests", True),
        (errors.QuotaExceededError, 507, "quota-exceeded", False),
        (errors.DatabaseUnavailableError, 503, "unavailable", True),
        (errors.DatabaseReadOnlyError, 503, "read-only", True),
        (errors.LeaseLostError, 503, "unavailable", True),
        (errors.SpoolFullError, 503, "spool-full", True),
        (storage.StorageUnavailableError, 503, "unavailable", True),
        (storage.StorageDeniedError, 503, "unavailable", True),
        (storage.StorageTimeoutError, 504, "storage-timeout", True),
        (storage.ObjectNotFoundError, 502, "object-missing", False),
        (storage.ObjectCorruptError, 502, "object-corrupt", True),
    ],
)
def test_the_contract_names_status_and_type(kind: type[Any], status: int, slug: str, *, retryable: bool) -> None:
    got = answer(kind("What to do."))

    assert got.status_code == status
    assert got.content_type == "application/problem+json"
    assert got.headers["Cache-Control"] == "no-store"
    assert got.json["detail"] == "What to do."
    assert got.json["retryable"] == retryable
    assert {name: got.json[name] for name in ("type", "status", "request_id")} == {
        "type": f"urn:photo-api:problem:{slug}",
        "status": status,
        "request_id": got.headers["X-Request-Id"],
    }


def test_a_type_always_has_the_same_status_and_title() -> None:
    known: dict[str, problems.Problem] = {}

    for problem in problems.PROBLEMS.values():
        assert known.setdefault(problem.slug, problem) == problem


@pytest.mark.parametrize(("given", "seconds"), [(None, 2), (0.01, 1), (1.0, 1), (1.1, 2), (299.5, 300)])
def test_who_has_to_wait_is_told_how_long_in_whole_seconds(given: float | None, seconds: int) -> None:
    got = answer(errors.TooManyRequestsError("Wait.", retry_after_seconds=given))

    assert got.headers["Retry-After"] == str(seconds)
    assert got.json["retry_after_seconds"] == seconds


def test_a_wait_that_is_not_known_is_not_made_up() -> None:
    got = answer(errors.NotFoundError("No."))

    assert "Retry-After" not in got.headers
    assert "retry_after_seconds" not in got.json


def test_a_401_asks_for_a_bearer() -> None:
    assert answer(errors.InvalidTokenError("Who?")).headers["WWW-Authenticate"] == 'Bearer realm="photo-api"'


def test_a_range_that_cannot_be_had_tells_the_size() -> None:
    got = answer(errors.RangeNotSatisfiableError("No.", 100))

    assert (got.status_code, got.headers["Content-Range"]) == (416, "bytes */100")


def test_mistakes_in_fields_are_listed() -> None:
    mistakes = [{"pointer": "/title", "detail": "must be a single line"}]

    assert answer(errors.ValidationFailedError("Wrong.", mistakes)).json["errors"] == mistakes


def test_a_deadline_that_ran_out_is_504() -> None:
    got = answer(DeadlineExceededError())

    assert (got.status_code, got.json["type"]) == (504, "urn:photo-api:problem:deadline-exceeded")


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (SecurityError("Host 'evil'"), 400, "host-not-allowed"),
        (BadRequest("bad thing"), 400, "malformed-request"),
        (RequestEntityTooLarge(), 413, "payload-too-large"),
        (RequestURITooLarge(), 414, "malformed-request"),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(error: HTTPException, status: int, slug: str) -> None:
    got = answer(error)

    assert (got.status_code, got.json["type"]) == (status, f"urn:photo-api:problem:{slug}")
    assert "evil" not in got.text


@pytest.mark.parametrize(
    "error", [KeyError("secret-table"), RuntimeError("/var/secret"), RecursionError(), MemoryError()]
)
def test_what_nobody_foresaw_is_one_general_500_logged_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    observer = RememberingObserver()

    with caplog.at_level(logging.WARNING):
        got = answer(error, observer)

    assert got.status_code == 500
    assert got.json["type"] == "urn:photo-api:problem:internal-error"
    assert got.json["request_id"] == "r-1"
    assert "secret" not in got.text
    assert [(record.levelname, record.exc_info is not None) for record in caplog.records] == [("ERROR", True)]
    assert observer.kinds == [type(error).__name__]


def test_the_cause_of_a_server_error_goes_to_the_log_and_not_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    error = errors.DatabaseUnavailableError("Try again.")
    error.__cause__ = OSError("connection to 10.0.0.7 refused")

    with caplog.at_level(logging.WARNING):
        got = answer(error)

    assert "10.0.0.7" not in got.text
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "10.0.0.7" in str(record.exc_info[1])


def test_a_mistake_of_a_client_is_no_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        answer(errors.NotFoundError("No."))

    assert [record for record in caplog.records if record.name.startswith("app.")] == []


def test_an_answer_can_be_made_before_there_is_a_request_id() -> None:
    with Flask("bare").test_request_context():
        made = problems.answer(problems.INTERNAL, "No.")

    assert made.json["request_id"] == ""  # type: ignore[index]  # a problem is an object
