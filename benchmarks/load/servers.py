"""Who is under load: work of a known size in the product's server or in gunicorn's stock one, and the product."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import requests

from benchmarks.load.application import COMPUTE_PATH, UPLOAD_PATH, WAIT_PATH
from benchmarks.load.overload import Served, Work
from benchmarks.load.traffic import Target, Traffic
from tests.server.running import children, running
from tests.servers.base import ServerProcess, find_free_port
from tests.servers.client import Client, new_photo
from tests.servers.edge import Edge
from tests.servers.product import ROOT, Product
from tests.servers.stacks import embedded_stack

WAITING, COMPUTING, METADATA, UPLOAD = "waiting 50 ms", "computing", "metadata of a photo", "upload of a small photo"
"""Kinds of work."""
WORKERS: Final = 2
WAITING_THREADS, COMPUTING_THREADS = 8, 2
"""Of each worker: for work that waits, and for work that computes, which more threads only slow down."""
MAX_QUEUE: Final = 1000
_START_SECONDS: Final = 30.0
_SMALL_BODY_BYTES: Final = 2_048
_PROTECTED: Final = "benchmarks.load.application:measured"


def _at_once(threads: int) -> int:
    """Return how many requests at a time keep all threads at work, however they are spread over the workers."""
    return 3 * WORKERS * threads


def waiting_work(timeout_seconds: float = 1.0) -> Work:
    """Return four reads for one upload, each of 50 ms.

    Args:
        timeout_seconds: When clients give up.
    """
    body = secrets.token_bytes(_SMALL_BODY_BYTES)
    read = Traffic("read", WAIT_PATH, (), timeout_seconds=timeout_seconds)
    upload = replace(read, name="upload", path=UPLOAD_PATH, method="POST", body=body, is_unique=True)
    return Work(WAITING, ((read, 0.8), (upload, 0.2)), at_once=_at_once(WAITING_THREADS))


def computing_work() -> Work:
    """Return reads of some 10 ms of processor time each."""
    read = Traffic("read", COMPUTE_PATH, ())
    return Work(COMPUTING, ((read, 1.0),), at_once=_at_once(COMPUTING_THREADS), is_computing=True)


@contextmanager
def protected(folder: Path, threads: int, *, max_queue: int = MAX_QUEUE) -> Iterator[Served]:
    """Run the synthetic application in the product's server, with as many places as there are threads."""
    folder.mkdir(exist_ok=True)
    with running(
        folder,
        workers=WORKERS,
        application=_PROTECTED,
        PHOTO_API_SERVER__THREADS=str(threads),
        PHOTO_API_SERVER__MAX_CONCURRENT=str(WORKERS * threads),
        PHOTO_API_SERVER__MAX_QUEUE=str(max_queue),
    ) as server:
        yield Served(Target("127.0.0.1", server.public), server.process.pid)


@contextmanager
def unprotected(folder: Path, threads: int) -> Iterator[Served]:
    """Run the synthetic application in gunicorn's threaded worker."""
    folder.mkdir(exist_ok=True)
    port = find_free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    command += ["--workers", str(WORKERS), "--threads", str(threads), "--no-control-socket"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [*command, "benchmarks.load.application:plain()"]
    server = ServerProcess(program, log=folder / "plain.log", environ=environ)
    try:
        server.wait_until_listening(port)
        # Who connects while the workers start would be the first to wait, and to leave.
        answer = requests.get(f"http://127.0.0.1:{port}/health", timeout=_START_SECONDS)
        answer.raise_for_status()
        yield Served(Target("127.0.0.1", port), server.pid)
    finally:
        # A polite stop would first do the work of all who have left.
        for pid in children(server.pid):
            os.kill(pid, signal.SIGKILL)
        server.stop()


@contextmanager
def behind_nginx(folder: Path, served: Served) -> Iterator[Served]:
    """Put the product's nginx before a server; nobody's rate is limited: all clients of a load are one machine."""
    folder.mkdir(exist_ok=True)
    edge = Edge(folder, f"{served.target.host}:{served.target.port}", {"EDGE__UNLIMITED_NETWORKS": "127.0.0.0/8"})
    try:
        yield replace(served, target=Target("127.0.0.1", edge.port))
    finally:
        edge.stop()


@contextmanager
def photos(folder: Path) -> Iterator[tuple[Served, tuple[Work, ...]]]:
    """Run the product on SQLite and a folder; with it comes what is asked of it."""
    folder.mkdir(exist_ok=True)
    product = Product(embedded_stack(folder), folder, workers=WORKERS, settings=_PRODUCT)
    try:
        client = product.new_user()
        yield Served(Target("127.0.0.1", product.port), product.pid), (_metadata_work(client), _photo_work(client))
    finally:
        product.close()


_PRODUCT: Final = {
    "PHOTO_API_SERVER__THREADS": str(WAITING_THREADS),
    "PHOTO_API_SERVER__MAX_CONCURRENT": str(WORKERS * WAITING_THREADS),
    "PHOTO_API_SERVER__MAX_QUEUE": str(MAX_QUEUE),
    "PHOTO_API_PHOTOS__QUOTA_BYTES": str(2**50),
    "PHOTO_API_AUTH__ACCESS_TOKEN_SECONDS": "3600",
}


def _metadata_work(client: Client) -> Work:
    photo = client.upload()
    read = Traffic("read", f"/api/v1/photos/{photo['id']}", (), headers=_identity(client))
    return Work(METADATA, ((read, 1.0),), at_once=_at_once(WAITING_THREADS))


def _photo_work(client: Client) -> Work:
    headers = {**_identity(client), "Content-Type": "image/jpeg"}
    upload = Traffic("upload", UPLOAD_PATH, (), method="POST", headers=headers, body=new_photo(), is_unique=True)
    return Work(UPLOAD, ((upload, 1.0),), at_once=_at_once(WAITING_THREADS))


def _identity(client: Client) -> dict[str, str]:
    return {"Authorization": f"Bearer {client.tokens['access_token']}"}
