"""Signed links: they hold in one spelling, for one path, for a while; every other one is refused alike."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from pathlib import Path

import pytest

from app.accounts.keyring import LINK, DerivedRings, KeyRings
from app.accounts.ring_file import RingFile, create_ring_file, rotate_ring_file
from app.errors import LinkNotValidError
from app.photos.signed_links import EXTENSIONS, LinkedObject, SignedLinks, secret_of
from app.storage.local import LocalObjectStore
from tests.fakes.clocks import HandClock

KEY = "originals/0123456789abcdef/fedcba9876543210"
SHA256 = hashlib.sha256(b"a photo").hexdigest()
LIFE_SECONDS = 3600


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def rings(clock: HandClock) -> KeyRings:
    return KeyRings(DerivedRings(b"a secret of more than thirty-two bytes"), clock)


@pytest.fixture
def links(rings: KeyRings, clock: HandClock) -> SignedLinks:
    return SignedLinks(rings, now=clock)


def made(links: SignedLinks, clock: HandClock, key: str = KEY, content_type: str = "image/jpeg") -> str:
    ends = clock() + dt.timedelta(seconds=LIFE_SECONDS)
    return links.make(key, sha256=SHA256, content_type=content_type, expires_at=ends)


@pytest.fixture
def link(links: SignedLinks, clock: HandClock) -> str:
    return made(links, clock)


def holds(links: SignedLinks, target: str) -> bool:
    try:
        links.judge(target)
    except LinkNotValidError:
        return False
    return True


@pytest.mark.parametrize("content_type", EXTENSIONS)
def test_a_link_leads_to_its_object(links: SignedLinks, clock: HandClock, content_type: str) -> None:
    found = links.judge(made(links, clock, content_type=content_type))

    assert found == LinkedObject(KEY, SHA256, content_type, LIFE_SECONDS)


def test_a_link_to_a_local_store_names_the_folder_of_its_file(
    rings: KeyRings, clock: HandClock, tmp_path: Path
) -> None:
    store = LocalObjectStore(tmp_path)
    links = SignedLinks(rings, files=store, now=clock)

    link = made(links, clock)

    assert link.startswith(f"/o/{store.folder_of(KEY)}/{SHA256}.jpg?exp=")
    assert links.judge(link).object_key == KEY


def test_the_signature_is_the_one_that_nginx_computes(links: SignedLinks, rings: KeyRings, clock: HandClock) -> None:
    signing = rings.signing(LINK)
    exp = int(clock().timestamp()) + LIFE_SECONDS
    path = f"/o/{KEY}/{SHA256}.jpg"
    signed = f"{secret_of(signing)} {exp} {path} {secret_of(signing)}"
    digest = hashlib.md5(signed.encode()).digest()  # noqa: S324  # what nginx's secure_link takes
    sig = base64.urlsafe_b64encode(digest).decode().rstrip("=")

    assert made(links, clock) == f"{path}?exp={exp}&kid={signing.kid}&sig={sig}"


def test_links_begin_with_the_address_that_is_configured_and_are_judged_without(
    rings: KeyRings, clock: HandClock
) -> None:
    links = SignedLinks(rings, public_url="https://photos.example.org/", now=clock)

    link = made(links, clock)

    assert link.startswith("https://photos.example.org/o/originals/")
    assert holds(links, link.removeprefix("https://photos.example.org"))
    assert not holds(links, link)


def test_each_bit_of_each_signed_field_counts(links: SignedLinks, link: str) -> None:
    octets = link.encode()
    changed = [
        (octets[:at] + bytes([octets[at] ^ (1 << bit)]) + octets[at + 1 :]).decode("latin-1")
        for at in range(len(octets))
        for bit in range(8)
    ]

    assert [target for target in changed if holds(links, target)] == []
    assert holds(links, link)


def test_a_signature_in_another_spelling_of_the_same_octets_is_refused(links: SignedLinks, link: str) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    digest = base64.urlsafe_b64decode(link[-22:] + "==")
    same = [link[:-1] + last for last in alphabet if base64.urlsafe_b64decode(link[-22:-1] + last + "==") == digest]

    assert len(same) == 16
    assert [target for target in same if holds(links, target)] == [link]
    assert not holds(links, link + "==")


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("/o/originals", "/o/Originals"),
        ("/o/originals", "/O/originals"),
        ("/o/originals/", "/o/originals%2f"),
        ("/o/originals/", "/o/originals%2F"),
        ("/o/originals", "/o/%6friginals"),
        ("/o/originals", "/o//originals"),
        ("/o/originals", "//o/originals"),
        ("/o/originals", "/o/./originals"),
        ("/o/originals", "/o/x/../originals"),
        ("/o/originals/", "/o/originals//"),
        ("/o/originals", "/o/originals;x=1"),
        (".jpg?", ".jpg/?"),
        (".jpg?", ".jpg;?"),
        (".jpg?", ".jpeg?"),
        (".jpg?", ".png?"),
        (".jpg?", ".JPG?"),
        (".jpg?", ".jpg%3f"),
        (".jpg?", ".jpg??"),
        (".jpg?", ".jpg?&"),
        (".jpg?", "?"),
        ("?exp=", "?x=1&exp="),
        ("?exp=", "?EXP="),
        ("?exp=", "?exp=+"),
        ("?exp=", "?exp=0"),
        ("?exp=", "?exp=%30"),
        ("&kid=", "&&kid="),
        ("&kid=", ";kid="),
        ("&kid=", "&amp;kid="),
        ("&sig=", "&exp=9999999999&sig="),
        ("&sig=", "&kid=x&sig="),
        ("&sig=", "&sig=&sig="),
        ("&sig=", "&x&sig="),
    ],
)
def test_another_spelling_of_a_link_is_refused(links: SignedLinks, link: str, part: str, other: str) -> None:
    assert part in link

    assert not holds(links, link.replace(part, other, 1))


@pytest.mark.parametrize("more", ["&", "#", "#x", "&x=1", " ", "\n", "\0", "%00", "=", "/", "?", "&sig=x", "é", "٣"])
def test_whatever_follows_a_link_makes_it_none(links: SignedLinks, link: str, more: str) -> None:
    assert not holds(links, link + more)


def test_parameters_in_another_order_are_refused(links: SignedLinks, link: str) -> None:
    path, _, query = link.partition("?")
    exp, kid, sig = query.split("&")

    for order in ([kid, exp, sig], [sig, kid, exp], [exp, sig, kid], [exp, kid], [exp, sig], [kid, sig], []):
        assert not holds(links, f"{path}?{'&'.join(order)}")
    assert not holds(links, path)


def test_a_signature_holds_for_its_own_path_and_end_only(links: SignedLinks, clock: HandClock, link: str) -> None:
    other = made(links, clock, f"{KEY}0")
    clock.advance(1)
    later = made(links, clock)

    signature = link[-22:]

    assert not holds(links, other[:-22] + signature)
    assert not holds(links, later[:-22] + signature)
    assert holds(links, other)
    assert holds(links, later)


def test_a_link_holds_until_its_last_second_and_no_longer(links: SignedLinks, clock: HandClock, link: str) -> None:
    clock.advance(LIFE_SECONDS)
    last = links.judge(link)
    clock.advance(1)

    assert last.seconds_left == 0
    with pytest.raises(LinkNotValidError, match="ended"):
        links.judge(link)


def test_a_changed_end_is_told_as_any_other_change(links: SignedLinks, clock: HandClock, link: str) -> None:
    clock.advance(LIFE_SECONDS + 1)

    with pytest.raises(LinkNotValidError, match="not valid"):
        links.judge(re.sub(r"exp=\d+", "exp=9999999999", link))


def test_a_link_to_an_object_of_another_kind_of_store_is_refused(
    links: SignedLinks, rings: KeyRings, clock: HandClock, tmp_path: Path, link: str
) -> None:
    local = SignedLinks(rings, files=LocalObjectStore(tmp_path), now=clock)

    assert not holds(local, link)
    assert not holds(links, made(local, clock))


def test_links_hold_over_a_rotation_and_a_leaked_key_is_retired_at_once(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "ring.json"
    create_ring_file(path, now=clock)
    links = SignedLinks(KeyRings(RingFile(path, clock), clock), now=clock)
    first = made(links, clock)

    rotate_ring_file(path, [LINK], overlap_seconds=LIFE_SECONDS, delay_seconds=0, now=clock)
    clock.advance(1)
    second = made(links, clock)
    both = holds(links, first), holds(links, second)
    rotate_ring_file(path, [LINK], overlap_seconds=0, delay_seconds=0, now=clock)
    clock.advance(1)

    assert both == (True, True)
    assert (holds(links, first), holds(links, second)) == (False, False)
    assert holds(links, made(links, clock))


def test_an_unknown_key_is_no_key(links: SignedLinks, link: str) -> None:
    assert not holds(links, re.sub(r"kid=[^&]+", "kid=unknown", link))
