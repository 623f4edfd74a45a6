"""nginx in front of the product in front of one kind of store, as the tests of delivery need it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.fakes.fault_proxy import FaultProxy
from tests.servers.client import Client
from tests.servers.edge import Edge
from tests.servers.product import Product
from tests.servers.stacks import Stack, embedded_stack
from tests.servers.swift import SwiftServer

UNLIMITED = {"EDGE__UNLIMITED_NETWORKS": "127.0.0.0/8"}


@dataclass
class Delivery:
    """A running edge, product and store.

    Attributes:
        product: Behind the edge.
        edge: In front of it.
        client: An account, past the edge.
        through: The same account, through the edge.
        proxy: Before the object store; None for a folder.
    """

    product: Product
    edge: Edge
    client: Client
    through: Client
    proxy: FaultProxy | None = None

    def opened(self) -> float:
        """Return how many objects the server has opened."""
        return self.product.metric(
            "photo_api_external_request_duration_seconds_count", service="storage", operation="get"
        )

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


def _start(stack: Stack, folder: Path, closing: ExitStack, settings: dict[str, str]) -> Delivery:
    ours = {**{name.removeprefix("PHOTO_API_"): value for name, value in stack.environ.items()}, **settings}
    product = Product(stack, folder, settings={f"PHOTO_API_{name}": value for name, value in ours.items()})
    closing.callback(product.close)
    edge_folder = folder / "edge"
    edge_folder.mkdir()
    edge = Edge(edge_folder, product.url.removeprefix("http://"), {**ours, **UNLIMITED})
    closing.callback(edge.stop)
    client = product.new_user()
    through = client.twin()
    through.url = edge.url
    return Delivery(product, edge, client, through)
