"""How answers are judged: problem documents, nothing stored, and requests that no client library would send."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Mapping
from email.message import Message
from typing import Any
from uuid import UUID

import requests
from sqlalchemy import func, select, update

from app.accounts.models import User
from app.photos.models import Photo
from tests.servers.client import Client
from tests.servers.product import Product

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
INTERNAL = re.compile(r"traceback|sqlalchemy|psycopg|sqlite|/app/|\.py\b|select |originals/|var/spool", re.IGNORECASE)


def assert_problem(answer: requests.Response, status: int, slug: str | None = None) -> dict[str, Any]:
    """Assert that an answer is a problem document of RFC 9457 as the contract has it; return it."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
    return assert_problem_document(answer.status_code, answer.headers, answer.json(), slug)


def assert_problem_document(
    status: int, headers: Mapping[str, str], document: dict[str, Any], slug: str | None = None
) -> dict[str, Any]:
    """Assert the same of the parts of an answer."""
    assert headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "request_id", "retryable"} <= set(document)
    assert document["status"] == status
    assert document["request_id"] == headers["X-Request-Id"]
    assert document["type"].startswith("urn:photo-api:problem:")
    assert slug is None or document["type"].rpartition(":")[2] == slug
    assert not INTERNAL.search(str(document)), document
    if status in {429, 503}:
        assert int(headers["Retry-After"]) == document["retry_after_seconds"] >= 1
    return document


class Answer:
    """An answer to :func:`send_raw`."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers: Message = response.headers
        self.body = response.read()


def send_raw(product: Product, request: bytes, *, half_close: bool = True) -> Answer:
    """Send bytes as they are, on a connection of their own, and return the answer."""
    with socket.create_connection(("127.0.0.1", product.port), 30) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        response.begin()
        try:
            return Answer(response)
        finally:
            response.close()


def head_of(client: Client, path: str, *lines: str, method: str = "POST") -> bytes:
    """Return a request's head with the client's credential."""
    credential = f"Authorization: Bearer {client.tokens['access_token']}"
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", credential, *lines, "", ""]).encode()


def stored(product: Product, client: Client) -> tuple[int, int]:
    """Return how many rows a user has in any state, and how many objects."""
    owner_id = UUID(client.get("/api/v1/users/me").json()["id"])
    with product.stack.database() as connection:
        rows = connection.execute(select(func.count()).where(Photo.owner_id == owner_id)).scalar_one()
    return rows, sum(owner_id.hex in key for key in product.stack.object_keys())


def set_quota(product: Product, client: Client, quota_bytes: int) -> None:
    """Give a user a quota of their own."""
    owner_id = UUID(client.get("/api/v1/users/me").json()["id"])
    with product.stack.database() as connection:
        connection.execute(update(User).where(User.id == owner_id).values(quota_bytes=quota_bytes))
