"""NHN Cloud's CDN API, version 2.0, as its public guide describes it: tokens and purges. It can fail, hang and lie.

It makes tokens from the guide and not with the product's code. What it is told to do next time, it does to every
request until it is told otherwise.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

APP_KEY = "cdnAppKey"
SECRET_KEY = "cdn-secret-key"
ENCRYPT_KEY = "52a152a152a152a152a152a152a1"

_ROUTE = re.compile(r"/v2\.0/appKeys/([^/]+)/(auth-token|purge/item)")


class NhnCdn:
    """The API, running until the end of its ``with``.

    Args:
        now: The API's own clock, in seconds since 1970.

    Attributes:
        asked: The bodies of the requests for tokens.
        purged: The URLs that were to be purged.
        on_purge: Is told the path of each of them.
        fails_with: The result code of every answer; 0 for none.
        status: Of every answer.
        lie: Changes an answer before it is sent.
        gate: Requests wait here while it is cleared.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.asked: list[dict[str, Any]] = []
        self.purged: list[str] = []
        self.on_purge: Callable[[str], None] = lambda _path: None
        self.fails_with = 0
        self.status = 200
        self.lie: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self.gate = threading.Event()
        self.gate.set()
        self._now = now
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _requests_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(20)

    def answer(self, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return the status and the document for one request."""
        self.gate.wait(60)
        found = _ROUTE.fullmatch(path)
        with self._lock:
            if found is not None and found[2] == "auth-token":
                self.asked.append(body)
            code = self._judge(found, authorization, body)
            answer = _answer(code)
            if code == 0 and found is not None:
                answer |= self._act(found[2], body)
            return self.status, self.lie(answer)

    def _judge(self, found: re.Match[str] | None, authorization: str, body: dict[str, Any]) -> int:
        if self.fails_with or found is None:
            return self.fails_with or 10006
        if found[1] != APP_KEY:
            return 20001
        if authorization != SECRET_KEY:
            return 20002
        return _token_mistake(body) if found[2] == "auth-token" else 0 if body.get("purgeList") else 10001

    def _act(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        if operation == "purge/item":
            for url in body["purgeList"]:
                self.purged.append(url)
                self.on_purge(urllib.parse.urlsplit(url).path)
            return {}
        ends = int(self._now()) + body["durationSeconds"]
        token = sign(body["encryptKey"], body["singlePath"], ends)
        return {"authToken": {"singlePathToken": token, "singleWildcardPathToken": None}}


def sign(key_hex: str, path: str, ends: int) -> str:
    """Return a token for one path, as the guide's example in Java does it."""
    escaped = urllib.parse.quote_plus(path, safe="*")
    lowered = re.sub("%[0-9A-F]{2}", lambda code: code.group().lower(), escaped)
    message = f"exp={ends}~url={lowered}".encode()
    return f"exp={ends}~hmac={hmac.new(bytes.fromhex(key_hex), message, hashlib.sha256).hexdigest()}"


def _token_mistake(body: dict[str, Any]) -> int:
    path = body.get("singlePath", "")
    mistakes = {
        10033: not body.get("encryptKey"),
        10034: not isinstance(body.get("durationSeconds"), int),
        10036: not path,
        10037: not path.startswith("/"),
        10038: "!" in path or "~" in path,
    }
    return next((code for code, is_made in mistakes.items() if is_made), 0)


def _answer(code: int) -> dict[str, Any]:
    message = "SUCCESS" if code == 0 else f"Failed for reason {code}."
    return {"header": {"resultCode": code, "resultMessage": message, "isSuccessful": code == 0}}


def _requests_of(api: NhnCdn) -> type[BaseHTTPRequestHandler]:
    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, document = api.answer(self.path, self.headers.get("Authorization", ""), body)
            content = json.dumps(document).encode()
            with suppress(OSError):  # the client has gone
                self.send_response(status)
                self.send_header("Content-Type", "application/json;charset=UTF-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    return Requests
