"""Signing in at Swift's identity service: one question, and what its answer means.

Three protocols: TempAuth's v1 (headers only), Keystone's v2.0 as NHN Cloud still speaks it, Keystone v3. Each answer
gives a token, how long it lives, and in its catalogue the address of the account.

Clocks differ, so the life of a token is counted from the service's own ``Date`` (or the time that it says the token
was issued at), not from ours. The catalogue is believed as far as it is a plain address that does not lead from
``https`` to ``http``: tokens would travel in clear text.

Sources: *Object Storage API reference, Authentication* and *Identity API v2.0, v3* (docs.openstack.org);
*Object Storage API guide* (docs.nhncloud.com).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from app.errors import UnavailableError, UpstreamDeniedError
from app.storage.base import DenialReason, StorageDeniedError, StorageTokenError
from app.upstream.json_service import JsonAnswer, JsonService
from app.upstream.observing import CallObserver, SilentObserver, observed

_CATALOGUE_TYPE = "object-store"
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[\x21-\x7e]*)?")
_UNSTATED_LIFE_SECONDS = 3600.0
_LONGEST_LIFE_SECONDS = 7 * 86_400.0
_RETRY_AFTER_SECONDS = 2.0
_SILENT = SilentObserver()

DENIED: Final = "The object store refuses this server; its operator must act."
"""What clients are told; why stands in the ``__cause__``."""


@dataclass(frozen=True, slots=True)
class SwiftIdentity:
    """Where tokens come from, and who asks.

    Attributes:
        auth_url: The service with the path of its version, as in ``https://identity.example.org/v2.0``.
        version: Its protocol: TempAuth (1), Keystone v2.0 (2), Keystone v3 (3).
        username: The user.
        password: The user's password, at NHN Cloud the API password; it is not shown in ``repr``.
        tenant_id: The tenant (v2.0) or project (v3) id; v1 needs none.
        user_domain: Name of the user's domain (v3).
        region: Of the endpoint in the catalogue; None takes the first one.
        storage_url: Address of the account; None takes what the service says.
        timeout_seconds: Cap on one call.
    """

    auth_url: str
    version: Literal["1", "2", "3"]
    username: str
    password: str = field(repr=False)
    tenant_id: str | None = None
    user_domain: str = "Default"
    region: str | None = None
    storage_url: str | None = None
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class SwiftAccess:
    """What a token opens.

    Attributes:
        token: Goes into ``X-Auth-Token``; it is not shown in ``repr``.
        storage_url: The account, without a slash at its end.
        lives_seconds: For how long from now, greater than 0.
    """

    token: str = field(repr=False)
    storage_url: str
    lives_seconds: float


class TokenSource(Protocol):
    """Whoever issues tokens. Thread-safe."""

    def authenticate(self) -> SwiftAccess:
        """Ask once for a token.

        Raises:
            StorageDeniedError: The credentials, or what was configured with them, are refused.
            StorageTokenError: The service does not answer, or not with what its protocol promises.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


