"""Health and metrics of the real product on both listeners."""

from __future__ import annotations

import os
import signal

import pytest
import requests

from tests.integration.judging import assert_problem
from tests.servers.client import Client
from tests.servers.product import Product, until

PROBES = ["/health/liveness", "/health/readiness", "/health", "/__lbheartbeat__", "/__heartbeat__", "/__version__"]


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_probes_answer_on_both_listeners_to_any_host(product: Product, path: str, method: str) -> None:
    for base in (product.url, product.management_url):
        answer = requests.request(method, base + path, headers={"Host": "10.1.2.3"}, timeout=10)

        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert (answer.content == b"") is (method == "HEAD")


def test_a_sound_product_passes_with_every_component(product: Product) -> None:
    def document() -> dict[str, object]:
        answer = requests.get(f"{product.url}/health", timeout=10)
        assert answer.headers["Content-Type"] == "application/health+json"
        return dict(answer.json())

    until(lambda: document()["status"] == "pass", "all components to pass")
    assert {"database", "storage", "spool", "memory", "log"} <= set(document()["checks"])  # type: ignore[call-overload]  # it is JSON, a mapping


def test_details_and_metrics_are_private_and_say_nothing_private(product: Product, owner: Client) -> None:
    for path in ("/metrics", "/health/detailed", "/api/v1/admin/users"):
        assert_problem(owner.get(path), 404, "not-found")
    details = requests.get(f"{product.management_url}/health/detailed", timeout=10)
    metrics = requests.get(f"{product.management_url}/metrics", timeout=10)

    assert (details.status_code, metrics.status_code) == (200, 200)
    assert product.metric("photo_api_management_http_request_total", method="GET", status="200") >= 2
    for private in (str(product.folder), owner.email, "postgresql+", "sqlite:", "testing"):
        assert private not in details.text
        assert private not in metrics.text
    for base in (product.management_url,):
        assert requests.get(f"{base}/api/v1/photos", timeout=10).status_code == 404


def test_requests_are_counted_once_by_template(product: Product, owner: Client) -> None:
    route = "/api/v1/photos/<uuid:photo_id>"
    url = owner.upload()["links"]["self"]
    before = product.metric("photo_api_http_requests_total", method="GET", code="200", route=route)

    for _ in range(10):
        owner.get(url)

    after = product.metric("photo_api_http_requests_total", method="GET", code="200", route=route)
    assert after == before + 10
    routes = {labels["route"] for name, labels, _ in product.metrics() if name == "photo_api_http_requests_total"}
    assert not [route for route in routes if url in route]


def test_uploads_move_the_metrics_of_storage_and_database(product: Product, owner: Client) -> None:
    def puts() -> float:
        name = "photo_api_external_request_duration_seconds_count"
        return product.metric(name, service="storage", operation="put", outcome="success")

    before, queries = puts(), product.metric("photo_api_db_query_duration_seconds_count")

    owner.upload()

    assert puts() == before + 1
    assert product.metric("photo_api_db_query_duration_seconds_count") > queries
    size = 40 * product.workers
    until(lambda: product.metric("photo_api_db_pool_max_connections") == size, "every worker to tell its pool's size")
    until(lambda: product.metric("photo_api_in_flight_requests") == 0, "nothing in flight")
    until(lambda: product.metric("photo_api_db_pool_active_connections") == 0, "all connections back")


def test_counts_outlive_a_worker_and_the_product_goes_on(product: Product, owner: Client) -> None:
    before = product.metric("photo_api_http_requests_total", method="POST", code="201")
    owner.upload()
    victim = min(product.worker_pids())

    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in product.worker_pids() and product.is_ready(), "another worker", 40)

    assert owner.twin().upload()["status"] == "created"
    assert product.metric("photo_api_http_requests_total", method="POST", code="201") == before + 2
