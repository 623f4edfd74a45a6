"""Renditions over HTTP: the product as it is started, beside Thumbor and ipx, which keep nothing.

*Cold* asks for photos that nobody has asked for before, *again* for the same ones once more: the product has kept
them, the others make them anew. While the product is busy with AVIF, its health is asked; and of two hundred who ask
for one new rendition at once it is counted how many encodings that makes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from benchmarks.renditions.originals import write_originals
from benchmarks.stability.findings import Finding, finding
from tests.servers.base import ServerProcess, find_free_port
from tests.servers.product import RENDERING, Product
from tests.servers.stacks import embedded_stack

NAME: Final = "rivals"
"""What ``--only`` calls these lines."""

_ROOT: Final = Path(__file__).resolve().parents[2]
_THUMBOR: Final = _ROOT / ".venv-thumbor" / "bin" / "thumbor"
_IPX: Final = _ROOT / "var" / "bench" / "ipx" / "node_modules" / ".bin" / "ipx"
_WORKERS: Final = 2
_SIDE: Final = 320
_CROWD: Final = 200
_TIMEOUT_SECONDS: Final = 120
_THUMBOR_SETTINGS: Final = """
LOADER = 'thumbor.loaders.file_loader'
FILE_LOADER_ROOT_PATH = {folder!r}
STORAGE = 'thumbor.storages.no_storage'
ALLOW_UNSAFE_URL = True
"""
_SETTINGS: Final = {
    "PHOTO_API_PHOTOS__QUOTA_BYTES": str(2**40),
    **RENDERING,
    "PHOTO_API_RENDITIONS__EAGER_PRESETS": "thumbnail",
    "PHOTO_API_RENDITIONS__EAGER_FORMATS": "jpeg",
}


@dataclass(frozen=True)
class _Server:
    """A server and how it is asked for one photo in WebP.

    Attributes:
        urls: One for each photo.
        headers: With each request.
    """

    urls: Sequence[str]
    headers: dict[str, str]


def measure(*, is_quick: bool) -> Iterator[Finding]:
    """Yield the lines."""
    count, rounds = (16, 1) if is_quick else (40, 3)
    with tempfile.TemporaryDirectory() as name, ExitStack() as closing:
        folder = Path(name)
        files = _write_files(folder, count * rounds)
        product = Product(embedded_stack(folder), folder, workers=_WORKERS, settings=_SETTINGS)
        closing.callback(product.close)
        client = product.new_user()
        photos = [client.upload(file.read_bytes()) for file in files]
        identity = {"Authorization": f"Bearer {client.tokens['access_token']}"}
        _wait_until_made(product, len(photos))
        ours = _Server(
            [f"{product.url}/api/v1/photos/{photo['id']}/renditions/thumbnail?format=webp" for photo in photos],
            identity,
        )
        rivals = {
            "Thumbor": closing.enter_context(_thumbor(folder, files)),
            "ipx": closing.enter_context(_ipx(folder, files)),
        }
        yield from _beside(ours, rivals, count, rounds)
        yield _health_beside_avif(product, photos[:count], identity)
        yield _crowd(product, str(photos[0]["id"]), identity)


def _write_files(folder: Path, count: int) -> list[Path]:
    """Write photos of 12 megapixels that differ in what follows their end, which is no part of the picture."""
    (folder / "originals").mkdir()
    content = next(one for one in write_originals(folder) if one.name == "12 MP JPEG").path.read_bytes()
    files = [folder / "originals" / f"{number}.jpg" for number in range(count)]
    for file in files:
        file.write_bytes(content + os.urandom(16))
    return files


def _wait_until_made(product: Product, count: int) -> None:
    """Wait until what is made right after uploads is made, so that it does not run beside what is measured."""
    ends = time.monotonic() + _TIMEOUT_SECONDS
    while product.metric("photo_api_engine_job_duration_seconds_count", outcome="done") < count:
        assert time.monotonic() < ends, "uploads were not rendered in time"
        time.sleep(0.2)


def _beside(ours: _Server, rivals: dict[str, _Server], count: int, rounds: int) -> Iterator[Finding]:
    goals = {"Thumbor": 1.0, "ipx": 1.2}
    cold = {name: [_rate(server, count * turn, count) for turn in range(rounds)] for name, server in rivals.items()}
    our_cold = [_rate(ours, count * turn, count) for turn in range(rounds)]
    our_again = [_rate(ours, count * turn, count) for turn in range(rounds)]
    for name, rates in cold.items():
        yield finding("12 MP to 320 webp, cold", name, "photos/s", our_cold, rates, goal=goals[name], at_least=True)
        yield finding("12 MP to 320 webp, again", name, "photos/s", our_again, rates)


def _rate(server: _Server, first: int, count: int) -> float:
    """Return photos a second, asked for by four at once."""
    urls = server.urls[first : first + count]
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda url: _ask(url, server.headers), urls))
    return count / (time.monotonic() - started)


def _ask(url: str, headers: dict[str, str]) -> None:
    while True:
        answer = requests.get(url, headers=headers, timeout=_TIMEOUT_SECONDS)
        if answer.status_code != requests.codes.unavailable:
            break
        time.sleep(float(answer.headers["Retry-After"]))
    assert answer.headers["Content-Type"] in {"image/webp", "image/avif"}, answer.text


def _health_beside_avif(product: Product, photos: Sequence[dict[str, object]], identity: dict[str, str]) -> Finding:
    """Measure the slowest but one of a hundred answers of health, idle and while AVIF of 2048 pixels is made."""
    urls = [f"{product.url}/api/v1/photos/{photo['id']}/renditions/full?format=avif" for photo in photos]
    idle = _slowest_health(product.url)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_ask, url, identity) for url in urls]
        busy = _slowest_health(product.url)
        for each in asked:
            each.result()
    return finding("health while AVIF is made, p99", "the same, idle", "ms", [busy * 1e3], [idle * 1e3])


def _slowest_health(url: str) -> float:
    taken = []
    for _ in range(100):
        started = time.monotonic()
        assert requests.get(f"{url}/health", timeout=_TIMEOUT_SECONDS).ok
        taken.append(time.monotonic() - started)
        time.sleep(0.01)
    return statistics.quantiles(taken, n=100)[-1]


def _crowd(product: Product, photo_id: str, identity: dict[str, str]) -> Finding:
    """Count the encodings that two hundred at once make of one rendition that nobody has asked for."""

    def encodings() -> float:
        return product.metric("photo_api_engine_job_duration_seconds_count", outcome="done")

    url = f"{product.url}/api/v1/photos/{photo_id}/renditions/preview?format=jpeg"
    before = encodings()
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda _number: _ask_any(url, identity), range(_CROWD)))
    return finding("encodings for a crowd of 200", "one", "", [encodings() - before], [1.0], goal=1.0)


def _ask_any(url: str, headers: dict[str, str]) -> None:
    while requests.get(url, headers=headers, timeout=_TIMEOUT_SECONDS).status_code == requests.codes.unavailable:
        time.sleep(0.2)


@contextmanager
def _thumbor(folder: Path, files: Sequence[Path]) -> Iterator[_Server]:
    settings = folder / "thumbor.conf"
    settings.write_text(_THUMBOR_SETTINGS.format(folder=str(files[0].parent)), encoding="utf-8")
    port = find_free_port()
    command = [_THUMBOR, "--ip", "127.0.0.1", "--port", str(port), "--processes", str(_WORKERS), "--conf", settings]
    path = f"unsafe/fit-in/{_SIDE}x{_SIDE}/filters:format(webp)"
    with _running(command, port, folder / "thumbor.log"):
        yield _Server([f"http://127.0.0.1:{port}/{path}/{file.name}" for file in files], {})


@contextmanager
def _ipx(folder: Path, files: Sequence[Path]) -> Iterator[_Server]:
    port = find_free_port()
    command = [_IPX, "serve", "--dir", files[0].parent, "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, port, folder / "ipx.log"):
        yield _Server([f"http://127.0.0.1:{port}/w_{_SIDE},f_webp/{file.name}" for file in files], {})


@contextmanager
def _running(command: Sequence[object], port: int, log: Path) -> Iterator[None]:
    server = ServerProcess([str(word) for word in command], log=log)
    try:
        server.wait_until_listening(port)
        yield
    finally:
        server.stop()
