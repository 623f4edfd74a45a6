"""``make bench``: measure, print the table, write ``var/bench/*.json``.

``make bench ARGS=--quick`` takes a minute instead of ten and says less. Needs wrk and nginx (Debian), PostgreSQL,
and rclone (PyPI, ``requirements-bench.txt``); everything runs on 127.0.0.1 and ends with the run.
``make bench ARGS='--only stability'`` measures the library alone, in a minute and without servers, and
``ARGS='--only cost'`` what a request pays for identity, metrics, log and admission, in some seconds; ``--only links``
what a presigned link costs, ``--only renditions`` what renditions cost beside libvips and Pillow, and what an upload
pays for being decoded first, ``--only rivals`` how fast renditions are served beside Thumbor and ipx.
``ARGS='--only delivery'`` measures how photos come in and leave, and any other word the cases of the server that have
it in their names, such as ``download``, ``upload``, ``link``, ``nginx`` or ``memory``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from benchmarks import delivery, links_cost, memory, request_cost
from benchmarks.compare import Case, Comparison, compare
from benchmarks.renditions import decode_first, engine_cost, rivals
from benchmarks.report import say, write
from benchmarks.rows import write_photos
from benchmarks.servers import Servers, running
from benchmarks.stability.findings import Finding, print_table
from benchmarks.stability.lines import measure
from benchmarks.stability.timing import QUICK, Effort
from benchmarks.wrk import Request
from tests.servers.client import Client

_ROWS, _QUICK_ROWS = 1_000_000, 20_000
_DEPTH_SHARE = 0.9
_LIBRARY = "stability"
_ROWS_NAMES = ("metadata", "50 of", "50 at", "304")
_COST = "cost"


def main() -> int:
    """Run the benchmarks and return the exit code; a missed goal is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter rounds and fewer rows")
    parser.add_argument(
        "--only",
        default="",
        metavar="WORD",
        help="only cases of the server with this word in their name; "
        f"{_LIBRARY!r}: only the library, {_COST!r}: only what a request costs within a process",
    )
    arguments = parser.parse_args()
    of_library: list[Finding] = []
    of_request: list[Finding] = []
    of_server: list[Comparison] = []
    if arguments.only in {"", _LIBRARY}:
        of_library = list(measure(QUICK if arguments.quick else Effort(), say))
        print_table(of_library)
    if arguments.only in {"", _COST}:
        of_request = request_cost.measure(is_quick=arguments.quick)
        print_table(of_request)
    if arguments.only in {"", delivery.NAME, links_cost.NAME}:
        of_links = links_cost.measure(QUICK if arguments.quick else Effort())
        print_table(of_links)
        of_request += of_links
    if arguments.only in {"", engine_cost.NAME}:
        of_engine = list(engine_cost.measure(is_quick=arguments.quick))
        of_engine += decode_first.measure(is_quick=arguments.quick)
        print_table(of_engine)
        of_request += of_engine
    if arguments.only in {"", rivals.NAME}:
        of_rivals = list(rivals.measure(is_quick=arguments.quick))
        print_table(of_rivals)
        of_request += of_rivals
    if arguments.only not in {_LIBRARY, _COST, links_cost.NAME, engine_cost.NAME, rivals.NAME}:
        of_server, of_memory = _measure_server(arguments.only, is_quick=arguments.quick)
        _print_table(of_server)
        print_table(of_memory)
        of_request += of_memory
    write(results=of_server, stability=of_library, request_cost=of_request)
    return 0


def _measure_server(word: str, *, is_quick: bool) -> tuple[list[Comparison], list[Finding]]:
    rounds, seconds = (3, 1.0) if is_quick else (3, 3.0)
    with tempfile.TemporaryDirectory() as folder, running(_readable(Path(folder))) as servers:
        client = servers.product.new_user()
        identity = {"Authorization": f"Bearer {client.tokens['access_token']}"}
        found = [
            compare(case, rounds=rounds, seconds=seconds, say=say)
            for case in _cases(servers, client, identity, word, _QUICK_ROWS if is_quick else _ROWS)
            if word == delivery.NAME or word in case.name
        ]
        return found, memory.measure(servers, identity, word.replace(delivery.NAME, ""))


def _readable(folder: Path) -> Path:
    folder.chmod(0o755)  # nginx drops its rights
    return folder


def _cases(servers: Servers, client: Client, identity: dict[str, str], word: str, row_count: int) -> Iterator[Case]:
    photos = {size: client.upload(path.read_bytes()) for size, path in servers.files.items()}
    if memory.NAME not in word:
        yield from delivery.cases(servers, client, photos)
    if word not in _ROWS_NAMES and word:
        return
    say(f"writing {row_count} rows")
    owner_id = UUID(client.get("/api/v1/users/me").json()["id"])
    with servers.product.stack.database() as connection:
        write_photos(connection, owner_id, row_count)
    yield from _metadata_cases(servers, client, identity, photos["200 KB"], row_count)


def _metadata_cases(
    servers: Servers, client: Client, identity: dict[str, str], photo: dict[str, object], row_count: int
) -> Iterator[Case]:
    product, hello = servers.product.url, Request(f"{servers.baselines_url}/hello")
    one = f"{product}/api/v1/photos/{photo['id']}"
    yield Case("metadata of one", Request(one, identity), hello, "Flask hello", 0.28)
    tag = client.get(f"/api/v1/photos/{photo['id']}").headers["ETag"]
    yield Case("metadata 304", Request(one, {**identity, "If-None-Match": tag}), hello, "Flask hello", 0.6)
    first = Request(f"{product}/api/v1/photos?limit=50", identity)
    yield Case(f"50 of {row_count:,}", first, hello, "Flask hello", 0.30)
    deep = Request(f"{product}/api/v1/photos?limit=50&cursor={_deep_cursor(client, row_count)}", identity)
    yield Case(f"50 at depth {row_count * _DEPTH_SHARE:,.0f}", deep, hello, "Flask hello", 0.30)
    yield Case(f"50 at depth {row_count * _DEPTH_SHARE:,.0f}", deep, first, "the first page", 0.9)


def _deep_cursor(client: Client, row_count: int) -> str:
    """Walk there by a filter, not by pages: the cursor that follows the photo at that depth."""
    cursor = None
    for _ in range(int(row_count * _DEPTH_SHARE / 100)):
        query = {"limit": "100", **({"cursor": cursor} if cursor else {})}
        cursor = client.get("/api/v1/photos", params=query).json()["next_cursor"]
    assert cursor is not None
    return str(cursor)


def _print_table(results: list[Comparison]) -> None:
    print(f"\n{'case':<26}{'beside':<32}{'ours/s':>9}{'theirs/s':>10}", end="")
    print(f"{'p99 ms':>9}{'ratio':>8}{'(min to max)':>17}{'by cpu':>8}{'goal':>6}")
    for result in results:
        goal = f"{result.goal:g}" if result.goal is not None else ""
        spread = f"({result.ratio_min:.2f} to {result.ratio_max:.2f})"
        print(
            f"{result.name:<26}{result.beside:<32}{result.ours_per_second:>9.1f}{result.theirs_per_second:>10.1f}"
            f"{result.ours_p99_seconds * 1000:>9.1f}{result.ratio:>8.2f}{spread:>17}"
            f"{result.processor_ratio or float('nan'):>8.2f}{goal:>6} {result.verdict}"
        )


if __name__ == "__main__":
    sys.exit(main())
