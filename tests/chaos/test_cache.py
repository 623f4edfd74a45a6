"""Rows 30 to 32 on the real product: two workers, Redis dead, slow or lying, each with its control."""

from __future__ import annotations

import secrets
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from app.cache.redis_tier import CHANNEL
from app.settings import CONFIG_FOLDER
from tests.servers.client import Client
from tests.servers.product import Product, until
from tests.servers.redis import RedisServer
from tests.servers.stacks import Stack, embedded_stack

ROUNDS = 150
AT_ONCE = 30
"""No more than one worker takes: even when the other one stands still, nobody is refused."""

TIMEOUT_SECONDS = 0.05
WAIT_SECONDS = 5.0
"""From the pipeline of Redis in ``config/stability.toml``."""

REQUESTS = 40
JWT_SECRET = secrets.token_urlsafe(32)
NOTHING_BELIEVED = {"PHOTO_API_CACHE__MEMORY_SECONDS": "0"}
"""So that each request asks Redis."""

_BREAKER_THAT_STAYS_CLOSED = (
    (CONFIG_FOLDER / "stability.toml")
    .read_text(encoding="utf-8")
    .replace('[pipelines.redis]\npolicies = ["circuit_breaker"]', "[pipelines.redis]\npolicies = []")
    .replace("[pipelines.redis.circuit_breaker]", "[not_used]")
)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with closing(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    redis_server.client.flushall()
    yield redis_server
    redis_server.thaw()
    redis_server.client.client_unpause()


def settings_of(server: RedisServer, **more: str) -> dict[str, str]:
    # One key for all: a token of one instance is good at the other.
    return {"PHOTO_API_REDIS__URL": server.url, "PHOTO_API_AUTH__JWT_SECRET": JWT_SECRET, **more}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return embedded_stack(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def product(stack: Stack, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    (stack.objects_folder or Path()).parent.mkdir(parents=True, exist_ok=True)
    with closing(Product(stack, tmp_path_factory.mktemp("one"), settings=settings_of(redis_server))) as made:
        yield made


@pytest.fixture
def user(product: Product) -> Client:
    return product.new_user()


def headers_of(user: Client) -> dict[str, str]:
    return {"Authorization": str(user.http.headers["Authorization"])}


def get_anew(url: str, headers: dict[str, str]) -> requests.Response:
    """Ask on a new connection: any worker of the host may take it."""
    return requests.get(url, headers={**headers, "Connection": "close"}, timeout=20)


def rounds_of_writing_and_reading(writer: str, reader: str, path: str, headers: dict[str, str]) -> tuple[int, int]:
    """Write and read in turn; return how many answers were old, and how many conditions lied."""
    old = lies = 0
    for number in range(ROUNDS):
        before = get_anew(reader + path, headers)
        title = f"round {number}"
        written = requests.patch(
            writer + path, json={"title": title}, headers={**headers, "Connection": "close"}, timeout=20
        )
        assert written.status_code == 200
        condition = {"If-None-Match": before.headers["ETag"]}
        answers = [get_anew(reader + path, {**headers, **condition}) for _ in range(3)]
        old += sum(answer.status_code == 200 and answer.json()["title"] != title for answer in answers)
        lies += sum(answer.status_code == 304 for answer in answers)
        lies += sum(answer.headers["ETag"] != written.headers["ETag"] for answer in answers)
    return old, lies


def test_no_worker_answers_with_what_another_has_changed(product: Product, user: Client) -> None:
    path = user.upload()["links"]["self"]

    assert rounds_of_writing_and_reading(product.url, product.url, path, headers_of(user)) == (0, 0)
    assert product.metric("photo_api_cache_requests_total", tier="memory", result="hit") > 0


def test_without_redis_it_is_so_as_well(tmp_path: Path) -> None:
    with closing(Product(embedded_stack(tmp_path), tmp_path)) as product:
        user = product.new_user()
        path = user.upload()["links"]["self"]

        assert rounds_of_writing_and_reading(product.url, product.url, path, headers_of(user)) == (0, 0)


def test_another_instance_hears_of_a_change_within_a_moment(
    stack: Stack, product: Product, user: Client, server: RedisServer, tmp_path: Path
) -> None:
    # One database and one Redis, two folders of state: two hosts.
    with closing(Product(stack, tmp_path, settings=settings_of(server))) as other:
        path, headers = user.upload()["links"]["self"], headers_of(user)
        until(lambda: server.listeners(CHANNEL) >= 4, "all four to listen")
        late = []
        for number in range(30):
            for _ in range(4):
                get_anew(other.url + path, headers)
            title = f"round {number}"
            assert user.patch(path, json={"title": title}).status_code == 200
            began = time.monotonic()
            until(lambda: get_anew(other.url + path, headers).json()["title"] == title, "the change")  # noqa: B023  # asked at once
            late.append(time.monotonic() - began)

    # Who hears of nothing goes on for a minute; what is measured here are a busy machine's answers, too.
    assert statistics.median(late) < 2.0
    assert max(late) < 15.0


def place_of(server: RedisServer, owner: Client, photo: dict[str, Any]) -> bytes | str:
    """Return where Redis keeps a photo, once it does: a call that took too long has put nothing there."""
    found: list[bytes | str] = []

    def is_kept() -> bool:
        owner.get(photo["links"]["self"])
        found[:] = server.client.keys(f"photo-api:1:photo:*:{photo['id'].replace('-', '')}")
        return bool(found)

    until(is_kept, "the photo to be in Redis")
    (place,) = found
    return place


def seconds_of(url: str, headers: dict[str, str], amount: int) -> list[float]:
    taken = []
    with requests.Session() as session:
        for _ in range(amount):
            began = time.monotonic()
            assert session.get(url, headers=headers, timeout=20).status_code == 200
            taken.append(time.monotonic() - began)
    return taken


@pytest.mark.parametrize("how", ["paused", "frozen", "dead"])
def test_row_30_a_redis_that_does_not_answer_costs_a_few_time_outs_and_then_nothing(
    stack: Stack, server: RedisServer, tmp_path: Path, how: str
) -> None:
    settings = settings_of(server, **NOTHING_BELIEVED)
    with closing(Product(stack, tmp_path, workers=1, settings=settings)) as product:
        user = product.new_user()
        url, headers = product.url + user.upload()["links"]["self"], headers_of(user)
        usual = statistics.median(seconds_of(url, headers, 10))
        before = calls_of_redis(product)
        break_it(server, how)

        began = time.monotonic()
        during = sorted(seconds_of(url, headers, REQUESTS))
        trials = 1 + (time.monotonic() - began) // WAIT_SECONDS
        until(lambda: calls_of_redis(product).total() - before.total() >= REQUESTS, "the calls to be counted")
        failed = calls_of_redis(product)["failed"] - before["failed"]
        until(
            lambda: product.metric("photo_api_cache_requests_total", tier="redis", result="error"),
            "the errors to be counted",
        )
        health = requests.get(f"{product.url}/health", timeout=10).json()
        mend(server, how)

    assert failed <= 5 + trials  # what its breaker needs, and a trial call each five seconds
    assert during[REQUESTS // 4] < usual + TIMEOUT_SECONDS
    assert health["status"] in {"pass", "warn"}


def test_row_30_without_the_breaker_each_request_pays(stack: Stack, server: RedisServer, tmp_path: Path) -> None:
    pipelines = tmp_path / "stability.toml"
    pipelines.write_text(_BREAKER_THAT_STAYS_CLOSED.split("[not_used]")[0], encoding="utf-8")
    settings = settings_of(server, PHOTO_API_STABILITY__PIPELINES_FILE=str(pipelines), **NOTHING_BELIEVED)
    with closing(Product(stack, tmp_path, workers=1, settings=settings)) as product:
        user = product.new_user()
        url, headers = product.url + user.upload()["links"]["self"], headers_of(user)
        seconds_of(url, headers, 10)
        server.freeze()

        during = seconds_of(url, headers, 20)

        server.thaw()
    assert min(during) >= TIMEOUT_SECONDS


def calls_of_redis(product: Product) -> Counter[str]:
    """Return how many calls its breaker has seen, by what became of them; a worker tells once a second."""
    counted = Counter[str]()
    for name, labels, value in product.metrics():
        if name == "photo_api_circuit_breaker_calls_total" and labels["name"] == "redis":
            counted[labels["kind"]] += int(value)
    return counted


def break_it(server: RedisServer, how: str) -> None:
    if how == "paused":
        server.pause(15.0)
    elif how == "frozen":
        server.freeze()
    else:
        server.kill()


def mend(server: RedisServer, how: str) -> None:
    if how == "paused":
        server.client.client_unpause()
    elif how == "frozen":
        server.thaw()
    else:
        server.start()


def test_row_30_poison_is_never_served(stack: Stack, server: RedisServer, tmp_path: Path) -> None:
    settings = settings_of(server, **NOTHING_BELIEVED)
    with closing(Product(stack, tmp_path, workers=1, settings=settings)) as product:
        user, thief = product.new_user(), product.new_user()
        mine, theirs = user.upload(title="mine"), thief.upload(title="theirs")
        my_place, their_place = place_of(server, user, mine), place_of(server, thief, theirs)
        my_entry = server.client.get(my_place)
        assert isinstance(my_entry, bytes)
        poison = [b"", b"nonsense", b"[" * 60_000, b"x" * 5_000_000, my_entry]
        answers: list[Any] = []

        def is_counted() -> bool:
            for value in poison:
                server.client.set(their_place, value, px=60_000)
                answers.append(thief.get(theirs["links"]["self"]).json()["title"])
            return product.metric("photo_api_cache_requests_total", tier="redis", result="error") >= 4

        until(is_counted, "the poison to be counted")

    assert set(answers) == {"theirs"}


def test_row_31_without_redis_login_delays_revocation_and_operators_routes_hold(
    stack: Stack, server: RedisServer, tmp_path: Path
) -> None:
    # Nothing of these is in Redis: they are in the database, and an operator's route asks it.
    settings = settings_of(server, PHOTO_API_AUTH__PRINCIPAL_CACHE_SECONDS="0")
    with closing(Product(stack, tmp_path, settings=settings)) as product:
        user, other = product.new_user(), product.new_user()
        server.kill()
        guess = {"email": other.email, "password": "a wrong lighthouse"}
        wrong = [other.post("/api/v1/auth/tokens", json=guess).status_code for _ in range(12)]
        headers = headers_of(user)
        ended = user.delete("/api/v1/auth/tokens", json={"refresh_token": user.tokens["refresh_token"]})
        revoked = {get_anew(f"{product.url}/api/v1/photos", headers).status_code for _ in range(10)}
        operators = requests.get(
            f"{product.management_url}/api/v1/admin/breakers", headers=headers_of(other), timeout=20
        )
        server.start()

    assert ended.ok
    assert 429 in wrong
    assert revoked == {401}
    assert operators.status_code == 403


def test_row_32_two_hundred_callers_of_a_cold_photo_ask_once_per_process(tmp_path: Path) -> None:
    # A product of its own, as what others did a moment ago may be counted a moment later; and without Redis, which
    # may stand still for a moment: then a worker no longer relies on what it remembers.
    with closing(Product(embedded_stack(tmp_path), tmp_path)) as product:
        user = product.new_user()
        path, headers = user.upload()["links"]["self"], headers_of(user)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            statuses = list(pool.map(lambda _: get_anew(product.url + path, headers).status_code, range(200)))
        until(
            lambda: product.metric("photo_api_cache_requests_total", tier="memory") >= 200,
            "the look-ups to be counted",
        )
        asked = product.metric("photo_api_cache_requests_total", tier="source")

    assert statuses == [200] * 200
    assert asked <= product.workers
