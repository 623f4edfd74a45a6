"""The servers of a run: PostgreSQL, a fast S3, nginx with plain files, the baselines, and the product itself."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.accounts.keyring import LINK, KeyRings
from app.accounts.ring_file import RingFile
from app.photos.signed_links import secret_of
from app.server.edge_delivery import LinkKey
from app.settings import DEFAULT_KEY_RING_FILE
from app.storage.probe import BytesBody
from app.storage.s3 import S3Config, S3ObjectStore
from tests.fakes.images import jpeg
from tests.servers.base import ServerProcess, find_free_port
from tests.servers.edge import Edge
from tests.servers.nginx import Nginx
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product
from tests.servers.stacks import CLOUD, Stack, embedded_stack

BUCKET = "bench"
SIZES_BYTES = {"200 KB": 200_000, "20 MB": 20_000_000}
WORKERS, THREADS = 2, 16


@dataclass(frozen=True)
class Servers:
    """Everything that runs.

    Attributes:
        product: On PostgreSQL and S3.
        baselines_url: Flask and boto3.
        nginx_url: Plain files, ``/200KB.jpg`` and so on, the same below ``/kept/`` by ``proxy_cache``, and the
            baselines at ``/hello`` and ``/accel``.
        files: The photos by name of their size.
        local: The product on files and SQLite.
        edges: nginx with the product's own configuration: ``local`` and ``remembering`` before that one; before the
            other one ``cached`` and ``remembering copies`` with and ``uncached`` without copies of its own. Those
            that remember ask the server once in five seconds whether a token may read a photo.
        baselines_pids: The ids of the baselines' server.
        nginx_pids: The ids of nginx with plain files.
    """

    product: Product
    baselines_url: str
    nginx_url: str
    files: dict[str, Path]
    local: Product
    edges: dict[str, Edge]
    baselines_pids: tuple[int, ...]
    nginx_pids: tuple[int, ...]

    @property
    def product_pids(self) -> tuple[int, ...]:
        """The ids of the product's server."""
        return (self.product.pid,)


def object_key(size: str) -> str:
    """Return where the baselines find the photo of a size."""
    return f"bench/{size.replace(' ', '').lower()}"


@contextmanager
def running(folder: Path) -> Iterator[Servers]:
    """Start everything under a folder; end it afterwards.

    Args:
        folder: Empty, readable by the database's own user.
    """
    with ExitStack() as stack:
        files = _write_photos(folder / "files")
        config = stack.enter_context(_fast_s3(folder))
        store = S3ObjectStore(config)
        stack.callback(store.close)
        for size, path in files.items():
            store.put(object_key(size), BytesBody(path.read_bytes()), content_type="image/jpeg")
        postgres = PostgresServer(durable=True)
        postgres.start()
        stack.callback(postgres.remove)
        stack.callback(postgres.stop)
        database = stack.enter_context(postgres.database())
        baselines, baselines_pid = stack.enter_context(_baselines(folder, config))
        nginx = Nginx(_made(folder / "nginx"), _nginx(folder / "files", baselines=baselines))
        stack.callback(nginx.stop)
        product = _product(stack, _stack(config, database), folder / "product")
        local = _product(stack, embedded_stack(_made(folder / "local")), folder / "local")
        copies = {"EDGE__CACHE_FOLDER": str(folder / "copies")}
        readable, remembering = {"STORAGE__LOCAL_GROUP_READABLE": "true"}, {"EDGE__DECISION_SECONDS": "5"}
        edges = {
            "cached": _edge(stack, product, folder / "cached", copies),
            "uncached": _edge(stack, product, folder / "uncached", {}),
            "local": _edge(stack, local, folder / "edge", readable),
            "remembering": _edge(stack, local, folder / "remembering", {**readable, **remembering}),
            "remembering copies": _edge(stack, product, folder / "both", {**copies, **remembering}),
        }
        yield Servers(product, baselines, nginx.url, files, local, edges, (baselines_pid,), (nginx.pid,))


def _product(closing: ExitStack, stack: Stack, folder: Path) -> Product:
    product = Product(stack, _made(folder), workers=WORKERS, settings=_SETTINGS)
    closing.callback(product.close)
    return product


