"""Uploads: raw and multipart, what is read from the photo, digests, duplicates, the quota."""

from __future__ import annotations

import hashlib
import io

import pytest

from tests.fakes import images
from tests.fakes.exif import ExifFacts
from tests.integration.judging import assert_problem, head_of, send_raw, set_quota, stored
from tests.servers.client import Client, new_photo, repr_digest, tomorrow
from tests.servers.product import Product, until


def test_a_raw_photo_is_stored_and_comes_back_byte_for_byte(owner: Client) -> None:
    content = new_photo()

    answer = owner.send(content)

    photo = answer.json()
    assert (answer.status_code, photo["status"], photo["state"]) == (201, "created", "ready")
    assert answer.headers["Location"] == photo["links"]["self"] == f"/api/v1/photos/{photo['id']}"
    assert photo["sha256"] == hashlib.sha256(content).hexdigest()
    assert photo["size_bytes"] == len(content)
    assert owner.original(photo).content == content


def test_a_form_brings_its_fields_along(owner: Client) -> None:
    fields = {
        "title": "Harbour",
        "description": "At dawn,\nbefore the rain",
        "tags": ["sea, morning", "boats"],
        "taken_at": "2021-06-01T05:00:00+02:00",
    }

    answer = owner.send_form(new_photo(), "harbour-at-dawn.jpg", fields=fields)

    photo = answer.json()
    assert answer.status_code == 201
    assert (photo["title"], photo["description"]) == ("Harbour", "At dawn,\nbefore the rain")
    assert photo["tags"] == ["sea", "morning", "boats"]
    assert photo["taken_at"] == "2021-06-01T03:00:00Z"
    assert photo["original_filename"] == "harbour-at-dawn.jpg"
    shown = owner.get(photo["links"]["self"]).json()
    assert shown == {name: value for name, value in photo.items() if name != "status"}


@pytest.mark.parametrize("sample", images.samples(), ids=lambda sample: sample.name)
def test_every_format_is_told_by_its_content(owner: Client, sample: images.Sample) -> None:
    answer = owner.send(sample.data, headers={"Content-Type": "application/octet-stream"})

    photo = answer.json()
    assert answer.status_code in {200, 201}
    assert photo["content_type"] == sample.content_type
    assert (photo["width"], photo["height"]) == (sample.width, sample.height)
    original = owner.original(photo)
    assert (original.content, original.headers["Content-Type"]) == (sample.data, sample.content_type)


def test_camera_time_and_orientation_are_read_and_the_place_needs_its_scope(product: Product, owner: Client) -> None:
    facts = ExifFacts(orientation=6, latitude=59.91, longitude=-10.75)
    photo = owner.upload(images.jpeg(40, 30, seed=99, exif=facts))
    key = owner.post(
        "/api/v1/api-keys", json={"name": "lists", "scopes": ["photos:read"], "expires_at": tomorrow()}
    ).json()["key"]
    owner.private.add(key)

    with_place = owner.get(photo["links"]["self"]).json()
    without = product.client().get(photo["links"]["self"], headers={"X-Api-Key": key})

    assert (photo["width"], photo["height"]) == (30, 40)
    assert (photo["camera"], photo["taken_at"]) == ("Fujifilm X-T5", "2024-05-01T10:30:00Z")
    assert with_place["place"] == {"latitude": pytest.approx(59.91), "longitude": pytest.approx(-10.75)}
    assert without.status_code == 200
    assert "place" not in without.json()


def test_the_tag_of_an_upload_is_not_that_of_the_document_that_tells_the_place(owner: Client) -> None:
    content = images.jpeg(40, 30, seed=100, exif=ExifFacts(latitude=59.91, longitude=-10.75))
    uploaded, again = owner.send(content), owner.send(content)
    path, tag = uploaded.json()["links"]["self"], uploaded.headers["ETag"]

    answer = owner.get(path, headers={"If-None-Match": tag})
    changed = owner.patch(path, json={"title": "x"}, headers={"If-Match": tag})

    assert "place" not in uploaded.json().keys() | again.json().keys()
    assert answer.status_code == 200
    assert "place" in answer.json()
    assert changed.status_code == 200


def test_the_same_bytes_again_are_a_duplicate_and_count_once(owner: Client) -> None:
    content = new_photo()
    photo = owner.upload(content, title="first")
    used = owner.used_bytes()

    again = owner.send_form(content, fields={"title": "second"})

    assert again.status_code == 200
    assert (again.json()["id"], again.json()["status"], again.json()["title"]) == (photo["id"], "duplicate", "first")
    assert owner.used_bytes() == used


def test_the_same_bytes_of_another_owner_are_another_photo(owner: Client, user: Client) -> None:
    content = new_photo()
    mine = owner.upload(content)

    theirs = user.upload(content)

    assert theirs["id"] != mine["id"]
    assert_problem(user.get(mine["links"]["self"]), 404, "not-found")


