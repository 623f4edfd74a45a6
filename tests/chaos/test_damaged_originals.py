"""Originals that storage has damaged, cut or lost: the client sees that it failed, never a clean wrong photo."""

from __future__ import annotations

import secrets
from typing import Any
from uuid import UUID

import pytest
import requests
from sqlalchemy import select

from app.photos.models import Photo
from tests.fakes.fault_proxy import Cut, Flip
from tests.integration.judging import assert_problem
from tests.servers.client import Client, new_photo
from tests.servers.product import Product, until

SIZES = [100_000, 2_000_000]


def object_key(product: Product, photo: dict[str, Any]) -> str:
    with product.stack.database() as connection:
        key: str = connection.execute(select(Photo.object_key).where(Photo.id == UUID(photo["id"]))).scalar_one()
        return key


def damage(product: Product, photo: dict[str, Any], how: str) -> None:
    """Let storage give other bytes than it was given: on the way, or on the disk."""
    at = photo["size_bytes"] - 5_000
    if product.stack.proxy is not None:
        fault = Cut(at) if how == "cut" else Flip("response", at)
        product.stack.proxy.inject(fault, method="GET", path=object_key(product, photo))
        return
    assert product.stack.objects_folder is not None
    [file] = product.stack.objects_folder.rglob(photo["sha256"])
    with file.open("r+b") as content:
        if how == "cut":
            content.truncate(at)
        else:
            content.seek(at)
            flipped = bytes([content.read(1)[0] ^ 1])
            content.seek(at)
            content.write(flipped)


def errors_of(product: Product, request_id: str) -> list[dict[str, Any]]:
    lines = product.log_lines()
    return [line for line in lines if (line["request_id"], line["severity_text"]) == (request_id, "ERROR")]


def mend(product: Product) -> None:
    if product.stack.proxy is not None:
        product.stack.proxy.heal()


@pytest.mark.parametrize("how", ["cut", "flipped"])
@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=0-"}], ids=["whole", "range-over-all"])
def test_rows_11_and_12_a_damaged_photo_is_never_a_whole_answer(
    product: Product, user: Client, asked: dict[str, str], size_bytes: int, how: str
) -> None:
    content = new_photo()[:-16] + secrets.token_bytes(size_bytes)
    photo = user.upload(content)
    mismatches = product.metric("photo_api_checksum_mismatch_total")
    damage(product, photo, how)

    received = b""
    request_id = f"damaged-{secrets.token_hex(8)}"
    try:
        answer = user.get(photo["links"]["original"], stream=True, headers={"X-Request-Id": request_id, **asked})
        for piece in answer.iter_content(50_000):
            received += piece
    except requests.RequestException:
        assert len(received) < len(content)
    else:
        assert answer.status_code in {502, 503}
        assert answer.headers["Content-Type"] == "application/problem+json"
    finally:
        mend(product)

    if how == "flipped":
        until(
            lambda: product.metric("photo_api_checksum_mismatch_total") == mismatches + 1, "the damage to be counted"
        )
        until(lambda: errors_of(product, request_id), "the damage in the log")
        user.twin().get(photo["links"]["self"])
        assert [line["route"] for line in errors_of(product, request_id)] == [
            "/api/v1/photos/<uuid:photo_id>/original"
        ]
        assert "Error handling request" not in product.log_path.read_text()
    assert user.twin().get(photo["links"]["self"]).status_code == 200
    if product.stack.proxy is not None:
        assert user.twin().original(photo).content == content


def test_row_14_a_photo_whose_object_is_missing_is_502_and_not_404(product: Product, user: Client) -> None:
    photo = user.upload()
    store = product.stack.open_store()
    store.delete(object_key(product, photo))
    store.close()

    answer = user.original(photo)

    assert_problem(answer, 502, "object-missing")
    assert_problem(user.get(photo["links"]["original"], headers={"Range": "bytes=0-"}), 502, "object-missing")
    assert [item["id"] for item in user.photos()] == [photo["id"]]
    assert user.get(photo["links"]["original"], headers={"If-None-Match": f'"{photo["sha256"]}"'}).status_code == 304

    # The product is shared: later tests compare all its objects with all its rows.
    assert user.delete(f"{photo['links']['self']}?permanent=true").status_code == 204


def test_a_photo_whose_file_alone_is_missing_is_502_and_healed_by_removing_and_uploading_it(
    product: Product, user: Client
) -> None:
    content = new_photo()
    photo = user.upload(content)
    if product.stack.objects_folder is None:
        store = product.stack.open_store()
        store.delete(object_key(product, photo))
        store.close()
    else:
        [file] = product.stack.objects_folder.rglob(photo["sha256"])
        file.unlink()

    assert_problem(user.original(photo), 502, "object-missing")
    found = product.command("reconcile", "--grace-seconds", "0", check=False)
    assert found.returncode == 1
    assert f"photo without its object: {photo['id']}" in found.stdout

    assert user.delete(f"{photo['links']['self']}?permanent=true").status_code == 204
    again = user.upload(content)
    assert user.original(again).content == content
