"""A steady load of people who look at photos: lists, metadata, links, what the links lead to, and originals.

Each reader goes through the same round again and again, every request on a connection of its own. What it got is
noted under the name of the stage at which the round began; a stage is over when no round of it runs any more.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import requests

from tests.drills.traffic import retry_after_of
from tests.servers.client import Client
from tests.servers.product import until

Kind: TypeAlias = Literal["list", "metadata", "links", "followed", "original"]

_TIMEOUT_SECONDS = 30
_PAUSE_SECONDS = 0.05
_STOP_SECONDS = 60.0


class Seen(NamedTuple):
    """What one request came to.

    Attributes:
        stage: At which its round began.
        kind: What was asked for.
        status: Of HTTP; 0 where no answer came.
        is_good: 200 with what it should be, byte for byte where it is a photo.
        via: By which way the links lead, or the one that was followed; None for others.
        seconds: Until the last byte.
        retry_after: The header's seconds; None without one.
    """

    stage: str
    kind: Kind
    status: int
    is_good: bool
    via: str | None
    seconds: float
    retry_after: int | None

    @property
    def is_refusal(self) -> bool:
        """Whether it is told to come back later, and when."""
        return self.status == requests.codes.unavailable and bool(self.retry_after)


class Readers:
    """People who read. A context manager; it begins at once.

    Args:
        client: Whose photos they are; logged in.
        photos: Id and bytes of each.
        count: How many read at the same time.
    """

    def __init__(self, client: Client, photos: Sequence[tuple[str, bytes]], count: int) -> None:
        self._client = client
        self._photos = photos
        self._stage = ""
        self._stages_of_readers = [""] * count
        self._seen: list[Seen] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def begin(self, stage: str) -> None:
        """Begin a stage, and wait until everybody is at it."""
        self._stage = stage
        until(lambda: set(self._stages_of_readers) == {stage}, f"all readers to come to: {stage}", _STOP_SECONDS)

    def seen(self, stage: str, *kinds: Kind) -> list[Seen]:
        """Return what was seen at a stage so far, of some kinds or of all."""
        return [one for one in list(self._seen) if one.stage == stage and (not kinds or one.kind in kinds)]

    def last_ways(self, count: int) -> set[str | None]:
        """Return by which ways the last links lead, of this stage; empty while there are fewer than so many."""
        links = self.seen(self._stage, "links")[-count:]
        return {one.via for one in links} if len(links) == count else set()

    def _read(self, number: int) -> None:
        for photo_id, content in itertools.islice(itertools.cycle(self._photos), number, None):
            if self._ended.is_set():
                return
            self._stages_of_readers[number] = stage = self._stage
            self._go_round(stage, photo_id, content)
            self._ended.wait(_PAUSE_SECONDS)  # the pace of a person, not a wait for something

    def _go_round(self, stage: str, photo_id: str, content: bytes) -> None:
        path = f"/api/v1/photos/{photo_id}"
        self._ask(stage, "list", "/api/v1/photos")
        self._ask(stage, "metadata", path)
        link = self._ask(stage, "links", f"{path}/links")
        if link is not None:
            self._ask(stage, "followed", link["url"], content, via=link["via"])
        self._ask(stage, "original", f"{path}/original", content)

    def _ask(
        self, stage: str, kind: Kind, url: str, content: bytes | None = None, *, via: str | None = None
    ) -> dict[str, Any] | None:
        """Ask, note what came, and return the link that came."""
        headers = {} if kind == "followed" else {"Authorization": f"Bearer {self._client.tokens['access_token']}"}
        began = time.monotonic()
        answer = self._get(self._client.url + url if url.startswith("/") else url, headers)
        seconds = time.monotonic() - began
        if answer is None:
            self._seen.append(Seen(stage, kind, 0, False, via, seconds, None))  # a tuple's member
            return None
        is_good = answer.status_code == requests.codes.ok and content in {None, answer.content}
        link: dict[str, Any] | None = answer.json()["links"]["original"] if kind == "links" and is_good else None
        way = via if link is None else str(link["via"])
        self._seen.append(Seen(stage, kind, answer.status_code, is_good, way, seconds, retry_after_of(answer)))
        return link

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response | None:
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(url, headers=headers, timeout=_TIMEOUT_SECONDS)
            except requests.RequestException:
                return None
