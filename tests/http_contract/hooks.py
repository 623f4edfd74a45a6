"""What schemathesis needs to know of this product: a credential that holds, and clients that are many.

It ends sessions, changes passwords and closes accounts on its way; the next request then gets another account.
Loaded by schemathesis in its own process (``hooks`` in ``schemathesis.toml``).
"""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Any
from uuid import UUID

import requests
import schemathesis
from requests.structures import CaseInsensitiveDict
from schemathesis import AuthContext, Case, HookContext, Response

from tests.servers.client import new_photo

PASSWORD = "a lighthouse in the rain"  # as in the document's examples
EXAMPLE_EMAIL = "ada@example.org"
ENDING = ("/api/v1/users/me", "/api/v1/auth/sessions", "/api/v1/auth/sessions/{session_id}")
TIMEOUT_SECONDS = 30
ODD = "13579bdf"


class Account:
    """The account that requests are made with."""

    def __init__(self) -> None:
        self.url = ""
        self.token: str | None = None
        self._photo_id = ""
        self._asked = 0

    def log_in(self, url: str) -> str:
        """Return an access token of a living session."""
        if self.token is None:
            self.url = url
            self._asked = 0
            register(url, EXAMPLE_EMAIL)
            email = f"{secrets.token_hex(8)}@example.org"
            assert register(url, email) == 201
            answer = _post(f"{url}/api/v1/auth/tokens", email)
            assert answer.status_code == 200, answer.text
            self.token = str(answer.json()["access_token"])
        return self.token

    def photo_id(self) -> str:
        """Return the id of a photo; a new one now and then, because they are deleted on the way."""
        if self._asked % 10 == 0:
            self._photo_id = self._make("photos", data=new_photo(), headers={"Content-Type": "image/jpeg"})
        self._asked += 1
        return self._photo_id

    def key_id(self) -> str:
        """Return the id of a new API key."""
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        wanted = {"name": "made", "scopes": ["photos:read"], "expires_at": ends.isoformat(timespec="seconds")}
        return self._make("api-keys", json=wanted)

    def _make(self, what: str, *, headers: dict[str, str] | None = None, **options: Any) -> str:
        credential = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        url = f"{self.url}/api/v1/{what}"
        answer = requests.post(url, headers=credential, timeout=TIMEOUT_SECONDS, **options)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


ACCOUNT = Account()


def register(url: str, email: str) -> int:
    """Make an account; return the status."""
    return _post(f"{url}/api/v1/users", email).status_code


def _post(url: str, email: str) -> requests.Response:
    headers = {"X-Forwarded-For": some_address()}
    return requests.post(url, json={"email": email, "password": PASSWORD}, headers=headers, timeout=TIMEOUT_SECONDS)


def some_address() -> str:
    """Return an address of a network of its own, so that nobody waits for the failed logins of others."""
    return ".".join(["10", *(str(byte) for byte in secrets.token_bytes(3))])


def _add_header(case: Case[Any], name: str, value: str) -> None:
    headers = CaseInsensitiveDict(case.headers or {})
    headers[name] = value
    case.headers = headers


@schemathesis.auth(refresh_interval=None)
class Credential:
    """Logs in."""

    def get(self, case: Case[Any], _context: AuthContext) -> str:
        """Return a token."""
        return ACCOUNT.log_in(str(case.operation.base_url).rstrip("/"))

    def set(self, case: Case[Any], data: str, _context: AuthContext) -> None:
        """Put it into a request."""
        _add_header(case, "Authorization", f"Bearer {data}")


@schemathesis.hook
def map_path_parameters(context: HookContext, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Let every other id that was made up be one that exists."""
    makers = {"photo_id": ACCOUNT.photo_id, "key_id": ACCOUNT.key_id}
    mapped = dict(path_parameters or {})
    for name, made_up in mapped.items():
        if name in makers and ACCOUNT.token and isinstance(made_up, str) and _is_uuid(made_up) and made_up[-1] in ODD:
            mapped[name] = makers[name]()
    return mapped or path_parameters


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Let every request come from a client of its own."""
    _add_header(case, "X-Forwarded-For", some_address())


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    """Take another account when this one was logged out."""
    if case.method in {"DELETE", "PATCH"} and case.path in ENDING and response.status_code < 300:
        ACCOUNT.token = None
