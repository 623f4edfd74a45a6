"""What every signer of URLs keeps, whoever the vendor is: each is tried against a verifier that is not its own.

Edge tokens and ``secure_link`` are verified by a live nginx, CloudFront's policies with the public key. An edge that
has a copy gives it out only to who shows a signature that holds.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from app.cdn.base import UrlSigner
from app.cdn.cached import CachedSigner
from app.cdn.cloudfront import CloudFrontUrlSigner
from app.cdn.edge_auth import EdgeAuthSigner
from app.cdn.guarded import GuardedSigner
from app.cdn.nginx_secure_link import SecureLinkSigner
from app.cdn.nhn import NhnSigner
from app.cdn.nhn_api import NhnApi
from app.stability import Pipeline
from app.upstream.observing import SilentObserver
from tests.servers.cdn import CdnEdge
from tests.servers.nhn_cdn import APP_KEY, ENCRYPT_KEY, SECRET_KEY, NhnCdn

SECRET = "s3cret-of-this-edge"
SECRETS = (ENCRYPT_KEY, SECRET, SECRET_KEY)
KEYS = ["o/ab/cd.jpg", "o/with space.png", "o/ä é 日本.jpg", "o/a+b&c=d?e#f.jpg", "o/100%.jpg", "o/(a)*'!,;:@$.jpg"]
BASE_PATH = "/photos"


@dataclass(frozen=True)
class Vendor:
    """One signer and who verifies what it signs.

    Attributes:
        signer: What is tried.
        base_url: What its URLs begin with.
        opens: Whether the verifier lets a URL through.
        signed: The names of the signed parts of a URL's query.
        slack_seconds: How much later than was asked the verifier still lets a URL through.
    """

    signer: UrlSigner
    base_url: str
    opens: Callable[[str], bool]
    signed: tuple[str, ...]
    slack_seconds: int = 0


class _Photo(BaseHTTPRequestHandler):
    """An origin that has every photo, and says which one it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Photo)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(20)


@pytest.fixture(scope="module")
def token_edge(origin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CdnEdge]:
    edge = CdnEdge(tmp_path_factory.mktemp("tokens"), origin, ENCRYPT_KEY)
    yield edge
    edge.stop()


@pytest.fixture(scope="module")
def link_edge(origin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CdnEdge]:
    edge = CdnEdge(tmp_path_factory.mktemp("links"), origin, SECRET, "secure_link")
    yield edge
    edge.stop()


@pytest.fixture(scope="module")
def nhn_api() -> Iterator[NhnCdn]:
    with NhnCdn() as api:
        yield api


