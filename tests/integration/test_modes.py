"""What each operation of the product says it changes: the rows of the table in ``docs/operations/modes.md``."""

from __future__ import annotations

import re

import pytest

from app.accounts.routes import ApiKeyRoutes, SessionRoutes, UserRoutes
from app.errors import DatabaseReadOnlyError, OverloadedError, ReadOnlyError, SpoolFullError, UnavailableError
from app.http.openapi import problems_of
from app.http.operations import Changes, Operation, declared_operations
from app.ops.host_board import READ_ONLY
from app.ops.mode_reasons import DatabaseWord, LastResult, MemoryLeft, OperatorWord, SpoolRoom, StorageWrites
from app.ops.modes import Source
from app.ops.sampling import CheckResult, Status
from app.photos.link_routes import LinkRoutes
from app.photos.original_routes import OriginalRoutes
from app.photos.routes import PhotoRoutes
from app.photos.upload_routes import UploadRoutes
from app.renditions.routes import RenditionRoutes
from app.stability import CircuitBreaker, Decision
from tests.fakes.board import MemoryBoard
from tests.house.source import ROOT

SESSIONS = {
    "POST /api/v1/auth/tokens",
    "POST /api/v1/auth/tokens/refresh",
    "DELETE /api/v1/auth/tokens",
    "DELETE /api/v1/auth/sessions",
    "DELETE /api/v1/auth/sessions/<uuid:session_id>",
}
BYTES = {"POST /api/v1/photos"}
QUESTIONS = {"POST /api/v1/photos/check", "POST /api/v1/photos/links"}
"""What is asked with a body, and changes nothing."""


def declared() -> dict[str, Operation]:
    photos = (UploadRoutes, PhotoRoutes, OriginalRoutes, RenditionRoutes, LinkRoutes)
    rooms = (UserRoutes, SessionRoutes, ApiKeyRoutes, *photos)
    found = [operation for room in rooms for operation in declared_operations(room)]
    return {f"{operation.method} {operation.path}": operation for operation in found}


def names(changes: Changes) -> set[str]:
    return {name for name, operation in declared().items() if operation.changes is changes}


def test_who_may_only_read_changes_nothing_and_who_needs_more_changes_something() -> None:
    by_scope = {
        name: operation.changes is Changes.NOTHING
        for name, operation in declared().items()
        if isinstance(operation.access, str) and operation.access.startswith("photos:")
    }

    assert by_scope == {name: declared()[name].access == "photos:read" for name in by_scope}


def test_logins_are_sessions_uploads_are_bytes_and_every_other_change_is_of_records() -> None:
    assert names(Changes.SESSIONS) == SESSIONS
    assert names(Changes.BYTES) == BYTES
    assert {name for name in names(Changes.NOTHING) if not name.startswith("GET ")} == QUESTIONS
    assert names(Changes.RECORDS) >= {"PATCH /api/v1/photos/<uuid:photo_id>", "DELETE /api/v1/photos/<uuid:photo_id>"}


def test_the_document_says_read_only_of_what_changes_something_and_of_nothing_else() -> None:
    said = {
        name
        for name, operation in declared().items()
        if any(problem.slug == "read-only" for problem in problems_of(operation))
    }

    assert said == set(declared()) - names(Changes.NOTHING)


def at_work(reason: str) -> Source:
    """Return a source whose reason holds."""
    board = MemoryBoard()
    board.standing = {name: Decision(1, READ_ONLY, 0, float("inf"), name) for name in ("operator", "database")}
    full = LastResult(lambda: CheckResult(Status.FAIL, "none left"))
    full()
    if reason == "storage":
        breaker = CircuitBreaker("storage_write")
        breaker.open_for(60, by="ada", reason="")
        return StorageWrites(breaker)
    sources: dict[str, Source] = {
        "operator": OperatorWord(board),  # type: ignore[arg-type]  # it is asked for what a board of memory has
        "database": DatabaseWord(board),  # type: ignore[arg-type]  # it is asked for what a board of memory has
        "spool": SpoolRoom(full, lambda: 0, 30_000_000),
        "memory": MemoryLeft(full),
    }
    return sources[reason]


COLUMNS: list[tuple[str, set[Changes], type[UnavailableError]]] = [
    ("storage", {Changes.BYTES}, UnavailableError),
    ("database", {Changes.SESSIONS, Changes.RECORDS, Changes.BYTES}, DatabaseReadOnlyError),
    ("operator", {Changes.RECORDS, Changes.BYTES}, ReadOnlyError),
    ("spool", {Changes.BYTES}, SpoolFullError),
    ("memory", {Changes.BYTES}, OverloadedError),
]


@pytest.mark.parametrize(("reason", "forbidden", "error"), COLUMNS, ids=[column[0] for column in COLUMNS])
def test_each_column_of_the_table_forbids_what_it_says(
    reason: str, forbidden: set[Changes], error: type[UnavailableError]
) -> None:
    source, refused = at_work(reason), set()

    for changes in set(Changes) - {Changes.NOTHING}:
        try:
            source.refuse(changes, None)
        except UnavailableError as refusal:
            refused.add((changes, type(refusal)))

    assert refused == {(changes, error) for changes in forbidden}


def test_the_table_has_every_slug_that_a_mode_is_answered_with() -> None:
    text = (ROOT / "docs" / "operations" / "modes.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[2:-1] for line in text.splitlines() if len(cells := line.split("|")) == 9}

    upload = [re.findall(r"503 `([a-z-]+)`", cell) for cell in rows["upload a photo"]]

    assert upload == [[], ["unavailable"], ["read-only"], ["read-only"], ["spool-full"], ["overloaded"]]
    assert all(re.fullmatch(r" 200 ", cell) for cell in rows["a photo's metadata"])
