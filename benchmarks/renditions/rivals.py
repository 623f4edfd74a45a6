"""Renditions over HTTP: the product as it is started, beside Thumbor and ipx, which keep nothing.

Each is asked for photos that nobody has asked it for before, by four at once, with the same quality: photos a second,
and for all renditions of an original together processor time a photo and memory at the peak. *Again* asks for the
same ones once more: the product has kept them, the others make them anew. What a rival cannot read has no line. While
the product is busy with AVIF, its health is asked; and of two hundred who ask for one new rendition at once it is
counted how many encodings that makes.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import requests

from app.images.presets import Format, Quality
from benchmarks.processes import PeakMemory, family, processor_seconds
from benchmarks.renditions.engine_cost import QUICK, SIDES
from benchmarks.renditions.originals import Original, write_originals
from benchmarks.report import say
from benchmarks.stability.findings import Finding, finding
from tests.fakes.images import box
from tests.servers.base import ServerProcess, find_free_port
from tests.servers.client import Client
from tests.servers.product import RENDERING, Product
from tests.servers.stacks import embedded_stack

NAME: Final = "rivals"
"""What ``--only`` calls these lines."""

_ROOT: Final = Path(__file__).resolve().parents[2]
_THUMBOR: Final = _ROOT / ".venv-thumbor" / "bin" / "thumbor"
_IPX: Final = _ROOT / "var" / "bench" / "ipx" / "node_modules" / ".bin" / "ipx"
_WORKERS: Final = 2
_AT_ONCE: Final = 4
_CROWD: Final = 200
_TIMEOUT_SECONDS: Final = 120
_GOALS: Final = {"Thumbor": 1.0, "ipx": 1.2}
_PRESETS: Final = dict(zip(SIDES, ("thumbnail", "preview", "full"), strict=True))
_MILLISECONDS: Final = 1e3
_MEGABYTE: Final = 1e6
_THUMBOR_SETTINGS: Final = """
LOADER = 'thumbor.loaders.file_loader'
FILE_LOADER_ROOT_PATH = {folder!r}
STORAGE = 'thumbor.storages.no_storage'
ALLOW_UNSAFE_URL = True
"""
_SETTINGS: Final = {
    "PHOTO_API_PHOTOS__QUOTA_BYTES": str(2**40),
    "PHOTO_API_UPLOADS__MAX_BYTES": str(2**28),
    "PHOTO_API_AUTH__ACCESS_TOKEN_SECONDS": "3600",
    **RENDERING,
    "PHOTO_API_RENDITIONS__EAGER_FORMATS": "none",
    "PHOTO_API_RENDITIONS__JOBS_PER_PROCESS": "10000",  # a process that ends takes its figures with it
}

_Url = Callable[[int, int, Format], str]


@dataclass(frozen=True)
class _Server:
    """A server and how it is asked for renditions.

    Attributes:
        pid: Of its master.
        url: Returns the address of one: which copy of the original, which side in pixels, which format.
        headers: With each request.
    """

    pid: int
    url: _Url
    headers: dict[str, str]


class _Effort(NamedTuple):
    """What is asked for: sides and formats, of so many photos in each round, in so many rounds."""

    wanted: Sequence[tuple[int, Format]]
    photos: int
    rounds: int


class _Bill(NamedTuple):
    """What a round took: wall time and processor time in seconds."""

    seconds: float
    processor_seconds: float


def measure(*, is_quick: bool) -> Iterator[Finding]:
    """Yield the lines."""
    effort = _Effort(QUICK, 24, 1) if is_quick else _Effort(list(product(SIDES, Format)), 8, 2)
    with tempfile.TemporaryDirectory() as name, ExitStack() as closing:
        folder = Path(name)
        originals = write_originals(folder)
        server = Product(embedded_stack(folder), folder, workers=_WORKERS, settings=_SETTINGS)
        closing.callback(server.close)
        client = server.new_user()
        copies = folder / "copies"
        copies.mkdir()
        thumbor = closing.enter_context(_thumbor(folder, copies))
        ipx = closing.enter_context(_ipx(folder, copies))
        for original in originals[:1] if is_quick else originals:
            files = _copy(original, copies, effort.photos * effort.rounds)
            rivals = {"Thumbor": thumbor(files), "ipx": ipx(files)}
            yield from _beside(original.name, _ours(server, client, files), rivals, effort)
            for file in files:
                file.unlink()
        ours = _ours(server, client, _copy(originals[0], copies, _AT_ONCE * 2))
        yield _crowd(server, ours)
        yield _health_beside_avif(server, ours)


def _copy(original: Original, folder: Path, count: int) -> list[Path]:
    """Write files that differ in what follows the end of their picture."""
    content = original.path.read_bytes()
    files = [folder / f"{number}{original.path.suffix}" for number in range(count)]
    for file in files:
        mark = os.urandom(16)
        file.write_bytes(content + (box(b"free", mark) if original.content_type == "image/heic" else mark))
    return files


def _ours(server: Product, client: Client, files: Sequence[Path]) -> _Server:
    """Upload the files; return when each has been decoded, so that this does not run beside what is measured."""
    decoded = _decoded(server)
    ids = [client.upload(file.read_bytes())["id"] for file in files]
    ends = time.monotonic() + _TIMEOUT_SECONDS
    while _decoded(server) < decoded + len(files):
        assert time.monotonic() < ends, "uploads were not decoded in time"
        time.sleep(0.2)

    def url(number: int, side: int, image_format: Format) -> str:
        return f"{server.url}/api/v1/photos/{ids[number]}/renditions/{_PRESETS[side]}?format={image_format}"

    return _Server(server.pid, url, {"Authorization": f"Bearer {client.tokens['access_token']}"})


def _decoded(server: Product) -> float:
    return server.metric("photo_api_engine_job_duration_seconds_count", outcome="done")


def _beside(
    name: str,
    ours: _Server,
    rivals: dict[str, _Server],
    effort: _Effort,
) -> Iterator[Finding]:
    able = {rival: server for rival, server in rivals.items() if _can(rival, server, name)}
    servers = {"ours": ours, **able}
    peaks = {server: PeakMemory((each.pid,)) for server, each in servers.items()}
    spent: dict[str, list[float]] = {server: [] for server in servers}
    count, rounds = effort.photos, effort.rounds
    for place, (side, image_format) in enumerate(effort.wanted):
        case = f"{name} to {side} {image_format}"
        bills: dict[str, list[_Bill]] = {server: [] for server in servers}
        for turn in range(rounds):
            for server, each in servers.items():
                bills[server].append(_ask_all(each, range(count * turn, count * (turn + 1)), side, image_format))
        for server in servers:
            spent[server] += [bill.processor_seconds / count * _MILLISECONDS for bill in bills[server]]
        yield from _rates(case, count, bills)
        if not place:
            again = [_ask_all(ours, range(count), side, image_format) for _ in range(rounds)]
            yield from _rates(f"{case}, again", count, {**bills, "ours": again}, has_goals=False)
        say(case)
    for rival in able:
        yield finding(f"{name}, all of these", rival, "ms of cpu", [sum(spent["ours"])], [sum(spent[rival])])
        held = [[peaks[server].highest_bytes() / _MEGABYTE] for server in ("ours", rival)]
        yield finding(f"{name}, memory at the peak", rival, "MB", *held)


def _rates(case: str, count: int, bills: dict[str, list[_Bill]], *, has_goals: bool = True) -> Iterator[Finding]:
    rates = {server: [count / bill.seconds for bill in each] for server, each in bills.items()}
    for rival in rates.keys() - {"ours"}:
        goal = _GOALS[rival] if has_goals else None
        yield finding(case, rival, "photos/s", rates["ours"], rates[rival], goal=goal, at_least=True)


def _can(rival: str, server: _Server, name: str) -> bool:
    answer = requests.get(server.url(0, SIDES[0], Format.JPEG), timeout=_TIMEOUT_SECONDS)
    if answer.ok and answer.headers["Content-Type"] == Format.JPEG.content_type:
        return True
    say(f"{rival} cannot read {name}: {answer.status_code}")
    return False


def _ask_all(
    server: _Server, numbers: Sequence[int], side: int, image_format: Format, *, at_once: int = _AT_ONCE
) -> _Bill:
    """Ask for one rendition of some copies, by several at once."""
    urls = [server.url(number, side, image_format) for number in numbers]
    used, started = processor_seconds((server.pid,)), time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda url: _ask(url, server.headers, image_format), urls))
    return _Bill(time.monotonic() - started, processor_seconds((server.pid,)) - used)


def _ask(url: str, headers: dict[str, str], image_format: Format) -> None:
    while True:
        answer = requests.get(url, headers=headers, timeout=_TIMEOUT_SECONDS)
        if answer.status_code != requests.codes.unavailable:
            break
        time.sleep(float(answer.headers["Retry-After"]))
    assert answer.headers["Content-Type"] == image_format.content_type, answer.text


def _health_beside_avif(server: Product, ours: _Server) -> Finding:
    """Measure the slowest but one of a hundred answers of health, idle and while AVIF of 2048 pixels is made."""
    idle = _slowest_health(server.url)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_ask_all, ours, range(_AT_ONCE * 2), SIDES[-1], Format.AVIF)
        busy = _slowest_health(server.url)
        asked.result()
    return finding("health while AVIF is made, p99", "the same, idle", "ms", [busy * 1e3], [idle * 1e3])


def _slowest_health(url: str) -> float:
    taken = []
    for _ in range(100):
        started = time.monotonic()
        assert requests.get(f"{url}/health", timeout=_TIMEOUT_SECONDS).ok
        taken.append(time.monotonic() - started)
        time.sleep(0.01)
    return statistics.quantiles(taken, n=100)[-1]


def _crowd(server: Product, ours: _Server) -> Finding:
    """Count the encodings that two hundred at once make of one rendition that nobody has asked for."""
    before = _decoded(server)
    _ask_all(ours, [0] * _CROWD, SIDES[1], Format.JPEG, at_once=50)
    return finding("encodings for a crowd of 200", "one", "", [_decoded(server) - before], [1.0], goal=1.0)


@contextmanager
def _thumbor(folder: Path, copies: Path) -> Iterator[Callable[[Sequence[Path]], _Server]]:
    settings = folder / "thumbor.conf"
    settings.write_text(_THUMBOR_SETTINGS.format(folder=str(copies)), encoding="utf-8")
    port = find_free_port()
    command = [_THUMBOR, "--ip", "127.0.0.1", "--port", str(port), "--processes", str(_WORKERS), "--conf", settings]

    def url(file: Path, side: int, image_format: Format) -> str:
        filters = f"filters:format({image_format}):quality({Quality().of(image_format)})"
        return f"http://127.0.0.1:{port}/unsafe/fit-in/{side}x{side}/{filters}/{file.name}"

    with _running(command, port, folder / "thumbor.log") as pid:
        yield lambda files: _Server(pid, lambda number, *what: url(files[number], *what), {})


@contextmanager
def _ipx(folder: Path, copies: Path) -> Iterator[Callable[[Sequence[Path]], _Server]]:
    port = find_free_port()
    command = [_IPX, "serve", "--dir", copies, "--host", "127.0.0.1", "--port", str(port)]

    def url(file: Path, side: int, image_format: Format) -> str:
        return f"http://127.0.0.1:{port}/w_{side},f_{image_format},q_{Quality().of(image_format)}/{file.name}"

    with _running(command, port, folder / "ipx.log") as pid:
        yield lambda files: _Server(pid, lambda number, *what: url(files[number], *what), {})


@contextmanager
def _running(command: Sequence[object], port: int, log: Path) -> Iterator[int]:
    server = ServerProcess([str(word) for word in command], log=log)
    try:
        server.wait_until_listening(port)
        yield server.pid
    finally:
        children = list(family((server.pid,)))[1:]
        server.stop()
        for pid in children:  # Thumbor ends without its children
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
