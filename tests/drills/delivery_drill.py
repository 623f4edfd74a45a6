"""The delivery drill: CDN, storage and Redis go one by one under load, and come back in another order.

::

    python -m tests.drills.delivery_drill            half a minute at each stage (make delivery-drill)
    python -m tests.drills.delivery_drill --short    2 s at each stage, as in the test suite

It exits with 0 when all was as it should be, else with 1. ``docs/operations/delivery.md`` says what it judges.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.drills.breaker_drill import MISSING, conduct
from tests.drills.delivery import FULL, SHORT, DeliveryDrill, DeliveryPlan, Scene
from tests.drills.journal import Journal
from tests.drills.plan import SHORT as TIMES
from tests.drills.plan import WORKERS, product_settings
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.postgres_proxy import PostgresProxy
from tests.servers.cdn import CdnEdge
from tests.servers.postgres import PostgresServer
from tests.servers.product import Product
from tests.servers.redis import RedisServer
from tests.servers.stacks import cloud_stack
from tests.servers.swift import ACCOUNT_PATH, SwiftServer


def main(arguments: list[str] | None = None) -> int:
    """Run the drill and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.delivery_drill", description=__doc__)
    parser.add_argument("--short", action="store_true", help="2 s at each stage, as in the test suite")
    plan = SHORT if parser.parse_args(arguments).short else FULL
    journal = Journal()
    journal.say("Starting PostgreSQL, OpenStack Swift, Redis, the edge of a CDN, proxies, and the product.")
    try:
        with running_scene(plan) as scene:
            return conduct(DeliveryDrill(scene, plan, journal).run, journal)
    except MISSING as reason:
        journal.say(f"The drill cannot run: {reason.msg}")
        return 1


@contextmanager
def running_scene(plan: DeliveryPlan) -> Iterator[Scene]:
    """Start everything in a temporary folder; end it afterwards."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="photo-api-delivery-")))
        swift = SwiftServer(folder)
        closing.callback(swift.stop)
        postgres = PostgresServer()
        closing.callback(postgres.remove)
        redis = RedisServer(_subfolder(folder, "redis"))
        closing.callback(redis.close)
        stack = closing.enter_context(cloud_stack(swift, postgres))
        assert stack.proxy is not None
        assert stack.s3_config is not None
        bucket = stack.s3_config.bucket
        swift.ask("POST", bucket, headers={"X-Container-Read": ".r:*"})
        # Through the proxy, too: while storage is cut the edge has its copies and nothing else.
        origin, secret = f"{stack.proxy.url}{ACCOUNT_PATH}/{bucket}", secrets.token_urlsafe(32)
        edge = CdnEdge(_subfolder(folder, "edge"), origin, secret, "secure_link")
        closing.callback(edge.stop)
        edge_proxy = closing.enter_context(FaultProxy(urlsplit(edge.url).port or 0))
        redis_proxy = closing.enter_context(PostgresProxy(redis.port))
        home = _subfolder(folder, "product")
        settings = {
            **product_settings(TIMES, home),
            "PHOTO_API_CDN__BACKEND": "nginx_secure_link",
            "PHOTO_API_CDN__BASE_URL": edge_proxy.url,
            "PHOTO_API_CDN__SECURE_LINK_SECRET": secret,
            "PHOTO_API_REDIS__URL": f"redis://127.0.0.1:{redis_proxy.port}/0",
            "PHOTO_API_REDIS__TIMEOUT_SECONDS": f"{plan.redis_seconds:g}",
            "PHOTO_API_CACHE__MEMORY_SECONDS": "0.2",  # so that Redis is asked all the time
        }
        product = Product(stack, home, workers=WORKERS, settings=settings)
        closing.callback(product.close)
        yield Scene(product, edge_proxy, stack.proxy, redis_proxy)


def _subfolder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


if __name__ == "__main__":
    sys.exit(main())
