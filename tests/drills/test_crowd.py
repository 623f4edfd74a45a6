"""What the clients of a drill count as lost, and what as refused."""

from __future__ import annotations

from benchmarks.load.traffic import Traffic, at_once
from tests.benchmarks.load.scripted import answer, answer_and_close, scripted
from tests.drills.crowd import Clients
from tests.servers.product import until

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SCRIPT = {
    b"/good": answer(GOOD),
    b"/refused": answer(GOOD.replace(b"200 OK", b"503 No\r\nRetry-After: 1")),
    b"/bare": answer(GOOD.replace(b"200 OK", b"503 No")),
    b"/cut": answer_and_close(b""),
}


def test_only_who_is_told_to_come_again_is_not_lost() -> None:
    with scripted(SCRIPT) as server:
        traffic = [Traffic(path.decode(), path.decode(), at_once(2)) for path in SCRIPT]
        with Clients(server.target, traffic) as clients:
            until(lambda: clients.ended() == 8, "every request to end")

    assert clients.lost() == {"/bare": 2, "/cut": 2}
    assert clients.refused() == 2
    assert clients.good("/good") == 2
    assert clients.under_way("/good") == 0
    assert {loss.reason for name, loss in clients.losses() if name == "/cut"} == {"closed"}
