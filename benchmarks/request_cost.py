"""What a request pays for being identified, counted, logged and admitted, in one process and without a socket.

Every line is one WSGI call whose route answers five bytes; a Flask hello stands beside it. What a line adds to the
one above it is the price of a layer, in processor time of the whole process::

    Flask hello                    the framework
    our routes and answers         validation of the query, an answer of our own
    and all that is tracked        id, deadline, headers, log line, metrics, in flight
    and who asks                   the token's signature and session, both known from a moment ago
    admission                      one offer and one release; not a WSGI call

It runs as a process of its own, because the product's log goes to standard output: ``measure`` starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any, Final

from flask import Flask
from werkzeug.test import create_environ

from app.accounts.authentication import AccountAuthenticator
from app.accounts.principals import PrincipalCache
from app.accounts.ring_file import open_rings
from app.accounts.tokens import AccessTokens
from app.db import migrate
from app.factory import Runtime, create_app
from app.http.application import Application
from app.http.identity import PUBLIC, Principal
from app.http.operations import Reply, get, mount
from app.ops.admission import Admission, AdmissionOptions, RequestClass
from app.server.metrics_folder import open_metrics_folder
from app.server.state_folder import open_state_folder
from app.settings import load_settings
from benchmarks.stability.dependency import Function
from benchmarks.stability.findings import Finding, finding
from benchmarks.stability.timing import QUICK, Effort, seconds_per_call

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_ROOT: Final = Path(__file__).resolve().parents[1]
_BODY: Final = b"hello"
_MICROSECONDS: Final = 1e6
_PEER: Final = "Flask hello"
_ROUTES: Final = "our routes and answers"
_TRACKED: Final = "and all that is tracked"
_WHOLE: Final = "and who asks"
_ADMISSION: Final = "admission"


class HelloRoutes:
    """Two routes that answer five bytes: to anyone, and to who may read photos."""

    @get("/bench/hello", summary="Hello", access=PUBLIC, answers={200: None})
    def hello(self) -> Reply:
        """Answer the least there is."""
        return Reply(200, _BODY)

    @get("/bench/hello-you", summary="Hello", access="photos:read", answers={200: None})
    def hello_you(self, principal: Principal) -> Reply:
        """Answer the same to somebody."""
        assert principal.scopes
        return Reply(200, _BODY)


@dataclass(frozen=True)
class Request:
    """One WSGI call, again and again.

    Attributes:
        application: Who answers.
        environ: Copied for each call.
    """

    application: WSGIApplication
    environ: dict[str, Any]

    def __call__(self) -> None:
        """Ask once, as a server does, and require that the answer is a good one."""
        statuses: list[str] = []

        def start(status: str, *_rest: Any) -> Callable[[bytes], object]:
            statuses.append(status)
            return bytes

        body = self.application(dict(self.environ), start)
        try:
            content = b"".join(body)
        finally:
            getattr(body, "close", int)()
        assert content == _BODY, (statuses, content)


def measure(*, is_quick: bool) -> list[Finding]:
    """Return the lines, measured in a process of its own; takes some seconds."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "found.json"
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("PHOTO_API_", "PROMETHEUS_"))
        }
        environ = {
            **ours,
            "PYTHONPATH": str(_ROOT),
            "PHOTO_API_DATABASE__URL": f"sqlite:///{folder}/cost.db",
            "PHOTO_API_STORAGE__LOCAL_ROOT": f"{folder}/objects",
            "PHOTO_API_LOG__FORMAT": "json",
        }
        command = [sys.executable, "-m", "benchmarks.request_cost", str(answer), *(["--quick"] if is_quick else [])]
        subprocess.run(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, check=True)
        return list(starmap(finding, json.loads(answer.read_text())))


def main() -> int:
    """Measure in this process, and write the series to the file that is named first."""
    costs = _costs(QUICK if "--quick" in sys.argv else Effort(batch_seconds=0.01))
    hello = costs[_PEER]
    added = [
        whole - routes + admission
        for whole, routes, admission in zip(costs[_WHOLE], costs[_ROUTES], costs[_ADMISSION], strict=True)
    ]
    lines = [(name, costs[name]) for name in (_ROUTES, _TRACKED, _WHOLE, _ADMISSION)]
    lines.append(("all that but the routes adds", added))
    series = [
        [
            f"cost: {name}",
            _PEER,
            "µs a request",
            *([seconds * _MICROSECONDS for seconds in side] for side in (own, hello)),
        ]
        for name, own in lines
    ]
    Path(sys.argv[1]).write_text(json.dumps(series), encoding="utf-8")
    return 0


def _costs(effort: Effort) -> dict[str, list[float]]:
    plain = Flask("hello")
    plain.add_url_rule("/bench/hello", view_func=_BODY.decode)
    bare = Application("bare", static_folder=None)
    with _product() as (product, token):
        mount(bare, HelloRoutes(), product.extensions["bench_authenticator"])
        anyone = create_environ("/bench/hello", headers={"User-Agent": "bench", "Accept": "*/*"})
        somebody = create_environ("/bench/hello-you", headers={"Authorization": f"Bearer {token}"})
        contenders: dict[str, Function] = {
            _PEER: Request(plain.wsgi_app, anyone),
            _ROUTES: Request(bare.wsgi_app, anyone),
            _TRACKED: Request(product.wsgi_app, anyone),
            _WHOLE: Request(product.wsgi_app, {**anyone, **somebody}),
            _ADMISSION: _admission(),
        }
        return seconds_per_call(contenders, effort, process_time)


@contextmanager
def _product() -> Iterator[tuple[Flask, str]]:
    """Yield the product as a worker has it, with the routes of this module, and a token of somebody."""
    settings = load_settings()
    open_metrics_folder(Path("var/run/metrics"), os.environ)
    open_state_folder(Path("var/run/state"), os.environ)
    app = create_app(settings)
    runtime: Runtime = app.extensions["photo_api"]
    try:
        migrate.upgrade(runtime.database)
        tokens = AccessTokens(open_rings(settings.auth, create=True), settings.auth.access_token_seconds)
        authenticator = AccountAuthenticator(
            runtime.database, tokens, PrincipalCache(settings.auth.principal_cache_seconds)
        )
        app.extensions["bench_authenticator"] = authenticator
        mount(app, HelloRoutes(), authenticator)
        yield app, _log_in(app)
    finally:
        runtime.close()


def _log_in(app: Flask) -> str:
    client = app.test_client()
    person = {"email": "ada@example.org", "password": "a lighthouse in the rain"}
    client.post("/api/v1/users", json=person)
    answer = client.post("/api/v1/auth/tokens", json=person)
    return str(answer.get_json()["access_token"])


def _admission() -> Function:
    admission: Admission[int] = Admission(AdmissionOptions(max_concurrent=100, max_queue=1000, max_wait_seconds=28.0))

    def pass_through() -> None:
        admission.offer(1, RequestClass.READ, 0.0)
        admission.release(RequestClass.READ)

    return pass_through


if __name__ == "__main__":
    sys.exit(main())
