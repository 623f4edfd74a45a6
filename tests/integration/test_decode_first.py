"""``uploads.decode_first``: a photo whose pixels cannot be decoded is refused before anything of it is kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from tests.fakes.images import png_chunk
from tests.integration.judging import assert_problem
from tests.servers.client import new_photo
from tests.servers.product import Product


def broken_photo() -> bytes:
    """Return a PNG whose structure is sound and whose pixels are none: no stream of zlib begins like them."""
    header = (64).to_bytes(4) + (48).to_bytes(4) + bytes([8, 2, 0, 0, 0])
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", b"\xff" + secrets.token_bytes(600)), png_chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_only_where_it_is_set_what_cannot_be_decoded_is_refused(
    product: Product, new_product: Callable[..., Product]
) -> None:
    strict = new_product(settings={"PHOTO_API_UPLOADS__DECODE_FIRST": "true"})
    broken, sound = broken_photo(), new_photo()
    client, everyone = strict.new_user(), product.new_user()

    refused = client.send(broken)
    taken = client.send(sound)
    kept = everyone.send(broken)

    assert_problem(refused, 422, "undecodable-image")
    assert client.used_bytes() == len(sound)
    assert [photo["id"] for photo in client.photos()] == [taken.json()["id"]]
    assert (taken.status_code, kept.status_code) == (201, 201)
    strict.stop()
