"""A product on PostgreSQL and a real Swift whose every way out has a barrier.

The barriers stand in proxies before Swift and PostgreSQL; the product knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.crashes import wait_for_every_worker
from tests.fakes.fault_proxy import Barrier, FaultProxy, Hold, Side
from tests.fakes.postgres_proxy import PostgresProxy
from tests.servers.client import Client
from tests.servers.postgres import PostgresServer
from tests.servers.product import START_SECONDS, Product, until
from tests.servers.stacks import Stack, cloud_stack
from tests.servers.swift import SwiftServer


@dataclass(frozen=True)
class World:
    """The product, the two proxies, and somebody with an account, who only looks."""

    product: Product
    objects: FaultProxy
    commits: PostgresProxy
    observer: Client

    @property
    def stack(self) -> Stack:
        return self.product.stack

    def hold(self, side: Side, method: str, path: str = "", *, after_bytes: int | None = None) -> Barrier:
        """Let the next request of a kind stand still on its way to Swift, or its answer on the way back."""
        barrier = Barrier()
        self.objects.inject(Hold(side, barrier, after_bytes), method=method, path=path, times=1)
        return barrier

    def heal(self) -> None:
        """Take all faults away, and wait until every worker has noticed."""
        self.objects.heal()
        had_cut = self.commits.heal()
        until(self.product.is_ready, "all workers after the test", START_SECONDS)
        if had_cut:
            wait_for_every_worker(self.product, self.observer)


@contextmanager
def open_world(
    swift: SwiftServer, postgres: PostgresServer, folder: Path, settings: Mapping[str, str]
) -> Iterator[World]:
    """Start two workers with these settings besides."""
    with cloud_stack(swift, postgres) as stack, PostgresProxy(postgres.port) as commits:
        assert stack.proxy is not None
        environ = {**stack.environ, "PHOTO_API_DATABASE__URL": commits.url(stack.database_url), **settings}
        with closing(Product(replace(stack, environ=environ), folder, workers=2)) as product:
            yield World(product, stack.proxy, commits, product.new_user())
