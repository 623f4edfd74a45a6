"""A person with an account: a small HTTP client of the product."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import IO, Any, ClassVar

import requests

from tests.fakes import images

TIMEOUT_SECONDS = 60
_BASE = images.jpeg(32, 24, seed=7)
_TELLING = 12  # shorter texts stand in a log by chance


def new_photo(size_bytes: int | None = None) -> bytes:
    """Return a JPEG that no test has used before; bytes behind an image's end are allowed, and make it unique."""
    mark = secrets.token_bytes(16)
    if size_bytes is None:
        return _BASE + mark
    return _BASE + mark + bytes(size_bytes - len(_BASE) - len(mark))


def tomorrow() -> str:
    """Return this time of the next day, as a key's end is told."""
    return (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).isoformat(timespec="seconds")


def repr_digest(content: bytes) -> str:
    """Return the ``Repr-Digest`` header of some bytes."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


class Client:
    """Talks to one product over one session of kept-alive connections. Not thread-safe; see :meth:`twin`.

    Args:
        url: Of the product.

    Attributes:
        sent: How many requests all clients have sent.
    """

    sent: ClassVar[int] = 0

    def __init__(self, url: str) -> None:
        self.url = url
        self.email = f"user-{secrets.token_hex(8)}@example.org"
        self.password = f"a lighthouse in {secrets.token_hex(8)}"
        self.tokens: dict[str, Any] = {}
        self.http = requests.Session()
        self.http.trust_env = False
        # An address of its own behind a trusted proxy: nobody waits for the failed logins of others.
        self.http.headers["X-Forwarded-For"] = f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.7"
        self.private: set[str] = {self.email, self.password}
        """What this person sent or got that must never stand in a log."""
        self._twins: list[Client] = []

    def twin(self) -> Client:
        """Return another client of the same account with a connection of its own, for another thread."""
        twin = Client(self.url)
        twin.email, twin.password, twin.tokens = self.email, self.password, self.tokens
        twin.private = self.private
        twin.http.headers.update(self.http.headers)
        self._twins.append(twin)
        return twin

    def close(self) -> None:
        for client in (self, *self._twins):
            client.http.close()

    def register(self) -> requests.Response:
        answer = self.post("/api/v1/users", json={"email": self.email, "password": self.password})
        assert answer.status_code == 201, answer.text
        return answer

    def log_in(self) -> dict[str, Any]:
        answer = self.post("/api/v1/auth/tokens", json={"email": self.email, "password": self.password})
        assert answer.status_code == 200, answer.text
        self.tokens = answer.json()
        self.private |= {self.tokens["access_token"], self.tokens["refresh_token"]}
        self.http.headers["Authorization"] = f"Bearer {self.tokens['access_token']}"
        return self.tokens

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", TIMEOUT_SECONDS)
        Client.sent += 1
        self.private |= {
            str(value) for value in (options.get("params") or {}).values() if len(str(value)) >= _TELLING
        }
        return self.http.request(method, self.url + path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def patch(self, path: str, **options: Any) -> requests.Response:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        return self.request("DELETE", path, **options)

    def head(self, path: str, **options: Any) -> requests.Response:
        return self.request("HEAD", path, **options)

    def send(
        self,
        content: bytes | IO[bytes] | Iterable[bytes],
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Upload a photo as the request's body."""
        more = {"Content-Type": "image/jpeg", **(headers or {})}
        if key is not None:
            more["Idempotency-Key"] = key
        return self.post("/api/v1/photos", data=content, headers=more)

    def send_form(
        self,
        content: bytes,
        filename: str = "photo.jpg",
        *,
        fields: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Upload a photo as a multipart form."""
        if len(filename) >= _TELLING:
            self.private.add(filename)
        return self.post(
            "/api/v1/photos",
            files={"file": (filename, content, "image/jpeg")},
            data=dict(fields or {}),
            headers=dict(headers or {}),
        )

    def upload(self, content: bytes | None = None, **fields: Any) -> dict[str, Any]:
        """Upload a photo that must be new and return it."""
        content = new_photo() if content is None else content
        answer = self.send_form(content, fields=fields) if fields else self.send(content)
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def original(self, photo: Mapping[str, Any], **headers: str) -> requests.Response:
        """Download an original."""
        return self.get(photo["links"]["original"], headers=headers)

    def photos(self, **query: Any) -> list[dict[str, Any]]:
        """Return all photos of a list, page by page."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            answer = self.get("/api/v1/photos", params={**query, **cursor})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    def used_bytes(self) -> int:
        """Return how much of the quota is used."""
        used: int = self.get("/api/v1/users/me").json()["used_bytes"]
        return used
