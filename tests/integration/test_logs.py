"""What a run has logged: every line NDJSON with the contract's fields, nothing private in any of them.

The same is asked once more of all that the shared product logged, when it is closed (see ``tests/conftest.py``).
"""

from __future__ import annotations

import secrets
from typing import Any

from tests.servers.client import Client, new_photo, tomorrow
from tests.servers.product import Product, until

FIELDS = {
    "timestamp",
    "severity_text",
    "message",
    "request_id",
    "trace_id",
    "instance_ip",
    "node_name",
    "route",
    "status",
    "duration_ms",
    "user_id",
}


def test_a_request_is_one_line_with_its_fields(product: Product, owner: Client) -> None:
    request_id = f"known-{secrets.token_hex(8)}"
    photo = owner.upload()

    owner.get(photo["links"]["self"], headers={"X-Request-Id": request_id})

    def lines_of_it() -> list[dict[str, Any]]:
        return [line for line in product.log_lines() if line["request_id"] == request_id]

    until(lines_of_it, "the line")
    lines = lines_of_it()
    assert len(lines) == 1
    assert set(lines[0]) >= FIELDS
    assert (lines[0]["route"], lines[0]["status"]) == ("/api/v1/photos/<uuid:photo_id>", 200)
    assert lines[0]["user_id"] == owner.get("/api/v1/users/me").json()["id"]
    assert lines[0]["duration_ms"] > 0


def test_probes_leave_no_line(product: Product) -> None:
    client = product.client()
    request_id = f"probe-{secrets.token_hex(8)}"

    client.get("/health", headers={"X-Request-Id": request_id})
    last = client.get("/api/v1/photos")

    until(lambda: last.headers["X-Request-Id"] in product.log_path.read_text(), "the later line")
    assert request_id not in product.log_path.read_text()


def test_a_run_with_everything_that_is_private_logs_none_of_it(product: Product) -> None:
    client = product.new_user()
    title, name = f"title-{secrets.token_hex(8)}", f"holiday-{secrets.token_hex(8)}.jpg"
    body = {"name": f"key-{secrets.token_hex(8)}", "scopes": ["photos:read"], "expires_at": tomorrow()}
    api_key = client.post("/api/v1/api-keys", json=body).json()["key"]
    idempotency_key = secrets.token_hex(12)
    private = client.private | {api_key, title, name, idempotency_key, body["name"]}

    photo = client.send_form(
        new_photo(), name, fields={"title": title, "tags": title}, headers={"Idempotency-Key": idempotency_key}
    ).json()
    client.send_form(b"no image", name, fields={"title": title})
    client.get("/api/v1/photos", params={"q": title, "tag": title, "cursor": f"cursor-{title}"})
    client.get(f"/api/v1/photos/{name}")
    client.get("/api/v1/photos", headers={"X-Api-Key": api_key})
    client.get("/api/v1/photos", headers={"Cookie": f"session={title}", "Referer": f"https://x/?{title}"})
    client.patch(photo["links"]["self"], json={"title": title, name: title})
    client.post("/api/v1/auth/tokens", json={"email": client.email, "password": f"wrong {title}"})
    client.post("/api/v1/auth/tokens/refresh", json={"refresh_token": client.tokens["refresh_token"]})
    client.delete("/api/v1/users/me", json={"password": f"wrong {title}"})
    last = client.get("/api/v1/photos")

    until(lambda: last.headers["X-Request-Id"] in product.log_path.read_text(), "the last line")
    assert product.find_logged(private) == set()
