"""An identity service as NHN Cloud's: v2.0 tokens, and Keystone's v3 beside them, for a real Swift with TempAuth.

OpenStack has no v2.0 tokens any more, so this is a stand-in after NHN's guide. What it issues are real tokens of that
Swift, with an expiry of its own; it judges the credentials and can be told to be down, to hang and to lie.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from app.storage.swift_identity import SwiftIdentity
from tests.fakes.fault_proxy import Barrier
from tests.servers.swift import ACCOUNT_PATH, SwiftServer

USERNAME = "api-user@example.org"
PASSWORD = "an-api-password"
TENANT_ID = "0123456789abcdef0123456789abcdef"
REGION = "KR1"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: callers that break off are part of the tests."""


class IdentityServer:
    """The service. A context manager; one thread for each connection.

    Args:
        swift: Whose tokens it issues.
        storage_url: What its catalogue says of the account; None for the Swift itself.

    Attributes:
        password: What it takes as the right password now.
        lives_seconds: How long it says a token lives.
        skew_seconds: How far its clock is ahead of ours.
        storage_url: What its catalogue says.
        lie: What it answers instead of tokens: status, headers, body; None for tokens.
        hold: Where requests wait before they are answered; None for nowhere.
        issued: The tokens it has issued, in order.
    """

    def __init__(self, swift: SwiftServer, storage_url: str | None = None) -> None:
        self._swift = swift
        self.password = PASSWORD
        self.lives_seconds: float = 43_200
        self.skew_seconds: float = 0
        self.storage_url = storage_url or swift.url + ACCOUNT_PATH
        self.lie: tuple[int, Mapping[str, str], bytes] | None = None
        self.hold: Barrier | None = None
        self.issued: list[str] = []
        self._asked = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, headers, content = service.answer(self.path, body)
                self.send_response_only(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing: what is asked is counted."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def asked(self) -> int:
        """How many requests have come."""
        with self._lock:
            return self._asked

    def identity(self, version: Literal["2", "3"] = "2", *, url: str | None = None) -> SwiftIdentity:
        """Return how to sign in, through another endpoint if one is given."""
        return SwiftIdentity(
            auth_url=f"{url or self.url}/{'v2.0' if version == '2' else 'v3'}",
            version=version,
            username=USERNAME,
            password=PASSWORD,
            tenant_id=TENANT_ID,
            region=REGION,
        )

    def answer(self, path: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Return what a request gets."""
        with self._lock:
            self._asked += 1
        if self.hold is not None:
            self.hold.hold(self._closed)
        if self.lie is not None:
            return self.lie
        auth = json.loads(body)["auth"]
        if path == "/v2.0/tokens":
            given = auth["passwordCredentials"]
            return self._judge(given["username"], given["password"], auth["tenantId"], self._v2)
        if path == "/v3/auth/tokens":
            user = auth["identity"]["password"]["user"]
            assert user["domain"] == {"name": "Default"}
            return self._judge(user["name"], user["password"], auth["scope"]["project"]["id"], self._v3)
        return 404, {}, b""

    def _judge(self, username: str, password: str, tenant: str, answer: Any) -> tuple[int, Mapping[str, str], bytes]:
        if (username, password, tenant) != (USERNAME, self.password, TENANT_ID):
            refusal = {"error": {"code": 401, "title": "Unauthorized", "message": "Could not authenticate."}}
            return 401, {"Content-Type": "application/json"}, json.dumps(refusal).encode()
        token = self._swift.new_token()
        with self._lock:
            self.issued.append(token)
        now = datetime.now(UTC) + timedelta(seconds=self.skew_seconds)
        status, headers, document = answer(token, now + timedelta(seconds=self.lives_seconds), now)
        said = {"Content-Type": "application/json", "Date": format_datetime(now, usegmt=True), **headers}
        return status, said, json.dumps(document).encode()

    def _v2(self, token: str, expires: datetime, now: datetime) -> tuple[int, dict[str, str], Any]:
        """Return what NHN Cloud answers: another service and another region stand in the catalogue, too."""
        elsewhere = {"region": "JP1", "publicURL": "http://127.0.0.1:9/v1/AUTH_elsewhere"}
        here = {"region": REGION, "publicURL": self.storage_url}
        access = {
            "token": {
                "id": token,
                "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%f"),
                "tenant": {"id": TENANT_ID, "name": "tenant", "enabled": True},
            },
            "serviceCatalog": [
                {"type": "identity", "name": "keystone", "endpoints": [{"region": REGION, "publicURL": self.url}]},
                {"type": "object-store", "name": "swift", "endpoints": [elsewhere, here]},
            ],
            "user": {"id": "u", "username": USERNAME, "name": USERNAME, "roles": [], "roles_links": []},
        }
        return 200, {}, {"access": access}

    def _v3(self, token: str, expires: datetime, now: datetime) -> tuple[int, dict[str, str], Any]:
        endpoints = [
            {"interface": interface, "region": region, "region_id": region, "url": url}
            for interface, region, url in [
                ("internal", REGION, "http://127.0.0.1:9/v1/AUTH_internal"),
                ("public", "JP1", "http://127.0.0.1:9/v1/AUTH_elsewhere"),
                ("public", REGION, self.storage_url),
            ]
        ]
        document = {
            "token": {
                "methods": ["password"],
                "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "catalog": [{"type": "object-store", "name": "swift", "endpoints": endpoints}],
            }
        }
        return 201, {"X-Subject-Token": token}, document

    def close(self) -> None:
        """Stop; requests that are held end."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
