"""What it costs an upload that its pixels are decoded before it is taken in (``uploads.decode_first``)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.renditions.originals import write_originals
from benchmarks.stability.findings import Finding, finding
from tests.servers.client import Client
from tests.servers.product import Product
from tests.servers.stacks import embedded_stack

_NAMES: Final = ("12 MP JPEG", "12 MP PNG")
_WORKERS: Final = 2
_AT_ONCE: Final = 4


def measure(*, is_quick: bool) -> Iterator[Finding]:
    """Yield a line for each format: uploads by four at once, to a server with the setting and to one without."""
    count, rounds = (8, 1) if is_quick else (16, 3)
    with tempfile.TemporaryDirectory() as name, ExitStack() as closing:
        folder = Path(name)
        first, plain = (_client(closing, folder / word, word) for word in ("true", "false"))
        for original in write_originals(folder):
            if original.name in _NAMES:
                content = original.path.read_bytes()
                pairs = [(_rate(first, content, count), _rate(plain, content, count)) for _ in range(rounds)]
                ours, theirs = zip(*pairs, strict=True)
                yield finding(f"upload of {original.name}, decoded first", "not decoded", "photos/s", ours, theirs)


def _client(closing: ExitStack, folder: Path, decodes_first: str) -> Client:
    folder.mkdir()
    settings = {
        "PHOTO_API_UPLOADS__DECODE_FIRST": decodes_first,
        "PHOTO_API_PHOTOS__QUOTA_BYTES": str(2**40),
        "PHOTO_API_AUTH__ACCESS_TOKEN_SECONDS": "3600",
    }
    product = Product(embedded_stack(folder), folder, workers=_WORKERS, settings=settings)
    closing.callback(product.close)
    return product.new_user()


def _rate(client: Client, content: bytes, count: int) -> float:
    """Return uploads a second of files that differ in what follows the end of their picture."""
    started = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda _number: client.twin().upload(content + os.urandom(16)), range(count)))
    return count / (time.monotonic() - started)