def asks(url: str) -> bool:
    """Ask a live edge, and make sure that what it lets through is the photo."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in {400, 403, 410}:
            raise
        return False
    assert url.startswith(f"http://127.0.0.1:{url.split(':')[2].split('/', maxsplit=1)[0]}{content.decode()}?")
    return True


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def edge_auth(request: pytest.FixtureRequest) -> Vendor:
    base_url = request.getfixturevalue("token_edge").url + BASE_PATH
    signer = EdgeAuthSigner(base_url, key_hex=ENCRYPT_KEY, parameter="token")
    return Vendor(signer, base_url, asks, ("token",), slack_seconds=10)


def nhn(request: pytest.FixtureRequest) -> Vendor:
    base_url = request.getfixturevalue("token_edge").url + BASE_PATH
    api = NhnApi(
        request.getfixturevalue("nhn_api").url,
        app_key=APP_KEY,
        secret_key=SECRET_KEY,
        timeout_seconds=20,
        observer=SilentObserver(),
    )
    asking = NhnSigner(api, base_url, key_hex=ENCRYPT_KEY, parameter="token", now=now)
    return Vendor(remembered(GuardedSigner(asking, Pipeline("cdn_token"))), base_url, asks, ("token",), 11)


def secure_link(request: pytest.FixtureRequest) -> Vendor:
    base_url = request.getfixturevalue("link_edge").url + BASE_PATH
    return Vendor(SecureLinkSigner(base_url, secret=SECRET), base_url, asks, ("md5", "expires"))


def cloudfront(request: pytest.FixtureRequest) -> Vendor:
    key = request.getfixturevalue("rsa_key")
    base_url = f"https://d1.cloudfront.example{BASE_PATH}"
    signer = CloudFrontUrlSigner(base_url, key_pair_id="K2JCJMDEHXQW5F", private_key=key)

    def opens(url: str) -> bool:
        return verified_by_cloudfront(url, key.public_key())

    return Vendor(remembered(signer), base_url, opens, ("Signature", "Expires"))


class NoGauge:
    """Shows nothing."""

    def set(self, value: float) -> None:
        """Do nothing."""


def remembered(signer: UrlSigner) -> UrlSigner:
    return CachedSigner(signer, max_entries=1000, gauge=NoGauge(), now=now)


def verified_by_cloudfront(url: str, public_key: rsa.RSAPublicKey) -> bool:
    """Do what an edge of CloudFront does with a canned policy, from its guide."""
    resource, _, query = url.partition("?")
    fields = dict(part.split("=", 1) for part in query.split("&"))
    if set(fields) != {"Expires", "Signature", "Key-Pair-Id"} or not fields["Expires"].isdigit():
        return False
    condition = {"DateLessThan": {"AWS:EpochTime": int(fields["Expires"])}}
    policy = json.dumps({"Statement": [{"Resource": resource, "Condition": condition}]}, separators=(",", ":"))
    try:
        signature = base64.b64decode(fields["Signature"].translate(str.maketrans("-_~", "+=/")), validate=True)
        digest = hashes.SHA1()  # noqa: S303  # all that CloudFront verifies
        public_key.verify(signature, policy.encode(), padding.PKCS1v15(), digest)
    except (InvalidSignature, ValueError):
        return False
    return int(fields["Expires"]) > time.time()


@pytest.fixture(params=[edge_auth, nhn, secure_link, cloudfront], ids=lambda build: build.__name__)
def vendor(request: pytest.FixtureRequest) -> Iterator[Vendor]:
    vendor: Vendor = request.param(request)
    yield vendor
    vendor.signer.close()


def now() -> datetime:
    return datetime.now(UTC)


def soon() -> datetime:
    return now().replace(microsecond=0) + timedelta(minutes=30)


@pytest.mark.parametrize("key", KEYS)
def test_what_is_signed_opens_the_photo(vendor: Vendor, key: str) -> None:
    signed = vendor.signer.sign(f"/{quote(key)}", expires_at=soon())

    assert signed.url.startswith(f"{vendor.base_url}/{quote(key)}?")
    assert vendor.opens(signed.url)


def test_the_same_photo_has_the_same_url_within_a_window(vendor: Vendor) -> None:
    ends = soon()

    urls = {vendor.signer.sign("/o/ab/cd.jpg", expires_at=ends).url for _ in range(5)}

    assert len(urls) == 1


def test_another_photo_or_another_end_has_another_signature(vendor: Vendor) -> None:
    ends = soon()

    queries = {
        vendor.signer.sign(path, expires_at=at).url.partition("?")[2]
        for path, at in (("/a", ends), ("/b", ends), ("/a", ends + timedelta(seconds=60)))
    }

    assert len(queries) == 3


def test_a_url_ends_when_it_was_to_end(vendor: Vendor) -> None:
    ends = now() + timedelta(minutes=5, microseconds=999)

    signed = vendor.signer.sign("/o/ab/cd.jpg", expires_at=ends)

    assert ends - timedelta(seconds=1) <= signed.expires_at <= ends
    assert signed.expires_at.tzinfo is not None


def test_the_edge_lets_no_url_through_for_longer_than_was_asked(vendor: Vendor) -> None:
    over = now() - timedelta(seconds=vendor.slack_seconds + 1)

    try:
        url = vendor.signer.sign("/o/ab/cd.jpg", expires_at=over).url
    except ValueError:
        return  # nothing can be asked of an API for a time that is over

    assert not vendor.opens(url)


def test_what_opens_one_photo_opens_no_other(vendor: Vendor) -> None:
    query = vendor.signer.sign("/o/ab/cd.jpg", expires_at=soon()).url.partition("?")[2]

    for other in ("/o/ab/ce.jpg", "/o/ab/cd.jp", "/o/ab/cd.jpgg", "/o/ab/", "/o/AB/cd.jpg"):
        assert not vendor.opens(f"{vendor.base_url}{other}?{query}")


def test_no_bit_of_what_is_signed_can_be_another(vendor: Vendor) -> None:
    url = vendor.signer.sign("/o/ab/cd.jpg", expires_at=soon()).url
    assert vendor.opens(url)
    vendor.opens(url)  # the edge has a copy from here on
    positions = [position for name in vendor.signed for position in value_of(url, name)]
    let_through = []

    for position in positions:
        for bit in range(7):
            flipped = chr(ord(url[position]) ^ (1 << bit))
            # What cannot stand in a query, or says where a part of it ends, makes another URL and no other value.
            if flipped.isprintable() and flipped not in ' #&;\\"<>^`{|}':
                tampered = url[:position] + flipped + url[position + 1 :]
                if vendor.opens(tampered):
                    let_through.append(tampered)

    assert len(positions) > 30
    # The last character of base64 may carry bits that are none of the signature's.
    assert [tampered for tampered in let_through if bits_of(tampered) != bits_of(url)] == []
    assert len(let_through) <= 8


def test_what_lacks_a_part_or_has_it_empty_is_refused(vendor: Vendor) -> None:
    url = vendor.signer.sign("/o/ab/cd.jpg", expires_at=soon()).url
    plain, _, query = url.partition("?")
    parts = query.split("&")

    assert not vendor.opens(plain + "?" + "x=1")
    for name in vendor.signed:
        without = [p for p in parts if not p.startswith(f"{name}=")]
        assert not vendor.opens(plain + "?" + "&".join([*without, "x=1"]))
        assert not vendor.opens(plain + "?" + "&".join([*without, f"{name}="]))


HOSTILE = [
    *("", "a", "//a", "/a/../b", "/a b", "/a?x=1", "/a#b", "/a\r\nHost: evil"),
    *("/%2e%2e/a", "/a%2Fb", "/a%00", "/ä"),
]


@pytest.mark.parametrize("path", HOSTILE, ids=repr)
def test_a_path_that_could_be_read_in_two_ways_is_not_signed(vendor: Vendor, path: str) -> None:
    with pytest.raises(ValueError, match="canonical"):
        vendor.signer.sign(path, expires_at=soon())


def test_an_end_without_a_zone_is_not_signed(vendor: Vendor) -> None:
    with pytest.raises(ValueError, match="time zone"):
        vendor.signer.sign("/a", expires_at=datetime(2030, 1, 1))  # noqa: DTZ001  # what is tested


def test_no_secret_is_shown(vendor: Vendor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    signed = vendor.signer.sign("/o/ab/cd.jpg", expires_at=soon())
    with pytest.raises(ValueError, match="canonical") as caught:
        vendor.signer.sign("//", expires_at=soon())

    told = f"{vendor.signer!r} {vars(vendor.signer).keys()} {signed!r} {caught.value} {caplog.text}"

    assert not any(secret in told for secret in SECRETS)
    assert not any(secret in signed.url for secret in SECRETS)
    assert signed.url.partition("?")[2] not in told


def test_many_threads_get_what_one_gets(vendor: Vendor) -> None:
    ends = soon()
    got: list[str] = []
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait(20)
        got.extend(vendor.signer.sign(f"/o/{number}.jpg", expires_at=ends).url for number in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(got) == 160
    assert len(set(got)) == 20


def test_it_says_whose_it_is(vendor: Vendor) -> None:
    assert vendor.signer.name in {"edge_auth", "nhn", "cloudfront", "nginx_secure_link"}


def value_of(url: str, name: str) -> range:
    begins = url.index(f"{name}=") + len(name) + 1
    ends = url.find("&", begins)
    return range(begins, len(url) if ends < 0 else ends)


def bits_of(url: str) -> bytes | str:
    """Return the signature in a URL as bytes and what is around it, where it is base64; else the URL."""
    for name, alphabet in (("md5", str.maketrans("-_", "+/")), ("Signature", str.maketrans("-_~", "+=/"))):
        before, found, rest = url.partition(f"{name}=")
        if found:
            text, _, after = rest.partition("&")
            padded = text.translate(alphabet) + "=" * (-len(text) % 4)
            return f"{before}&{after}&".encode() + base64.b64decode(padded)
    return url