def _edge(closing: ExitStack, product: Product, folder: Path, settings: dict[str, str]) -> Edge:
    """Start nginx before a product as ``python -m app render nginx`` has it, without limits for this client."""
    rings = KeyRings(RingFile(product.folder / DEFAULT_KEY_RING_FILE))
    keys = [LinkKey(key.kid, secret_of(key)) for key in rings.holding(LINK)]
    ours = {name.removeprefix("PHOTO_API_"): value for name, value in product.stack.environ.items()}
    server = product.url.removeprefix("http://")
    edge = Edge(_made(folder), server, {**ours, "EDGE__UNLIMITED_NETWORKS": "127.0.0.0/8", **settings}, keys)
    closing.callback(edge.stop)
    return edge


_SETTINGS = {
    "PHOTO_API_SERVER__THREADS": str(THREADS),
    "PHOTO_API_PHOTOS__QUOTA_BYTES": str(2**50),
    "PHOTO_API_AUTH__ACCESS_TOKEN_SECONDS": "3600",
    "PHOTO_API_UPLOADS__LEASE_SECONDS": "15",
    "PHOTO_API_UPLOADS__MAX_BYTES": "268435456",
    "PHOTO_API_LINKS__PRESIGNED": "false",
    "PHOTO_API_STORAGE__LOCAL_GROUP_READABLE": "true",
}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_photos(folder: Path) -> dict[str, Path]:
    _made(folder)
    files = {}
    for size, size_bytes in SIZES_BYTES.items():
        files[size] = folder / f"{size.replace(' ', '')}.jpg"
        files[size].write_bytes(jpeg(640, 480, seed=1, size_bytes=size_bytes))
    return files


_NGINX = """
proxy_cache_path {copies} keys_zone=kept:1m;
sendfile on;
tcp_nopush on;
upstream baselines {{ server {baselines}; keepalive 32; }}
server {{
    listen 127.0.0.1:$PORT;
    root {files};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    location = /hello {{ proxy_pass http://baselines; }}
    location = /accel {{ proxy_pass http://baselines; }}
    location /files/ {{ internal; alias {files}/; }}
    location /kept/ {{
        proxy_cache kept;
        proxy_cache_valid 200 1h;
        proxy_pass http://127.0.0.1:$PORT/;
    }}
}}
"""


def _nginx(files: Path, *, baselines: str) -> str:
    """Return a configuration that serves files, and passes on to the baselines."""
    return _NGINX.format(files=files, copies=files.with_name("kept"), baselines=baselines.removeprefix("http://"))


@contextmanager
def _fast_s3(folder: Path) -> Iterator[S3Config]:
    program = Path(sys.executable).with_name("rclone")
    objects = _made(folder / "rclone" / BUCKET).parent
    port, key, secret = find_free_port(), "AKBENCH", secrets.token_hex(16)
    command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
    command += ["--vfs-cache-mode", "off", "--config", os.devnull, "--log-level", "ERROR", str(objects)]
    server = ServerProcess(command, log=folder / "rclone.log")
    try:
        server.wait_until_listening(port)
        yield S3Config(
            endpoint_url=f"http://127.0.0.1:{port}",
            bucket=BUCKET,
            region="us-east-1",
            access_key_id=key,
            secret_access_key=secret,
        )
    finally:
        server.stop()
        shutil.rmtree(objects, ignore_errors=True)


@contextmanager
def _baselines(folder: Path, config: S3Config) -> Iterator[tuple[str, int]]:
    port = find_free_port()
    environ = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "BENCH_S3_ENDPOINT": config.endpoint_url or "",
        "BENCH_S3_BUCKET": config.bucket,
        "BENCH_S3_KEY": config.access_key_id,
        "BENCH_S3_SECRET": config.secret_access_key,
    }
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    command += [
        "--workers",
        str(WORKERS),
        "--threads",
        str(THREADS),
        "--no-control-socket",
        "benchmarks.baselines:app",
    ]
    server = ServerProcess(command, log=folder / "baselines.log", environ=environ)
    try:
        server.wait_until_listening(port)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        server.stop()


def _stack(config: S3Config, database_url: str) -> Stack:
    environ = {
        "PHOTO_API_DATABASE__URL": database_url,
        "PHOTO_API_STORAGE__BACKEND": "s3",
        "PHOTO_API_STORAGE__S3_ENDPOINT_URL": config.endpoint_url or "",
        "PHOTO_API_STORAGE__S3_BUCKET": config.bucket,
        "PHOTO_API_STORAGE__S3_ACCESS_KEY_ID": config.access_key_id,
        "PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY": config.secret_access_key,
    }
    return Stack(CLOUD, environ, database_url, s3_config=config)
