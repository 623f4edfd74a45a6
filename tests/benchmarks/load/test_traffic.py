"""What is sent, and that it goes to this machine alone and ends."""

from __future__ import annotations

import pytest

from benchmarks.load.traffic import (
    ForbiddenTargetError,
    Target,
    Traffic,
    UnboundedLoadError,
    at_once,
    mark,
    scattered,
    steady,
)

ELSEWHERE = [
    *("10.0.0.1", "192.168.1.1", "8.8.8.8", "128.0.0.1", "localhost", "::1", ""),
    "0.0.0.0",  # noqa: S104  # nothing is bound: it has to be refused
]


@pytest.mark.parametrize("host", ELSEWHERE)
def test_load_goes_nowhere_but_to_this_machine(host: str) -> None:
    with pytest.raises(ForbiddenTargetError, match=r"127\.0\.0\.0/8"):
        Target(host, 80)


def test_every_address_of_this_machine_s_own_network_is_allowed() -> None:
    assert Target("127.0.0.1", 80).host == "127.0.0.1"
    assert Target("127.200.3.4", 80).host == "127.200.3.4"


def test_load_is_bounded_in_count_and_time() -> None:
    with pytest.raises(UnboundedLoadError, match="1000001 in 0 s"):
        Traffic("x", "/", at_once(1_000_001))
    with pytest.raises(UnboundedLoadError, match="901 s"):
        Traffic("x", "/", at_once(1, start=901))


def test_steady_instants_have_equal_distances() -> None:
    assert list(steady(4, 1, start=2)) == [2.0, 2.25, 2.5, 2.75]


def test_scattered_instants_are_as_many_as_wanted_and_the_same_every_time() -> None:
    instants = scattered(1000, 10, start=5, seed=3)

    assert instants == scattered(1000, 10, start=5, seed=3)
    assert instants != scattered(1000, 10, start=5, seed=4)
    assert list(instants) == sorted(instants)
    assert 5 <= instants[0] < instants[-1] < 15
    assert 9_500 < len(instants) < 10_500


def test_a_message_is_a_whole_request() -> None:
    upload = Traffic("x", "/photos?a=b", (), method="POST", headers={"Content-Type": "image/jpeg"}, body=b"abc")

    assert upload.message() == (
        b"POST /photos?a=b HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 3\r\n\r\nabc"
    )


def test_a_unique_body_has_room_for_its_mark() -> None:
    upload = Traffic("x", "/", (), method="POST", body=b"abc", is_unique=True, keeps_connections=False)

    assert f"Content-Length: {3 + len(mark(1, 2))}".encode() in upload.message()
    assert b"Connection: close\r\n" in upload.message()
    assert mark(1, 2) != mark(1, 3)
    assert mark(1, 2) != mark(2, 2)
