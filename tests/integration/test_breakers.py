"""Breakers of the real product, set by its administrators over HTTP and by its operators at a command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from sqlalchemy import delete, update

from app.accounts.models import User
from app.db.leases import Lease
from app.ops.state import PAGE_NAME
from app.server.state_folder import STATE_FOLDER
from tests.drills.watch import BreakerWatch
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until

ADMIN = "/api/v1/admin/breakers"
WRITE = f"{ADMIN}/storage_write/state"


@pytest.fixture(scope="module")
def admin(product: Product) -> Client:
    client = product.new_user()
    with product.stack.database() as connection:
        connection.execute(update(User).where(User.email == client.email).values(is_admin=True))
    client.log_in()
    return client


def ask(product: Product, who: Client, method: str, path: str, body: object = None) -> requests.Response:
    """Ask on the management listener, on a connection of its own."""
    headers = {"Authorization": f"Bearer {who.tokens['access_token']}"}
    return requests.request(method, product.management_url + path, json=body, headers=headers, timeout=30)


@pytest.fixture
def watch(product: Product, admin: Client) -> Iterator[BreakerWatch]:
    watch = BreakerWatch(product, admin)
    yield watch
    watch.close()


def wait_for(watch: BreakerWatch, state: str) -> None:
    """Wait until the management process and every worker say that the breaker of writing is in a state."""
    watch.wait_for("storage_write", state, 20)
    until(lambda: watch.state("storage_write") == state, f"the management process to say {state}")


def test_operators_routes_are_not_on_the_public_listener(product: Product, admin: Client) -> None:
    assert_problem(admin.get(ADMIN), 404, "not-found")
    assert_problem(admin.request("PUT", WRITE, json={"state": "closed", "reason": "r"}), 404, "not-found")
    public = requests.get(f"{product.url}/openapi.json", timeout=10).json()
    ours = requests.get(f"{product.management_url}/openapi.json", timeout=10).json()
    assert not [path for path in public["paths"] if "admin" in path]
    assert ADMIN in ours["paths"]


def test_a_user_without_the_scopes_sees_and_sets_nothing(product: Product, owner: Client) -> None:
    assert_problem(ask(product, owner, "GET", ADMIN), 403, "missing-scope")
    assert_problem(ask(product, owner, "PUT", WRITE, {"state": "forced_open", "reason": "r"}), 403, "missing-scope")
    assert_problem(requests.get(product.management_url + ADMIN, timeout=10), 401, "invalid-token")


def test_what_an_administrator_sets_holds_in_every_worker(
    product: Product, admin: Client, owner: Client, watch: BreakerWatch
) -> None:
    answer = ask(product, admin, "PUT", WRITE, {"state": "forced_open", "reason": "the store is being moved"})
    try:
        assert (answer.status_code, answer.json()["is_shared"]) == (200, True)
        wait_for(watch, "forced_open")
        refused = [owner.post("/api/v1/photos", data=new_photo(), headers=JPEG).status_code for _ in range(10)]
        assert refused == [503] * 10
        listed = json.loads(product.command("breakers", "show", "storage_write", "--json").stdout)
        assert (listed["state"], listed["reason"]) == ("forced_open", "the store is being moved")
    finally:
        product.command("breakers", "reset", "storage_write", "--reason", "moved")
    wait_for(watch, "closed")
    assert owner.upload()["status"] == "created"


def test_what_an_operator_said_outlives_a_page_that_was_cut_off_and_all_workers(
    product: Product, admin: Client, watch: BreakerWatch
) -> None:
    product.command("breakers", "set", "storage_write", "forced_open", "--reason", "the store is being moved")
    try:
        wait_for(watch, "forced_open")
        before = told_by_command(product)
        os.truncate(product.folder / STATE_FOLDER / PAGE_NAME, 0)

        wait_for(watch, "forced_open")
        until(lambda: told_by_command(product) is not None, "the page to be made anew")
        until(lambda: ask(product, admin, "GET", f"{ADMIN}/storage_write").json()["is_shared"], "a page to share")
        view = ask(product, admin, "GET", f"{ADMIN}/storage_write").json()
        after = told_by_command(product)
        product.kill_workers()

        assert (view["is_shared"], view["by"], view["reason"]) == (True, before["by"], "the store is being moved")
        assert after == before
        wait_for(watch, "forced_open")
    finally:
        product.command("breakers", "reset", "storage_write", "--reason", "moved")
        with product.stack.database() as connection:
            connection.execute(delete(Lease))  # the killed worker's, which would keep the others from maintenance
    wait_for(watch, "closed")


def told_by_command(product: Product) -> Any:
    """Return what the command says of the breaker of writing; None while the page is lost."""
    shown = product.command("breakers", "show", "storage_write", "--json", check=False)
    return json.loads(shown.stdout) if shown.returncode == 0 else None


JPEG = {"Content-Type": "image/jpeg"}


def test_each_change_and_refusal_is_a_line_with_who_and_why(product: Product, admin: Client) -> None:
    user_id = admin.get("/api/v1/users/me").json()["id"]
    moves = [("metrics_only", 200), ("open", 409), ("closed", 200)]

    for state, status in moves:
        answer = ask(product, admin, "PUT", WRITE, {"state": state, "reason": "to see what would happen"})
        assert answer.status_code == status, answer.text

    def told() -> list[tuple[str, str]]:
        lines = [line for line in product.log_lines() if line.get("reason") == "to see what would happen"]
        return [
            (line["message"], line["wanted"])
            for line in lines
            if line["logger"] == "app.admin.service" and line["user_id"] == line["by"] == user_id
        ]

    expected = [
        ("a breaker was set", "metrics_only"),
        ("a breaker was not set", "open"),
        ("a breaker was set", "closed"),
    ]
    until(lambda: sorted(told()) == sorted(expected), "the log to tell all three")