def test_a_duplicate_in_the_trash_says_since_when(owner: Client) -> None:
    content = new_photo()
    photo = owner.upload(content)
    owner.delete(photo["links"]["self"])

    again = owner.send(content)

    assert again.status_code == 200
    assert again.json()["trashed_at"] is not None


@pytest.mark.parametrize("more", [(), ("Idempotency-Key: not-used-before",)], ids=["no key", "a new key"])
def test_a_known_digest_is_answered_before_the_body_is_sent(
    product: Product, owner: Client, more: tuple[str, ...]
) -> None:
    content = new_photo()
    photo = owner.upload(content)
    announced = head_of(
        owner,
        "/api/v1/photos",
        "Content-Type: image/jpeg",
        "Content-Length: 10000000",
        f"Repr-Digest: {repr_digest(content)}",
        *more,
    )

    answer = send_raw(product, announced, half_close=False)

    assert answer.status == 200
    assert photo["id"].encode() in answer.body


def test_a_known_digest_does_not_hide_that_its_key_was_used_for_another_photo(owner: Client) -> None:
    known = new_photo()
    owner.upload(known)
    owner.send(new_photo(), headers={"Idempotency-Key": "used-before"})

    answer = owner.send(known, headers={"Idempotency-Key": "used-before", "Repr-Digest": repr_digest(known)})

    assert answer.status_code == 422
    assert answer.json()["type"].endswith("idempotency-key-reused")


def test_a_digest_that_fits_is_taken_and_one_that_does_not_is_refused(product: Product, user: Client) -> None:
    content, other = new_photo(), new_photo()

    wrong = user.send(content, headers={"Repr-Digest": repr_digest(other)})
    unreadable = user.send(content, headers={"Repr-Digest": "sha-256=:abc:"})
    before = stored(product, user)
    right = user.send(content, headers={"Repr-Digest": f"md5=:AAAA:, {repr_digest(content)}"})

    assert_problem(wrong, 400, "digest-mismatch")
    assert_problem(unreadable, 400, "malformed-request")
    assert before == (0, 0)
    assert right.status_code == 201


def test_a_chunked_body_needs_no_length(owner: Client) -> None:
    content = new_photo(3_000_000)

    answer = owner.send(iter([content[:1_000_000], content[1_000_000:]]))

    assert answer.status_code == 201
    assert owner.original(answer.json()).content == content


def test_what_follows_a_chunked_body_says_nothing(product: Product, user: Client) -> None:
    content = new_photo(100_000)
    head = head_of(user, "/api/v1/photos", "Content-Type: image/jpeg", "Transfer-Encoding: chunked")
    trailers = f"Repr-Digest: {repr_digest(b'other')}\r\nIdempotency-Key: in-a-trailer\r\nX-Checksum: 1\r\n\r\n"

    answer = send_raw(product, head + b"%x\r\n%b\r\n0\r\n" % (len(content), content) + trailers.encode())

    assert answer.status == 201
    assert [photo["size_bytes"] for photo in user.photos()] == [len(content)]


def test_a_photo_of_thirty_megabytes_is_taken(owner: Client) -> None:
    content = new_photo(30_000_000)

    answer = owner.send_form(content)

    assert answer.status_code == 201
    assert hashlib.sha256(owner.original(answer.json()).content).hexdigest() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_a_body_over_the_limit_is_refused_and_nothing_is_kept(product: Product, user: Client, kind: str) -> None:
    content = new_photo(31_457_281)
    if kind == "raw":
        head = head_of(user, "/api/v1/photos", "Content-Type: image/jpeg", f"Content-Length: {len(content)}")
        answer = send_raw(product, head, half_close=False)
        assert answer.status == 413
    else:
        body = io.BytesIO(content)
        chunks = iter(lambda: body.read(1_000_000), b"")
        sent = user.send(chunks) if kind == "chunked" else user.send_form(content)
        assert_problem(sent, 413, "payload-too-large")

    assert stored(product, user) == (0, 0)
    until(lambda: product.spooled_files() == [], "the spool to be empty")


def test_the_quota_holds_to_the_byte_and_the_trash_counts(product: Product, user: Client) -> None:
    first, second = new_photo(), new_photo()
    set_quota(product, user, len(first) + len(second) - 1)
    photo = user.upload(first)

    full = user.send(second)
    user.delete(photo["links"]["self"])
    still_full = user.send(second)
    user.delete(photo["links"]["self"], params={"permanent": "true"})
    room = user.send(second)

    assert_problem(full, 507, "quota-exceeded")
    assert_problem(still_full, 507, "quota-exceeded")
    assert room.status_code == 201
    assert user.used_bytes() == len(second)
