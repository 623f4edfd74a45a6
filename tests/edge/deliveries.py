"""nginx in front of the product in front of one kind of store, as the tests of delivery need it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.accounts.keyring import LINK, KeyRings
from app.accounts.ring_file import RingFile
from app.photos.signed_links import secret_of
from app.server.edge_delivery import LinkKey
from app.settings import DEFAULT_KEY_RING_FILE
from tests.fakes.fault_proxy import FaultProxy
from tests.servers.client import Client
from tests.servers.edge import Edge
from tests.servers.product import Product
from tests.servers.stacks import Stack, embedded_stack
from tests.servers.swift import SwiftServer

TEMP_URL_KEY = "a-key-of-temporary-urls"
UNLIMITED = {"EDGE__UNLIMITED_NETWORKS": "127.0.0.0/8"}
REMEMBERING = {"EDGE__DECISION_SECONDS": "5"}


@dataclass
class Delivery:
    """A running edge, product and store.

    Attributes:
        product: Behind the edge.
        edge: In front of it.
        client: An account, past the edge.
        through: The same account, through the edge.
        rings: The server's keys.
        proxy: Before the object store; None for a folder.
    """

    product: Product
    edge: Edge
    client: Client
    through: Client
    rings: KeyRings
    proxy: FaultProxy | None = None

    def opened(self) -> float:
        """Return how many objects the server has opened."""
        return self.product.metric(
            "photo_api_external_request_duration_seconds_count", service="storage", operation="get"
        )

    def named(self) -> float:
        """Return how many requests for originals the server has answered."""
        route = "/api/v1/photos/<uuid:photo_id>/original"
        return self.product.metric("photo_api_http_requests_total", route=route)

    def link_to(self, photo_id: str) -> str:
        """Return path and query of a signed link to a photo."""
        answer = self.client.get(f"/api/v1/photos/{photo_id}/links")
        link = answer.json()["links"]["original"]
        assert link["via"] == "origin"
        return str(link["url"])

    def logged(self, request_id: str) -> list[dict[str, Any]]:
        """Return the server's lines of one request, of each time that nginx has asked."""
        return [line for line in self.product.log_lines() if line.get("request_id") == request_id]


def folder_delivery(folder: Path, closing: ExitStack, **settings: str) -> Delivery:
    """Start all of it with photos in a folder."""
    return _start(embedded_stack(folder), folder, closing, {"STORAGE__LOCAL_GROUP_READABLE": "true", **settings})


def bucket_delivery(folder: Path, closing: ExitStack, swift: SwiftServer, **settings: str) -> Delivery:
    """Start all of it with photos in a bucket, and a fault proxy before it."""
    config = swift.config(swift.create_bucket())
    proxy = closing.enter_context(FaultProxy(swift.port))
    storage = {
        "STORAGE__BACKEND": "s3",
        "STORAGE__S3_ENDPOINT_URL": proxy.url,
        "STORAGE__S3_BUCKET": config.bucket,
        "STORAGE__S3_REGION": config.region,
        "STORAGE__S3_ACCESS_KEY_ID": config.access_key_id,
        "STORAGE__S3_SECRET_ACCESS_KEY": config.secret_access_key,
        "EDGE__CACHE_FOLDER": str(folder / "copies"),
    }
    stack = replace(embedded_stack(folder), s3_config=config, objects_folder=None, proxy=proxy)
    return replace(_start(stack, folder, closing, {**storage, **settings}), proxy=proxy)


def container_delivery(folder: Path, closing: ExitStack, swift: SwiftServer, **settings: str) -> Delivery:
    """Start all of it with photos in a container of Swift's own protocol, and a fault proxy before it."""
    proxy = closing.enter_context(FaultProxy(swift.port))
    config = swift.swift_config(swift.create_bucket(), url=proxy.url)
    # As the server's start in production does.
    swift.ask("POST", config.container, headers={"X-Container-Meta-Temp-Url-Key": TEMP_URL_KEY})
    storage = {
        "STORAGE__BACKEND": "swift",
        "STORAGE__SWIFT_AUTH_URL": config.identity.auth_url,
        "STORAGE__SWIFT_AUTH_VERSION": config.identity.version,
        "STORAGE__SWIFT_USERNAME": config.identity.username,
        "STORAGE__SWIFT_PASSWORD": config.identity.password,
        "STORAGE__SWIFT_STORAGE_URL": f"{proxy.url}/v1/AUTH_{config.identity.username.partition(':')[0]}",
        "STORAGE__SWIFT_CONTAINER": config.container,
        "STORAGE__SWIFT_TEMP_URL_KEY": TEMP_URL_KEY,
        "EDGE__CACHE_FOLDER": str(folder / "copies"),
    }
    stack = replace(embedded_stack(folder), objects_folder=None, proxy=proxy)
    return replace(_start(stack, folder, closing, {**storage, **settings}), proxy=proxy)


def _start(stack: Stack, folder: Path, closing: ExitStack, settings: dict[str, str]) -> Delivery:
    settings = {"LINKS__PRESIGNED": "false", "SERVER__TRUSTED_PROXIES": "127.0.0.1", **settings}
    edge_settings = {name: settings.pop(name) for name in [*settings] if name.startswith("EDGE__")}
    ours = {**{name.removeprefix("PHOTO_API_"): value for name, value in stack.environ.items()}, **settings}
    product = Product(stack, folder, settings={f"PHOTO_API_{name}": value for name, value in ours.items()})
    closing.callback(product.close)
    edge_folder = folder / "edge"
    edge_folder.mkdir()
    rings = KeyRings(RingFile(folder / DEFAULT_KEY_RING_FILE))
    keys = [LinkKey(key.kid, secret_of(key)) for key in rings.holding(LINK)]
    edge = Edge(edge_folder, product.url.removeprefix("http://"), {**ours, **UNLIMITED, **edge_settings}, keys)
    closing.callback(edge.stop)
    client = product.new_user()
    through = client.twin()
    through.url = edge.url
    return Delivery(product, edge, client, through, rings)
