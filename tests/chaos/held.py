"""What tests of requests in flight share: requests that stand still until the test lets them go, and the counts."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from http import HTTPStatus
from typing import Self

from app.ops.lifecycle import HostLife, HostReport
from app.ops.state import PAGE_NAME, StatePage
from app.server.state_folder import STATE_FOLDER
from tests.chaos.crashes import OpenUpload
from tests.integration.judging import head_of
from tests.server.running import stopped
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until

_UPLOAD_BYTES = 2_000_000
_STABLE_LOOKS = 3
CREATED = HTTPStatus.CREATED


def look(product: Product) -> HostReport:
    """Return what the page of a product says; nothing when it is lost."""
    page = StatePage(product.folder / STATE_FOLDER / PAGE_NAME, writable=False)
    return HostLife(page).look() or HostReport((), ())


def require_count(product: Product, expected: int) -> None:
    """Wait until page and metric say so, and go on saying so."""
    until(lambda: look(product).in_flight == expected, f"{expected} in flight on the page")
    name = "photo_api_in_flight_requests"
    until(lambda: product.metric(name) == expected, f"{expected} in flight by the metric")
    for _ in range(_STABLE_LOOKS):
        assert (look(product).in_flight, product.metric(name)) == (expected, expected)


class HeldUploads:
    """Uploads that have sent half of their body; each ends when the test lets it.

    Args:
        product: Where to.
        client: Whose.

    Attributes:
        acknowledged: The bytes of each photo that was answered with 201, by its id.
    """

    def __init__(self, product: Product, client: Client) -> None:
        self._product = product
        self._client = client
        self._opened = ExitStack()
        self._held: list[tuple[OpenUpload, bytes]] = []
        self.acknowledged: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def hold(self, count: int, *, worker: int | None = None) -> None:
        """Begin some more, by one worker if one is named: the others stand still meanwhile."""
        others = () if worker is None else tuple(self._product.worker_pids() - {worker})
        with stopped(*others):
            for _ in range(count):
                content = new_photo(_UPLOAD_BYTES)
                upload = self._opened.enter_context(OpenUpload(self._product, self._client, content))
                self._held.append((upload.send_half(), content))
                assert worker in {None, upload.worker()}

    def send_rest(self) -> None:
        """Send the rest of the oldest, and wait for no answer."""
        self._held[0][0].send_rest()

    def finish(self) -> int | None:
        """Send the rest of the oldest; return the status of its answer, None when its connection is cut."""
        upload, content = self._held.pop(0)
        with suppress(ConnectionError):
            upload.send_rest()
        answer = upload.answer()
        if answer is not None and answer.status == CREATED:
            self.acknowledged[answer.document["id"]] = content
        return None if answer is None else answer.status

    def answered(self) -> int | None:
        """Return the status of the answer to the oldest, whose body is not sent to its end; None when it is cut."""
        answer = self._held.pop(0)[0].answer()
        return None if answer is None else answer.status


def slow_reader(product: Product, client: Client, path: str) -> socket.socket:
    """Return a connection on which a download has begun that nobody reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", product.port))
    connection.sendall(head_of(client, path, "Connection: close", method="GET"))
    assert connection.recv(1024, socket.MSG_PEEK).startswith(b"HTTP/1.1 200")
    return connection


def read_to_the_end(connection: socket.socket, size_bytes: int) -> None:
    """Read an answer to its end."""
    received = 0
    while piece := connection.recv(1_000_000):
        received += len(piece)
    assert received > size_bytes
