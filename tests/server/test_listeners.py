"""Each socket is one listener's, told by its address; what is there is taken over, what is missing is opened."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.server.listeners import ListenerAddress, Listeners, close_listeners, handed_on, open_listeners
from tests.servers.base import find_free_port


@pytest.mark.parametrize(
    ("bind", "name", "matches"),
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
def test_the_local_address_tells_the_listener(bind: str, name: Any, *, matches: bool) -> None:
    assert ListenerAddress(bind).matches(name) is matches


@pytest.fixture
def opened() -> Iterator[list[Listeners]]:
    """Listeners that are closed in the end."""
    kept: list[Listeners] = []
    yield kept
    for listeners in kept:
        close_listeners(listeners.all, unlink=False)


def names(listeners: tuple[Any, ...]) -> list[Any]:
    return [listener.getsockname() for listener in listeners]


def test_a_unix_socket_of_operators_is_for_the_servers_user_alone(tmp_path: Path, opened: list[Listeners]) -> None:
    public, management = tmp_path / "public", tmp_path / "management"

    opened.append(open_listeners(f"unix:{public}", f"unix:{management}", logging.getLogger(), {}, replaces=False))

    assert management.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o066 == 0o066


def listening(address: tuple[str, int]) -> int:
    """Return the descriptor of a socket that somebody else has opened."""
    with socket.create_server(address) as server:
        return os.dup(server.fileno())


LOG = logging.getLogger(__name__)


def test_with_nothing_there_both_are_opened(opened: list[Listeners]) -> None:
    public, management = find_free_port(), find_free_port()

    listeners = open_listeners(f"127.0.0.1:{public}", f"127.0.0.1:{management}", LOG, {}, replaces=False)
    opened.append(listeners)

    assert names(listeners.public) == [("127.0.0.1", public)]
    assert names(listeners.management) == [("127.0.0.1", management)]
    assert not listeners.is_activated
    assert handed_on(listeners) == {"GUNICORN_FD": ",".join(str(each.fileno()) for each in listeners.all)}


@pytest.mark.parametrize("order", ["public first", "management first"])
def test_what_a_server_hands_on_is_sorted_by_address_whatever_its_order(order: str, opened: list[Listeners]) -> None:
    public, management = ("127.0.0.1", find_free_port()), ("127.0.0.1", find_free_port())
    given = [listening(public), listening(management)]
    if order == "management first":
        given.reverse()
    environ = {"GUNICORN_FD": ",".join(map(str, given)), "PHOTO_SYSTEMD_SOCKETS": "1"}

    listeners = open_listeners(f"127.0.0.1:{public[1]}", f"127.0.0.1:{management[1]}", LOG, environ, replaces=True)
    opened.append(listeners)

    assert (names(listeners.public), names(listeners.management)) == ([public], [management])
    assert listeners.is_activated
    assert environ == {}
    assert handed_on(listeners)["PHOTO_SYSTEMD_SOCKETS"] == "1"


@pytest.mark.parametrize("given", ["public", "management"])
def test_the_one_that_is_not_handed_on_is_opened(given: str, opened: list[Listeners]) -> None:
    places = {"public": ("127.0.0.1", find_free_port()), "management": ("127.0.0.1", find_free_port())}
    environ = {"GUNICORN_FD": str(listening(places[given]))}

    public, management = (f"127.0.0.1:{port}" for _, port in places.values())
    listeners = open_listeners(public, management, LOG, environ, replaces=True)
    opened.append(listeners)

    assert names(listeners.public) == [places["public"]]
    assert names(listeners.management) == [places["management"]]


def test_descriptors_in_the_environment_of_a_server_that_replaces_none_are_somebody_elses(
    opened: list[Listeners],
) -> None:
    other = listening(("127.0.0.1", find_free_port()))
    public, management = find_free_port(), find_free_port()

    listeners = open_listeners(
        f"127.0.0.1:{public}", f"127.0.0.1:{management}", LOG, {"GUNICORN_FD": str(other)}, replaces=False
    )
    opened.append(listeners)

    assert [name[1] for name in names(listeners.all)] == [public, management]
    os.close(other)


@pytest.mark.parametrize("unlink", [True, False])
def test_the_file_of_a_unix_socket_goes_when_nobody_else_listens_on_it(tmp_path: Path, *, unlink: bool) -> None:
    public, management = tmp_path / "public", tmp_path / "management"
    listeners = open_listeners(f"unix:{public}", f"unix:{management}", LOG, {}, replaces=False)

    close_listeners(listeners.all, unlink=unlink)
    close_listeners(listeners.all, unlink=unlink)

    assert (public.exists(), management.exists()) == (not unlink, not unlink)
