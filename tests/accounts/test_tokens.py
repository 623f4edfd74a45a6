"""Access tokens: what is in one, every forgery, times, and rotation under load."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest

from app.accounts.keyring import JWT, KeyRings, RingKey
from app.accounts.ring_file import RingFile, create_ring_file, read_ring_file, rotate_ring_file
from app.accounts.scopes import ADMIN_SCOPES, USER_SCOPES
from app.accounts.tokens import AccessTokens
from app.errors import InvalidTokenError
from tests.fakes.clocks import HandClock

USER = UUID("01890000-0000-7000-8000-000000000001")
SESSION = UUID("01890000-0000-7000-8000-000000000002")


class Issuer:
    """A ring file and what reads it; ``forge`` signs whatever it is told."""

    def __init__(self, path: Path, clock: HandClock) -> None:
        self.path = path
        self.clock = clock
        create_ring_file(path, now=clock)
        self.rings = KeyRings(RingFile(path, clock), clock)
        self.tokens = AccessTokens(self.rings, 600, clock)

    @property
    def key(self) -> RingKey:
        return self.rings.signing(JWT)

    def header(self, **changes: Any) -> dict[str, Any]:
        return {"alg": "HS256", "kid": self.key.kid, "typ": "at+jwt", **changes}

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock().timestamp())
        return {
            "iss": "urn:photo-api",
            "aud": "urn:photo-api:api",
            "sub": str(USER),
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "jti": uuid4().hex,
            "sid": str(SESSION),
            "scope": "photos:read",
            "tv": 1,
            **changes,
        }

    def forge(self, header: dict[str, Any], claims: Any, *, key: bytes | None = None, digest: str = "sha256") -> str:
        signed = f"{encode(header)}.{encode(claims)}"
        signature = hmac.digest(self.key.secret if key is None else key, signed.encode(), digest)
        return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def encode(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


@pytest.fixture
def issuer(tmp_path: Path, clock: HandClock) -> Issuer:
    return Issuer(tmp_path / "ring.json", clock)


def test_a_token_says_whose_it_is_and_holds_ten_minutes(issuer: Issuer) -> None:
    claims = issuer.tokens.read(issuer.tokens.issue(USER, SESSION, 7))

    assert (claims.user_id, claims.session_id, claims.token_version) == (USER, SESSION, 7)
    assert claims.scopes == USER_SCOPES
    assert claims.expires_at == issuer.clock().timestamp() + 600


def test_only_an_administrators_token_has_the_admin_scopes(issuer: Issuer) -> None:
    claims = issuer.tokens.read(issuer.tokens.issue(USER, SESSION, 1, is_admin=True))

    assert claims.scopes == USER_SCOPES | ADMIN_SCOPES


def test_a_token_carries_its_type_its_key_and_every_claim_of_the_design(issuer: Issuer) -> None:
    token = issuer.tokens.issue(USER, SESSION, 1)

    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})

    assert header == {"alg": "HS256", "kid": issuer.key.kid, "typ": "at+jwt"}
    assert sorted(claims) == sorted(["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid", "scope", "tv"])


def test_the_forgers_own_tools_make_a_good_token_when_nothing_is_wrong(issuer: Issuer) -> None:
    assert issuer.tokens.read(issuer.forge(issuer.header(), issuer.claims())).user_id == USER


def swap_claims(issuer: Issuer) -> str:
    header, _, signature = issuer.tokens.issue(USER, SESSION, 1).split(".")
    return f"{header}.{encode(issuer.claims(scope='admin:ops'))}.{signature}"


Forgery = Callable[[Issuer], str]
HEADER_FORGERIES: dict[str, Forgery] = {
    "alg none, no signature": lambda i: f"{encode(i.header(alg='none'))}.{encode(i.claims())}.",
    "alg none, signed": lambda i: i.forge(i.header(alg="none"), i.claims()),
    "alg None": lambda i: i.forge(i.header(alg="None"), i.claims()),
    "alg HS512, signed so": lambda i: i.forge(i.header(alg="HS512"), i.claims(), digest="sha512"),
    "alg HS384, signed so": lambda i: i.forge(i.header(alg="HS384"), i.claims(), digest="sha384"),
    "alg RS256, signed by HMAC": lambda i: i.forge(i.header(alg="RS256"), i.claims()),
    "alg EdDSA": lambda i: i.forge(i.header(alg="EdDSA"), i.claims()),
    "alg hs256": lambda i: i.forge(i.header(alg="hs256"), i.claims()),
    "alg missing": lambda i: i.forge(without(i.header(), "alg"), i.claims()),
    "alg a list": lambda i: i.forge(i.header(alg=["HS256"]), i.claims()),
    "kid missing": lambda i: i.forge(without(i.header(), "kid"), i.claims()),
    "kid unknown": lambda i: i.forge(i.header(kid="0123456789ab"), i.claims()),
    "kid of another ring": lambda i: i.forge(i.header(kid=read_ring_file(i.path)["refresh"][0].kid), i.claims()),
    "kid a path": lambda i: i.forge(i.header(kid="../../dev/null"), i.claims(), key=b""),
    "kid a number": lambda i: i.forge(i.header(kid=1), i.claims()),
    "kid null": lambda i: i.forge(i.header(kid=None), i.claims()),
    "kid a list": lambda i: i.forge(i.header(kid=[i.key.kid]), i.claims()),
    "typ JWT": lambda i: i.forge(i.header(typ="JWT"), i.claims()),
    "typ missing": lambda i: i.forge(without(i.header(), "typ"), i.claims()),
    "typ rt+jwt": lambda i: i.forge(i.header(typ="rt+jwt"), i.claims()),
    "jwk": lambda i: i.forge(i.header(jwk={"kty": "oct", "k": "AAAA"}), i.claims()),
    "jku": lambda i: i.forge(i.header(jku="https://example.org/keys"), i.claims()),
    "x5u": lambda i: i.forge(i.header(x5u="https://example.org/keys"), i.claims()),
    "x5c": lambda i: i.forge(i.header(x5c=["AAAA"]), i.claims()),
    "crit": lambda i: i.forge(i.header(crit=["exp"]), i.claims()),
    "zip": lambda i: i.forge(i.header(zip="DEF"), i.claims()),
    "b64": lambda i: i.forge(i.header(b64=False), i.claims()),
    "cty": lambda i: i.forge(i.header(cty="JWT"), i.claims()),
    "header a list": lambda i: f"{encode([])}.{encode(i.claims())}.AAAA",
    "header no JSON": lambda i: f"{encode(b'{')}.{encode(i.claims())}.AAAA",
    "header deep": lambda _: f"{encode(b'[' * 2500)}.e30.AAAA",
}
CLAIM_FORGERIES: dict[str, Forgery] = {
    "another audience": lambda i: i.forge(i.header(), i.claims(aud="urn:photo-api:share")),
    "several audiences": lambda i: i.forge(i.header(), i.claims(aud=["urn:photo-api:api", "x"])),
    "another issuer": lambda i: i.forge(i.header(), i.claims(iss="urn:other")),
    "expired": lambda i: i.forge(i.header(), i.claims(exp=int(i.clock().timestamp()) - 31)),
    "not yet": lambda i: i.forge(i.header(), i.claims(nbf=int(i.clock().timestamp()) + 31)),
    "issued in the future": lambda i: i.forge(i.header(), i.claims(iat=int(i.clock().timestamp()) + 31)),
    "exp text": lambda i: i.forge(i.header(), i.claims(exp="9999999999")),
    "exp fraction": lambda i: i.forge(i.header(), i.claims(exp=9e12)),
    "exp true": lambda i: i.forge(i.header(), i.claims(exp=True)),
    "exp null": lambda i: i.forge(i.header(), i.claims(exp=None)),
    "sub no id": lambda i: i.forge(i.header(), i.claims(sub="root")),
    "sub a number": lambda i: i.forge(i.header(), i.claims(sub=1)),
    "sid no id": lambda i: i.forge(i.header(), i.claims(sid="x")),
    "scope a list": lambda i: i.forge(i.header(), i.claims(scope=["photos:read"])),
    "tv text": lambda i: i.forge(i.header(), i.claims(tv="1")),
    "tv true": lambda i: i.forge(i.header(), i.claims(tv=True)),
    "claims a list": lambda i: i.forge(i.header(), []),
    "claims no JSON": lambda i: i.forge(i.header(), b"{"),
    "claims no text": lambda i: i.forge(i.header(), b"\xff\xfe"),
    **{
        f"{name} missing": lambda i, name=name: i.forge(i.header(), without(i.claims(), name))  # type: ignore[misc]  # the default binds the loop's name
        for name in ("iss", "aud", "sub", "iat", "nbf", "exp", "jti", "sid", "scope", "tv")
    },
}
FORM_FORGERIES: dict[str, Forgery] = {
    "another key": lambda i: i.forge(i.header(), i.claims(), key=b"k" * 32),
    "an empty key": lambda i: i.forge(i.header(), i.claims(), key=b""),
    "no signature": lambda i: i.tokens.issue(USER, SESSION, 1).rpartition(".")[0] + ".",
    "signature of another": lambda i: (
        i.tokens.issue(USER, SESSION, 1).rpartition(".")[0]
        + "."
        + i.tokens.issue(USER, SESSION, 2).rpartition(".")[2]
    ),
    "signature cut": lambda i: i.tokens.issue(USER, SESSION, 1)[:-2],
    "claims changed": swap_claims,
    "two parts": lambda i: i.tokens.issue(USER, SESSION, 1).rpartition(".")[0],
    "four parts": lambda i: i.tokens.issue(USER, SESSION, 1) + ".AAAA",
    "encrypted form": lambda i: i.tokens.issue(USER, SESSION, 1) + ".AAAA.AAAA",
    "over 4 KiB": lambda i: i.forge(i.header(), i.claims(pad="x" * 4096)),
    "a space": lambda i: i.tokens.issue(USER, SESSION, 1) + " ",
    "a line's end": lambda i: i.tokens.issue(USER, SESSION, 1) + "\n",
    "padding": lambda i: i.tokens.issue(USER, SESSION, 1) + "=",
    "not ASCII": lambda i: i.tokens.issue(USER, SESSION, 1)[:-1] + "é",
    "empty": lambda _: "",
    "dots": lambda _: "..",
    "a refresh token": lambda _: "rt_" + "A" * 43,
}


@pytest.mark.parametrize("forgery", [*HEADER_FORGERIES.items(), *CLAIM_FORGERIES.items(), *FORM_FORGERIES.items()])
def test_a_forged_token_is_refused_each_time_it_comes(issuer: Issuer, forgery: tuple[str, Forgery]) -> None:
    token = forgery[1](issuer)

    for _ in range(2):
        with pytest.raises(InvalidTokenError) as refused:
            issuer.tokens.read(token)
        assert token == "" or token not in refused.value.detail


def test_every_bit_of_the_signature_counts(issuer: Issuer) -> None:
    signed, _, signature = issuer.tokens.issue(USER, SESSION, 1).rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=")

    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidTokenError):
            issuer.tokens.read(f"{signed}.{encode(bytes(flipped))}")


def test_a_token_holds_until_its_end_and_the_leeway_also_when_remembered(issuer: Issuer, clock: HandClock) -> None:
    token = issuer.tokens.issue(USER, SESSION, 1)
    issuer.tokens.read(token)

    clock.advance(629)
    issuer.tokens.read(token)
    clock.advance(1)

    with pytest.raises(InvalidTokenError, match="expired"):
        issuer.tokens.read(token)


def test_a_clock_thirty_seconds_behind_still_reads_a_token(issuer: Issuer, clock: HandClock) -> None:
    ahead = issuer.forge(issuer.header(), issuer.claims(iat=int(clock().timestamp()) + 30))

    assert issuer.tokens.read(ahead).user_id == USER


def test_a_remembered_token_is_not_verified_again(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    token = issuer.tokens.issue(USER, SESSION, 1)
    issuer.tokens.read(token)

    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified again"))

    assert issuer.tokens.read(token).user_id == USER


def test_only_hashes_of_tokens_are_remembered_and_not_without_end(issuer: Issuer) -> None:
    token = issuer.tokens.issue(USER, SESSION, 1)
    issuer.tokens.read(token)

    assert list(issuer.tokens._verified) == [hashlib.sha256(token.encode()).digest()]
    assert issuer.tokens._verified.maxsize == 4096


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_token_of_a_retired_key_is_refused(issuer: Issuer, clock: HandClock, is_remembered: bool) -> None:
    token = issuer.tokens.issue(USER, SESSION, 1)
    if is_remembered:
        issuer.tokens.read(token)
    rotate_ring_file(issuer.path, [JWT], overlap_seconds=60, delay_seconds=5, now=clock)
    clock.advance(64)
    AccessTokens(issuer.rings, 600, clock).read(token)

    clock.advance(1)

    with pytest.raises(InvalidTokenError, match="not valid"):
        issuer.tokens.read(token)


def test_a_leaked_key_is_retired_at_once(issuer: Issuer, clock: HandClock) -> None:
    token = issuer.tokens.issue(USER, SESSION, 1)
    issuer.tokens.read(token)
    clock.advance(0.5)
    rotate_ring_file(issuer.path, [JWT], overlap_seconds=0, delay_seconds=0, now=clock)

    clock.advance(1)

    with pytest.raises(InvalidTokenError):
        issuer.tokens.read(token)
    assert issuer.tokens.read(issuer.tokens.issue(USER, SESSION, 1)).user_id == USER


def test_no_good_token_is_refused_while_the_ring_rotates_under_load(issuer: Issuer, clock: HandClock) -> None:
    """Workers with a reader of the file each: what one issues the others read, through twenty rotations."""
    workers = [AccessTokens(KeyRings(RingFile(issuer.path, clock), clock), 600, clock) for _ in range(4)]
    done = threading.Event()
    counts: list[int] = []
    kids: set[str] = set()

    def load(number: int) -> int:
        reads = 0
        while not done.is_set() or reads < 100:
            token = workers[number].issue(USER, SESSION, 1)
            kids.add(jwt.get_unverified_header(token)["kid"])
            for worker in workers:
                worker.read(token)
                reads += 1
        return reads

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load, number) for number in range(4)]
        for rotations in range(21):
            while len(kids) == rotations and not any(future.done() for future in running):
                threading.Event().wait(0.001)
            if rotations < 20:
                rotate_ring_file(issuer.path, [JWT], overlap_seconds=660, delay_seconds=5, now=clock)
                clock.advance(5)
        done.set()
        counts = [future.result(60) for future in running]

    assert len(kids) == 21
    assert min(counts) >= 100
