"""What clients of a drill send: real photos up and down, one by one or many at once, each on a connection of its own.

New connections, because a kept one always leads to the same worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import requests

from app.photos.small_originals import SMALL_BYTES
from tests.servers.client import Client, new_photo

_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What a client got.

    Attributes:
        status: The HTTP status.
        seconds: Until the last byte.
        retry_after: The header's seconds; None without one.
        sent_back: Whether the photo came back byte for byte; uploads have nothing to come back.
        photo: The document of an upload.
    """

    status: int
    seconds: float
    retry_after: int | None = None
    sent_back: bool = False
    photo: dict[str, Any] | None = None


PHOTO_BYTES = SMALL_BYTES + 1
"""So large that each download reads the store: what is smaller is read once for a crowd."""


class Traffic:
    """The requests of one user. Thread-safe once the first photo is up.

    Args:
        client: Logged in.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._photos: list[tuple[dict[str, Any], bytes]] = []

    @property
    def photo_path(self) -> str:
        """The path of a photo that is there."""
        return f"/api/v1/photos/{self._photos[0][0]['id']}"

    def upload(self) -> Answer:
        """Upload a photo that nobody has seen before."""
        content = new_photo(PHOTO_BYTES)
        answer, seconds = self._send(
            "POST", "/api/v1/photos", data=content, headers={**self._headers(), "Content-Type": "image/jpeg"}
        )
        if answer.status_code != 201:
            return Answer(answer.status_code, seconds, retry_after_of(answer))
        self._photos.append((answer.json(), content))
        return Answer(201, seconds, photo=answer.json())

    def download(self, photo: dict[str, Any] | None = None) -> Answer:
        """Download a photo, the first one unless another is given."""
        wanted = self._photos[0][0]["id"] if photo is None else photo["id"]
        content = next(content for known, content in self._photos if known["id"] == wanted)
        answer, seconds = self._send("GET", f"/api/v1/photos/{wanted}/original", headers=self._headers())
        return Answer(answer.status_code, seconds, retry_after_of(answer), sent_back=answer.content == content)

    def look(self, path: str) -> int:
        """Return the status of anything else."""
        answer, _ = self._send("GET", path, headers=self._headers())
        return answer.status_code

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._client.tokens['access_token']}"}

    def _send(self, method: str, path: str, **options: Any) -> tuple[requests.Response, float]:
        with requests.Session() as session:
            session.trust_env = False
            began = time.monotonic()
            answer = session.request(method, self._client.url + path, timeout=_TIMEOUT_SECONDS, **options)
            return answer, time.monotonic() - began


class Crowd:
    """Clients that send at the same time. A context manager: at its end all of them have their answers.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = ThreadPoolExecutor(size)

    def start(self, call: Callable[[], Answer], count: int) -> list[Future[Answer]]:
        """Start a call so many times, as many at once as the crowd has heads."""
        return [self._pool.submit(call) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def milliseconds(answers: list[Answer], share: float) -> float:
    """Return the milliseconds that a share of the answers, though not the slowest one, did not exceed."""
    ordered = sorted(answer.seconds for answer in answers)
    return 1000 * ordered[max(0, min(len(ordered) - 2, int(len(ordered) * share)))]


def retry_after_of(answer: requests.Response) -> int | None:
    """Return the seconds that ``Retry-After`` says; None without one."""
    said = answer.headers.get("Retry-After")
    return None if said is None else int(said)