class IdentityService:
    """A :class:`TokenSource` over HTTP. Thread-safe; connects when first used.

    Args:
        identity: Where, and who asks.
        observer: Who hears of the calls.
    """

    def __init__(self, identity: SwiftIdentity, observer: CallObserver = _SILENT) -> None:
        self._identity = identity
        self._observer = observer
        self._service = JsonService(
            identity.auth_url,
            name="The object store's identity service",
            timeout_seconds=identity.timeout_seconds,
        )
        self._ask = {"1": self._ask_v1, "2": self._ask_v2, "3": self._ask_v3}[identity.version]

    def authenticate(self) -> SwiftAccess:
        """Ask once; see :meth:`TokenSource.authenticate`."""
        with observed(self._observer, "swift_auth", "token"):
            return self._authenticate()

    def close(self) -> None:
        """Give back connections."""
        self._service.close()

    def _authenticate(self) -> SwiftAccess:
        try:
            return self._ask()
        except UpstreamDeniedError as error:
            raise StorageDeniedError(DENIED) from DenialReason(error.detail)
        except (StorageDeniedError, StorageTokenError):
            raise
        except UnavailableError as error:
            # Its words go to the log as the cause; a client is not told of services behind the store.
            raise token_error(error.retry_after_seconds) from error
        except (AttributeError, KeyError, IndexError, OverflowError, TypeError, ValueError) as error:
            raise token_error() from error

    def _ask_v1(self) -> SwiftAccess:
        headers = {"X-Auth-User": _latin(self._identity.username), "X-Auth-Key": _latin(self._identity.password)}
        answer = _accepted(self._service.call("GET", "", headers=headers, wants_document=False))
        said = answer.headers.get("X-Auth-Token-Expires")
        lives_seconds = _UNSTATED_LIFE_SECONDS if said is None else float(int(said))
        url = self._identity.storage_url or answer.headers["X-Storage-Url"]
        return self._access(answer.headers["X-Auth-Token"], url, lives_seconds)

    def _ask_v2(self) -> SwiftAccess:
        identity = self._identity
        user = {"username": identity.username, "password": identity.password}
        body = {"auth": {"tenantId": identity.tenant_id, "passwordCredentials": user}}
        answer = _accepted(self._service.call("POST", "/tokens", json=body))
        access = _document(answer)["access"]
        token = access["token"]
        url = identity.storage_url or self._choose(_public_v2(access["serviceCatalog"]))
        return self._access(token["id"], url, _life(answer, token["expires"], token.get("issued_at")))

    def _ask_v3(self) -> SwiftAccess:
        identity = self._identity
        user = {
            "name": identity.username,
            "domain": {"name": identity.user_domain},
            "password": identity.password,
        }
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"id": identity.tenant_id}},
            }
        }
        answer = _accepted(self._service.call("POST", "/auth/tokens", json=body))
        token = _document(answer)["token"]
        url = identity.storage_url or self._choose(_public_v3(token["catalog"]))
        lives_seconds = _life(answer, token["expires_at"], token.get("issued_at"))
        return self._access(answer.headers["X-Subject-Token"], url, lives_seconds)

    def _choose(self, found: Iterator[tuple[Any, Any]]) -> str:
        wanted = self._identity.region
        for region, url in found:
            if wanted in {None, region}:
                return str(url)
        raise StorageDeniedError(DENIED) from DenialReason(
            "the identity service's catalogue has no public object store"
            + ("" if wanted is None else " in the region that PHOTO_API_STORAGE__SWIFT_REGION names")
            + ". Mend that, or say where the account is with PHOTO_API_STORAGE__SWIFT_STORAGE_URL"
        )

    def _access(self, token: str, storage_url: str, lives_seconds: float) -> SwiftAccess:
        if _TOKEN.fullmatch(token) is None or not lives_seconds > 0:
            raise token_error()
        return SwiftAccess(token, self._judge_url(storage_url), min(lives_seconds, _LONGEST_LIFE_SECONDS))

    def _judge_url(self, url: str) -> str:
        given = self._identity.storage_url
        parts = urlsplit(url)
        is_plain = _URL.fullmatch(url) is not None and not (parts.query or parts.fragment)
        if not is_plain or not parts.hostname or parts.port == 0:  # a port that is too large is a ValueError
            raise token_error()
        if given is None and parts.scheme == "http" and self._identity.auth_url.startswith("https:"):
            raise StorageDeniedError(DENIED) from DenialReason(
                "the identity service leads to an object store without TLS, where tokens would travel in clear "
                "text. If that is meant, name the address with PHOTO_API_STORAGE__SWIFT_STORAGE_URL"
            )
        return url.rstrip("/")


def token_error(retry_after_seconds: float | None = None) -> StorageTokenError:
    """Return the error for a service that gives no token now; the caller raises it."""
    return StorageTokenError(
        "The object store is not available now. Try again.",
        retry_after_seconds=retry_after_seconds or _RETRY_AFTER_SECONDS,
    )


def _accepted(answer: JsonAnswer) -> JsonAnswer:
    """Return an answer that is a success; all others are refusals, which the same question would get again."""
    if answer.is_success:
        return answer
    raise StorageDeniedError(DENIED) from DenialReason(
        f"the identity service answered {answer.status}; check PHOTO_API_STORAGE__SWIFT_AUTH_URL with its version, "
        "the user, the password and the tenant or project id"
    )


def _document(answer: JsonAnswer) -> Mapping[str, Any]:
    if answer.document is None:
        raise token_error()
    return answer.document


def _public_v2(catalogue: Any) -> Iterator[tuple[Any, Any]]:
    for service in catalogue:
        if service["type"] == _CATALOGUE_TYPE:
            for endpoint in service["endpoints"]:
                yield endpoint.get("region"), endpoint["publicURL"]


def _public_v3(catalogue: Any) -> Iterator[tuple[Any, Any]]:
    for service in catalogue:
        if service["type"] == _CATALOGUE_TYPE:
            for endpoint in service["endpoints"]:
                if endpoint["interface"] == "public":
                    yield endpoint.get("region_id") or endpoint.get("region"), endpoint["url"]


def _life(answer: JsonAnswer, expires: str, issued: str | None) -> float:
    """Return for how many seconds from now a token lives."""
    said_now = answer.headers.get("Date")
    if said_now is not None:
        now = _aware(parsedate_to_datetime(said_now))
    else:
        now = datetime.now(UTC) if issued is None else _aware(datetime.fromisoformat(issued))
    return (_aware(datetime.fromisoformat(expires)) - now).total_seconds()


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _latin(text: str) -> str:
    """Return a header's value that goes out as the UTF-8 of a text."""
    return text.encode().decode("latin-1")
