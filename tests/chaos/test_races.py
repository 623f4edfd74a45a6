"""Many at once: the same bytes, the same key, the last of the quota, a delete beside reads and uploads."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import requests

from tests.chaos.invariants import (
    Baseline,
    require_again,
    require_consistency,
    require_fair_errors,
    require_whole,
)
from tests.integration.judging import assert_problem, set_quota, stored
from tests.servers.client import Client, new_photo
from tests.servers.product import Product

T = TypeVar("T")


def at_once(client: Client, count: int, act: Callable[[Client, int], T]) -> list[T]:
    """Let as many clients act at the same moment, each on a connection of its own."""
    start = threading.Barrier(count)

    def run(index: int) -> T:
        twin = client.twin()
        twin.get("/api/v1/users/me")  # the connection stands before the start
        start.wait(60)
        try:
            return act(twin, index)
        finally:
            twin.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def judged(client: Client, content: bytes, key: str | None = None) -> requests.Response:
    """Return what an upload comes to; one that a busy server has not looked at is sent again, as clients do."""
    for _ in range(10):
        answer = client.send(content, key=key)
        if answer.status_code != 503:
            break
        time.sleep(int(answer.headers["Retry-After"]))
    return answer


def test_row_48_the_same_bytes_at_once_are_stored_once(product: Product, user: Client) -> None:
    content = new_photo(1_500_000)
    baseline, dedups = Baseline(product), product.metric("photo_api_dedup_total")

    answers = at_once(user, 20, lambda twin, _: judged(twin, content))

    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 19}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.json()["status"] for answer in answers if answer.status_code == 200} == {"duplicate"}
    assert product.metric("photo_api_dedup_total") == dedups + 19
    assert user.used_bytes() == len(content)
    require_consistency(product, user)
    assert stored(product, user) == (1, 1)
    require_whole(user, {answers[0].json()["id"]: content})
    baseline.require(slack=60)


def test_row_49_the_same_key_at_once_is_done_once(product: Product, user: Client) -> None:
    content, key = new_photo(1_500_000), secrets.token_hex(8)
    baseline = Baseline(product)

    answers = at_once(user, 20, lambda twin, _: judged(twin, content, key))
    later = user.send(content, key=key)

    require_fair_errors(answers)
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {201, 409}
    done = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.text for answer in done}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in done) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert_problem(answer, 409, "request-in-progress")
            assert int(answer.headers["Retry-After"]) >= 1
    assert (later.status_code, later.json()) == (201, done[0].json())
    require_consistency(product, user)
    assert stored(product, user) == (1, 1)
    baseline.require(slack=60)


def test_row_50_the_last_of_the_quota_is_given_once(product: Product, user: Client) -> None:
    contents = [new_photo() for _ in range(50)]
    set_quota(product, user, len(contents[0]))
    baseline = Baseline(product)

    answers = at_once(user, 50, lambda twin, index: judged(twin, contents[index]))

    assert Counter(answer.status_code for answer in answers) == {201: 1, 507: 49}
    for answer in answers:
        if answer.status_code == 507:
            assert_problem(answer, 507, "quota-exceeded")
    require_consistency(product, user)
    assert user.used_bytes() == len(contents[0])
    assert stored(product, user) == (1, 1)
    baseline.require(slack=60)


def test_row_51_a_delete_beside_reads_and_uploads_leaves_whole_or_nothing(product: Product, user: Client) -> None:
    baseline = Baseline(product)
    for _ in range(4):
        content = new_photo(400_000)
        photo = user.upload(content)
        url = photo["links"]["self"]

        def act(twin: Client, index: int, url: str = url, content: bytes = content) -> requests.Response:
            if index == 0:
                return twin.delete(url, params={"permanent": "true"})
            if index in {1, 2}:
                return judged(twin, content)
            return twin.get(f"{url}/original")

        deleted, *others = at_once(user, 12, act)

        assert deleted.status_code == 204
        require_fair_errors(others)
        for answer in others[2:]:
            # A read that was under way when the object went has lost its race with the delete: 404, or all bytes.
            assert answer.status_code in {200, 404}, answer.text
            assert answer.status_code == 404 or answer.content == content
        assert all(answer.status_code in {200, 201} for answer in others[:2])
        require_consistency(product, user)
        require_whole(user, {})
        require_again(user, content)
    baseline.require(slack=60)
