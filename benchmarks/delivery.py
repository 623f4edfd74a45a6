"""How photos leave and come in: the cases P1 to P4 of the server.

::

    P1  a signed link, verified by nginx           beside  nginx static
        the API again and again, by nginx          beside  nginx static
        a rendition again, by link and by the API  beside  nginx proxy_cache
    P2  the API, bytes by nginx from a folder      beside  Flask hello through nginx, and Flask + X-Accel
    P3  the API, bytes by nginx from the store     beside  Flask hello through nginx (copies of its own),
        with copies of its own, and without                boto3 body in Flask
        streamed by Python                         beside  boto3 body in Flask
    P4  uploads into the store                     beside  boto3 upload_fileobj and put_object in Flask

*Remembered* is by an nginx that asks once in five seconds whether a token may read a photo; so is a repeated view.
What streams passes over many photos in turn: one that several want at once is fetched once, and that is another case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.compare import Case
from benchmarks.servers import SIZES_BYTES, Servers, object_key
from benchmarks.wrk import Request
from tests.servers.client import Client

NAME: Final = "delivery"
"""What ``--only`` calls all of them, memory and links included."""

_JPEG = "image/jpeg"
_PHOTOS = 64
_LARGE_PATIENCE = 3.0
_SMALL = "200 KB"
_BOTO3 = "boto3 body in Flask"
_HELLO = "Flask hello through nginx"


class _Account(NamedTuple):
    """An account with photos of one size."""

    client: Client
    identity: dict[str, str]
    photos: list[dict[str, Any]]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(f"/api/v1/photos/{photo['id']}/original" for photo in self.photos)


def cases(servers: Servers, client: Client, photos: dict[str, dict[str, Any]]) -> Iterator[Case]:
    """Yield the cases; photos are made as they are needed.

    Args:
        servers: Running.
        client: An account of the product on the store.
        photos: A photo of each size, of that account.
    """
    content = servers.files[_SMALL].read_bytes()
    stored, local = _account(client, content), _account(servers.local.new_user(), content)
    yield from _by_nginx(servers, local, stored)
    for size, photo in photos.items():
        yield from _by_python(servers, stored, size, photo)
        yield from _uploads(servers, stored.identity, size)


def _account(client: Client, content: bytes) -> _Account:
    photos = [client.upload(content + os.urandom(16)) for _ in range(_PHOTOS)]
    return _Account(client, {"Authorization": f"Bearer {client.tokens['access_token']}"}, photos)


def _by_nginx(servers: Servers, local: _Account, stored: _Account) -> Iterator[Case]:
    plain, nginx = servers.nginx_url, servers.nginx_pids
    backend = (*nginx, *servers.baselines_pids)
    static = Request(f"{plain}/{servers.files[_SMALL].name}", pids=nginx)
    hello = Request(f"{plain}/hello", pids=backend)
    accel = Request(f"{plain}/accel", pids=backend)
    streamed = Request(f"{servers.baselines_url}/download/{object_key(_SMALL)}", pids=servers.baselines_pids)

    def asked(name: str, account: _Account, *paths: str) -> Request:
        edge, product = servers.edges[name], servers.local if account is local else servers.product
        return Request(f"{edge.url}{paths[0]}", account.identity, paths=paths, pids=(edge.pid, product.pid))

    def link(name: str, account: _Account) -> Request:
        edge, product = servers.edges[name], servers.local if name == "local" else servers.product
        answer = account.client.get(f"/api/v1/photos/{account.photos[0]['id']}/links").json()
        return Request(f"{edge.url}{answer['links']['original']['url']}", pids=(edge.pid, product.pid))

    yield Case("signed link, folder", link("local", local), static, "nginx static", 0.9)
    yield Case("signed link, nginx's copy", link("cached", stored), static, "nginx static", 0.9)
    again = asked("remembering", local, local.paths[0])
    yield Case("private view again, folder", again, static, "nginx static", 0.8)
    yield from _renditions(servers, local)
    yield Case("API by nginx, folder", asked("local", local, *local.paths), hello, _HELLO, None)
    yield Case("API by nginx, folder", asked("local", local, *local.paths), accel, "Flask + X-Accel", None)
    yield Case("API remembered, folder", asked("remembering", local, *local.paths), hello, _HELLO, 0.85)
    cached, uncached = asked("cached", stored, *stored.paths), asked("uncached", stored, *stored.paths)
    yield Case("API by nginx, its copies", cached, hello, _HELLO, None)
    remembered = asked("remembering copies", stored, *stored.paths)
    yield Case("API remembered, its copies", remembered, hello, _HELLO, 0.85)
    yield Case("API remembered, its copies", remembered, streamed, _BOTO3, 7)
    yield Case("API by nginx, no copies", uncached, streamed, _BOTO3, 3)


def _renditions(servers: Servers, local: _Account) -> Iterator[Case]:
    """Yield a thumbnail that is made already beside one that nginx keeps from another server."""
    client, photo_id = local.client, local.photos[0]["id"]
    path = f"/api/v1/photos/{photo_id}/renditions/thumbnail?format=webp"
    made = client.get(path)
    assert made.ok, made.text
    (servers.files[_SMALL].parent / "thumbnail.webp").write_bytes(made.content)
    kept = Request(f"{servers.nginx_url}/kept/thumbnail.webp", pids=servers.nginx_pids)
    link = client.get(f"/api/v1/photos/{photo_id}/links").json()["links"]["renditions"]["thumbnail"]["url"]
    for name, edge, url, identity in (
        ("rendition by link", servers.edges["local"], link, {}),
        ("rendition remembered", servers.edges["remembering"], path, local.identity),
    ):
        ours = Request(f"{edge.url}{url}", identity, pids=(edge.pid, servers.local.pid))
        yield Case(name, ours, kept, "nginx proxy_cache", 0.8)


def _by_python(servers: Servers, stored: _Account, size: str, photo: dict[str, Any]) -> Iterator[Case]:
    is_small = size == _SMALL
    connections = 8 if is_small else 2
    path = f"/api/v1/photos/{photo['id']}/original"
    paths = stored.paths if is_small else (path,)
    url = f"{servers.product.url}{path}"
    ours = Request(url, stored.identity, paths=paths, pids=servers.product_pids)
    theirs = Request(f"{servers.baselines_url}/download/{object_key(size)}", pids=servers.baselines_pids)
    yield Case(f"download {size}", ours, theirs, _BOTO3, 1.5, connections, 1.0 if is_small else _LARGE_PATIENCE)
    if is_small:
        crowd = Request(url, stored.identity, pids=servers.product_pids)
        yield Case(f"download {size}, one for all", crowd, theirs, _BOTO3, None, connections)
    unchanged = Request(url, {**stored.identity, "If-None-Match": f'"{photo["sha256"]}"'}, pids=servers.product_pids)
    hello = Request(f"{servers.baselines_url}/hello", pids=servers.baselines_pids)
    yield Case(f"304 of {size}", unchanged, hello, "Flask hello", 0.6, connections)


def _uploads(servers: Servers, identity: dict[str, str], size: str) -> Iterator[Case]:
    is_small = SIZES_BYTES[size] < 1_000_000
    connections = 8 if is_small else 2
    file: Path = servers.files[size]
    headers = {"Content-Type": _JPEG}
    ours = Request(f"{servers.product.url}/api/v1/photos", {**identity, **headers}, file, pids=servers.product_pids)
    for beside, path, goal in (
        ("boto3 upload_fileobj in Flask", "upload-fileobj", 2.0 if is_small else None),
        ("boto3 put_object in Flask", "put-object", None),
    ):
        theirs = Request(f"{servers.baselines_url}/{path}", headers, file, pids=servers.baselines_pids)
        yield Case(f"upload {size}", ours, theirs, beside, goal, connections, 1.0 if is_small else _LARGE_PATIENCE)
