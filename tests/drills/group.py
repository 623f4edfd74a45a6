"""Two instances of the product behind a load balancer, over one database and one store, as in a group of VMs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.load.traffic import Target
from tests.chaos.unguarded import without
from tests.servers.haproxy import Haproxy, Probing
from tests.servers.postgres import PostgresServer
from tests.servers.product import START_SECONDS, Product, until
from tests.servers.stacks import Stack, embedded_stack

INSTANCES, WORKERS = 2, 2
IDLE_LINGER_SECONDS = 2.0
"""The product's; it is no setting."""

_LINGERS = """
from app.server import worker

worker._IDLE_LINGER_SECONDS = {seconds}
"""


@dataclass(frozen=True)
class Group:
    """What runs.

    Attributes:
        instances: Two products.
        balancer: Before them.
    """

    instances: tuple[Product, ...]
    balancer: Haproxy

    @property
    def target(self) -> Target:
        """Where clients go."""
        return Target("127.0.0.1", self.balancer.port)

    def wait_until_up(self) -> None:
        """Wait until the balancer sends requests to every instance."""
        until(self.balancer.are_all_up, "the balancer to see every instance", START_SECONDS)

    def restart(self, number: int, **settings: str) -> None:
        """Stop an instance and start it with other settings."""
        self.instances[number].environ |= settings
        self.instances[number].restart()
        self.wait_until_up()


@contextmanager
def running_group(
    probing: Probing, settings: Mapping[str, str], linger_seconds: float = IDLE_LINGER_SECONDS
) -> Iterator[Group]:
    """Start everything in a temporary folder; end it afterwards.

    Args:
        probing: How the balancer probes.
        settings: Of both instances.
        linger_seconds: How long a worker that ends leaves idle connections to the balancer. One that stands still for
            longer sends requests to who has gone, and repeats none.
    """
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="photo-api-drain-")))
        postgres = PostgresServer()
        closing.callback(postgres.remove)
        if linger_seconds != IDLE_LINGER_SECONDS:
            begins = folder / "begins"
            begins.mkdir()
            settings = {**settings, **without(begins, _LINGERS.format(seconds=linger_seconds))}
        stack = _shared_stack(folder, closing.enter_context(postgres.database()))
        instances = []
        for number in range(INSTANCES):
            home = folder / f"vm{number}"
            home.mkdir()
            product = Product(stack, home, workers=WORKERS, settings=settings)
            closing.callback(product.close)
            instances.append(product)
        place = folder / "balancer"
        place.mkdir()
        balancer = Haproxy(place, [product.port for product in instances], probing=probing)
        closing.callback(balancer.stop)
        group = Group(tuple(instances), balancer)
        group.wait_until_up()
        yield group


def _shared_stack(folder: Path, database_url: str) -> Stack:
    """Return one database and one folder; writers of SQLite would wait for each other, and not for the balancer."""
    stack = embedded_stack(folder)
    return replace(
        stack, environ={**stack.environ, "PHOTO_API_DATABASE__URL": database_url}, database_url=database_url
    )
