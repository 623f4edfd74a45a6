"""The listener decides which application answers; what cannot be told is public."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from app.server.listeners import LISTENER_KEY, ListenerSplit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Connection:
    """A connection with a given local name."""

    def __init__(self, name: Any) -> None:
        self._name = name

    def getsockname(self) -> Any:
        if isinstance(self._name, OSError):
            raise self._name
        return self._name


def split(management_bind: str = "127.0.0.1:8001") -> ListenerSplit:
    def answering(word: bytes) -> Any:
        def application(_environ: WSGIEnvironment, _start: StartResponse) -> Iterable[bytes]:
            return [word]

        return application

    return ListenerSplit(
        answering(b"public"), answering(b"operations"), management_bind=management_bind, probe_paths={"/health"}
    )


def ask(application: ListenerSplit, environ: dict[str, Any] | None = None, *, path: str = "/metrics") -> bytes:
    return b"".join(application({"PATH_INFO": path, **(environ or {})}, lambda *_: lambda _data: None))


@pytest.mark.parametrize(
    ("bind", "name", "management"),
    [
        ("127.0.0.1:8001", ("127.0.0.1", 8001), True),
        ("127.0.0.1:8001", ("127.0.0.1", 8000), False),
        ("127.0.0.1:8001", ("127.0.0.2", 8001), False),
        ("localhost:8001", ("127.0.0.1", 8001), True),
        ("0.0.0.0:8001", ("10.0.0.7", 8001), True),
        ("0.0.0.0:8001", ("10.0.0.7", 8000), False),
        ("[::1]:8001", ("::1", 8001, 0, 0), True),
        ("[::1]:8001", ("::1", 8000, 0, 0), False),
        ("[::]:8001", ("fe80::1%eth0", 8001, 0, 2), True),
        ("10.0.0.7:8001", ("::ffff:10.0.0.7", 8001, 0, 0), True),
        ("unix:/run/management", "/run/management", True),
        ("unix:/run/management", b"/run/management", True),
        ("unix:/run/management", "/run/public", False),
        ("unix:/run/management", ("127.0.0.1", 8001), False),
        ("127.0.0.1:8001", "/run/public", False),
        ("127.0.0.1:8001", "", False),
    ],
)
def test_the_local_address_tells_the_listener(bind: str, name: Any, *, management: bool) -> None:
    answer = ask(split(bind), {"gunicorn.socket": Connection(name)})

    assert answer == (b"operations" if management else b"public")


def test_a_connection_that_is_gone_is_public() -> None:
    gone = Connection(OSError("bad file descriptor"))

    assert ask(split(), {"gunicorn.socket": gone}) == b"public"


def test_without_a_gunicorn_socket_the_environment_names_the_listener() -> None:
    assert ask(split()) == b"public"
    assert ask(split(), {LISTENER_KEY: "management"}) == b"operations"
    assert ask(split(), {LISTENER_KEY: "whatever"}) == b"public"


def test_with_a_gunicorn_socket_the_environment_names_nothing() -> None:
    connection = Connection(("127.0.0.1", 8000))

    assert ask(split(), {"gunicorn.socket": connection, LISTENER_KEY: "management"}) == b"public"


def test_a_client_cannot_name_the_listener() -> None:
    assert ask(split(), {"HTTP_PHOTO_API_LISTENER": "management", "HTTP_HOST": "127.0.0.1:8001"}) == b"public"


def test_probe_paths_are_answered_by_the_operations_application_on_either_listener() -> None:
    assert ask(split(), path="/health") == b"operations"
    assert ask(split(), path="/health/") == b"public"


def test_a_real_connection_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0] as connection:
            here, elsewhere = split(f"127.0.0.1:{port}"), split(f"127.0.0.1:{port - 1}")

            assert ask(here, {"gunicorn.socket": connection}) == b"operations"
            assert ask(elsewhere, {"gunicorn.socket": connection}) == b"public"
