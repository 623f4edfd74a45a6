"""Renditions of real photos on the real server: every size and format, kept as long as their photo and no longer."""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
import pyvips
import requests
from PIL import Image

from tests.fakes.photos import SECRET, Photo, metadata, photos
from tests.integration.judging import assert_problem
from tests.servers.client import Client
from tests.servers.product import RENDERING, Product, until
from tests.servers.stacks import Stack

SIDES = {"thumbnail": 320, "preview": 1080, "full": 2048}
FORMATS = ("jpeg", "webp", "avif")
BROWSER = "image/avif,image/webp,image/apng,*/*;q=0.8"
WIDTH, HEIGHT = 1800, 2400
SMALL = {photo.name: photo for photo in photos()}
NAMES = (
    "jpeg-orientation-6",
    "jpeg-cmyk-tagged",
    "png-16-bit-alpha",
    "png-palette",
    "gif-animated",
    "webp-wide-gamut",
    "avif-orientation-8",
    "heic-orientation-6",
)
MADE_SECONDS = 60


@pytest.fixture(scope="module")
def product(new_stack: Callable[[], Stack], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product of these tests' own, which makes renditions right after uploads."""
    with closing(Product(new_stack(), tmp_path_factory.mktemp("renditions"), settings=RENDERING)) as running:
        yield running


def large_photo() -> bytes:
    """Return a photo of twelve megapixels' kind, lying on its side and with a camera's metadata; each is another."""
    noise = pyvips.Image.gaussnoise(HEIGHT // 8, WIDTH // 8, seed=secrets.randbelow(1 << 30)).resize(8)
    picture = noise.bandjoin([noise * 0.8 + 20, 255 - noise]).cast("uchar").copy(interpretation="srgb")
    image = Image.frombytes("RGB", (picture.width, picture.height), bytes(picture.write_to_memory()))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=88, exif=b"Exif\0\0" + metadata(orientation=6), comment=SECRET)
    return written.getvalue()


def path_of(photo: dict[str, Any], preset: str, query: str = "") -> str:
    return f"/api/v1/photos/{photo['id']}/renditions/{preset}{query}"


def opened(answer: requests.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    return image


def described(client: Client, photo: dict[str, Any]) -> dict[str, Any]:
    """Return a photo once it is known what it shows, or that it cannot be known."""

    def is_known() -> bool:
        return bool(client.get(photo["links"]["self"]).json()["processing_state"] != "waiting")

    until(is_known, "the photo's description", MADE_SECONDS)
    document: dict[str, Any] = client.get(photo["links"]["self"]).json()
    return document


def stored_renditions(product: Product, photo: dict[str, Any]) -> list[str]:
    with closing(product.stack.open_store()) as store:
        return [info.key for info in store.list(f"renditions/{photo['id'].replace('-', '')}/")]


@pytest.fixture(scope="module")
def large(owner: Client) -> dict[str, Any]:
    return owner.upload(large_photo())


@pytest.mark.parametrize("preset", SIDES)
@pytest.mark.parametrize("image_format", FORMATS)
def test_a_photo_comes_in_every_size_and_format_upright_and_bare(
    owner: Client, large: dict[str, Any], preset: str, image_format: str
) -> None:
    answer = owner.get(path_of(large, preset, f"?format={image_format}"))

    image = opened(answer)
    assert answer.headers["Content-Type"] == f"image/{image_format}"
    assert (image.format or "").lower() == image_format
    assert image.size == (SIDES[preset] * WIDTH // HEIGHT, SIDES[preset])
    assert (large["width"], large["height"]) == (WIDTH, HEIGHT)
    assert len(image.getexif()) == 0
    assert SECRET.encode() not in answer.content
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert owner.get(path_of(large, preset, f"?format={image_format}")).content == answer.content


@pytest.mark.parametrize(
    ("accept", "image_format"),
    [(BROWSER, "avif"), ("image/webp,*/*", "webp"), ("image/avif;q=0.3,image/webp;q=0.4", "webp"), ("*/*", "jpeg")],
    ids=["browser", "webp", "weighed", "any"],
)
def test_accept_decides_the_format(owner: Client, large: dict[str, Any], accept: str, image_format: str) -> None:
    answer = owner.get(path_of(large, "thumbnail"), headers={"Accept": accept})

    assert answer.headers["Content-Type"] == f"image/{image_format}"
    assert answer.headers["Vary"] == "Accept, Authorization, X-Api-Key"
    assert (opened(answer).format or "").lower() == image_format


def test_a_rendition_is_answered_like_an_original(product: Product, owner: Client, large: dict[str, Any]) -> None:
    path = path_of(large, "preview", "?format=webp")
    whole = owner.get(path)
    twin = owner.twin()  # a connection of its own may reach another worker

    part, head = twin.get(path, headers={"Range": "bytes=100-299"}), owner.head(path)
    unchanged = [
        twin.get(path, headers={"If-None-Match": whole.headers["ETag"]}),
        twin.get(path, headers={"If-Modified-Since": whole.headers["Last-Modified"]}),
    ]

    assert (part.status_code, part.content) == (206, whole.content[100:300])
    assert part.headers["Content-Range"] == f"bytes 100-299/{len(whole.content)}"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.content))
    assert [answer.status_code for answer in unchanged] == [304, 304]
    assert_problem(owner.get(path, headers={"Range": "bytes=99999999-"}), 416, "range-not-satisfiable")
    assert product.metric("photo_api_exceptions_total") == 0


def test_the_links_of_a_photo_may_be_kept_for_ever(owner: Client, large: dict[str, Any]) -> None:
    answers = {preset: owner.get(large["links"][preset], headers={"Accept": BROWSER}) for preset in SIDES}
    unversioned = owner.get(path_of(large, "thumbnail", "?format=jpeg"))

    for preset, answer in answers.items():
        assert max(opened(answer).size) == SIDES[preset]
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable, no-transform"
    assert unversioned.headers["Cache-Control"] == "private, max-age=3600, no-transform"


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_photo_is_shown_as_it_looks_and_never_enlarged(owner: Client, name: str) -> None:
    photo: Photo = SMALL[name]
    uploaded = owner.upload(photo.data)

    document = described(owner, uploaded)
    image = opened(owner.get(document["links"]["thumbnail"], headers={"Accept": "image/webp"}))

    assert (document["processing_state"], document["processing_error"]) == ("done", None)
    assert document["animated"] is (photo.frames > 1)
    assert image.size == (document["width"], document["height"]) == (photo.width, photo.height)
    assert not getattr(image, "is_animated", False)
    corner = image.convert("RGB").getpixel((5, 5))
    assert isinstance(corner, tuple)
    assert all(abs(seen - meant) <= 40 for seen, meant in zip(corner, photo.fields[0], strict=True))


def test_what_a_photo_looks_like_is_known_soon_in_every_list(owner: Client) -> None:
    answer = owner.send_form(large_photo(), fields={"tags": "described"})
    uploaded, first_tag = answer.json(), answer.headers["ETag"]

    document = described(owner, uploaded)
    (listed,) = owner.photos(tag="described")

    assert 20 <= len(document["thumbhash"]) <= 36
    assert document["dominant_color"].startswith("#")
    assert len(document["dominant_color"]) == 7
    assert listed == document
    assert first_tag != owner.get(uploaded["links"]["self"]).headers["ETag"]


def test_a_change_is_not_refused_because_the_photo_was_described_meanwhile(owner: Client) -> None:
    answer = owner.send(large_photo())
    photo = answer.json()
    described(owner, photo)

    changed = owner.patch(
        photo["links"]["self"], json={"title": "First"}, headers={"If-Match": answer.headers["ETag"]}
    )
    again = owner.patch(
        photo["links"]["self"], json={"title": "Second"}, headers={"If-Match": answer.headers["ETag"]}
    )

    assert changed.status_code == 200
    assert_problem(again, 412, "precondition-failed")


def test_small_sizes_are_made_without_being_asked_for_and_have_links(product: Product, owner: Client) -> None:
    photo = owner.upload(large_photo())
    described(owner, photo)

    def links() -> dict[str, Any]:
        found: dict[str, Any] = owner.get(f"{photo['links']['self']}/links").json()["links"]["renditions"]
        owner.private |= {urlsplit(link["url"]).query for link in found.values() if link is not None}
        return found

    until(lambda: links()["thumbnail"] and links()["preview"], "renditions that are made after an upload", 30)
    link = links()["preview"]
    url = link["url"] if link["via"] != "origin" else product.url + link["url"]
    followed = requests.get(url, timeout=30)

    assert links()["full"] is None
    assert followed.content == owner.get(path_of(photo, "preview", "?format=webp")).content
    assert followed.headers["Content-Type"] == link["content_type"] == "image/webp"
    assert opened(followed).size == (link["width"], link["height"])


def test_many_who_ask_first_get_one_rendition(product: Product, owner: Client) -> None:
    photo = owner.upload(large_photo())
    twins = [owner.twin() for _ in range(16)]

    with ThreadPoolExecutor(len(twins)) as pool:
        answers = list(pool.map(lambda twin: twin.get(path_of(photo, "full", "?format=jpeg")), twins))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len([key for key in stored_renditions(product, photo) if "/full-" in key]) == 1


def broken_photo() -> bytes:
    """Return a PNG whose structure is sound and whose pixels are none: no stream of zlib begins like them."""
    from tests.fakes.images import png_chunk

    header = (64).to_bytes(4) + (48).to_bytes(4) + bytes([8, 2, 0, 0, 0])
    chunks = [
        png_chunk(b"IHDR", header),
        png_chunk(b"IDAT", b"\xff" + secrets.token_bytes(600)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_photo_that_cannot_be_decoded_is_kept_and_says_so(owner: Client) -> None:
    content = broken_photo()
    photo = owner.upload(content)

    document = described(owner, photo)
    answer = owner.get(path_of(photo, "thumbnail"))

    assert (document["processing_state"], document["processing_error"]) == ("failed", "undecodable")
    assert (document["thumbhash"], document["dominant_color"]) == (None, None)
    assert_problem(answer, 422, "undecodable-image")
    assert owner.original(photo).content == content


def test_renditions_go_with_their_photo(product: Product, owner: Client) -> None:
    photo = owner.upload(large_photo())
    path = path_of(photo, "thumbnail", "?format=webp")
    assert owner.get(path).status_code == 200
    until(lambda: stored_renditions(product, photo), "a stored rendition")

    removed = owner.delete(photo["links"]["self"], params={"permanent": "true"})

    assert removed.status_code == 204
    assert_problem(owner.get(path), 404, "not-found")
    until(lambda: not stored_renditions(product, photo), "the end of its renditions", 60)


def test_another_owners_photo_has_no_renditions(product: Product, large: dict[str, Any]) -> None:
    stranger = product.new_user()

    assert_problem(stranger.get(path_of(large, "thumbnail")), 404, "not-found")
    assert_problem(product.client().get(path_of(large, "thumbnail")), 401, "invalid-token")
