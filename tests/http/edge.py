"""A small application at the product's HTTP edge: any routes, two known callers, an observer that remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient

from app.errors import InvalidTokenError
from app.http import context, problems
from app.http.application import Application
from app.http.identity import Principal
from app.http.operations import Door, mount

USER_ID = UUID("019aa2c4-7be1-7c52-9d3f-5b0c6f4e8a21")
SESSION_TOKEN = "a-session"
KEY = "a-key"


class KnownCallers:
    """Knows one access token and one API key, both with the scope ``photos:read``."""

    def __init__(self) -> None:
        self.asked_fresh: list[bool] = []

    def authenticate(self, credential: str, *, fresh: bool = False) -> Principal:
        self.asked_fresh.append(fresh)
        scopes = frozenset({"photos:read"})
        if credential == SESSION_TOKEN:
            return Principal(USER_ID, scopes, session_id=USER_ID)
        if credential == KEY:
            return Principal(USER_ID, scopes, api_key_id=USER_ID)
        raise InvalidTokenError("The access token is not valid. Log in again.")


@dataclass
class RememberingObserver:
    """Remembers every request and every class of an unforeseen error."""

    started: list[str] = field(default_factory=list)
    ended: list[tuple[str, str, int, float]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)

    def request_started(self, request_id: str, route: str) -> None:
        self.started.append(request_id)
        self.routes.append(route)

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        self.ended.append((method, route, status, seconds))

    def unforeseen(self, kind: str) -> None:
        self.kinds.append(kind)


def build_app(
    *routes: object,
    observer: RememberingObserver | None = None,
    deadline_seconds: float = 28.0,
    allowed_hosts: Sequence[str] = (),
    door: Door | None = None,
) -> Flask:
    """Return an application with these routes behind the real edge."""
    app = Application("edge", static_folder=None)
    problems.install(app)
    context.install(
        app,
        observer or RememberingObserver(),
        deadline_seconds=deadline_seconds,
        allowed_hosts=list(allowed_hosts),
    )
    for part in routes:
        mount(app, part, KnownCallers(), door)
    return app


def client_of(*routes: object) -> FlaskClient:
    """Return a client of :func:`build_app`."""
    return build_app(*routes).test_client()


def bearer(credential: str = SESSION_TOKEN) -> dict[str, str]:
    """Return the header that shows a credential."""
    return {"Authorization": f"Bearer {credential}"}
