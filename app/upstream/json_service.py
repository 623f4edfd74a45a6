"""Calls of a configured service that speaks JSON: identity services and the APIs of CDNs.

The service is ours by configuration and may still be broken, hijacked or slow, so nothing of it is believed: each
call has one time budget for everything (connecting, the head, every byte of the body), an answer has a size limit,
redirects are not followed, no cookie is kept, no proxy or ``.netrc`` is looked up, nothing compressed is unpacked,
and what is not one JSON object is refused. Nothing is retried here.

Neither an address nor a body is repeated in an error: they may hold keys.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import orjson
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from app.errors import UnavailableError, UpstreamContentError, UpstreamDeniedError, UpstreamTimeoutError
from app.stability.retry_after import parse_retry_after
from app.upstream.waiting import BudgetedResponse, WaitBudget

_CONNECT_SECONDS = 3.0
_CHUNK_BYTES = 64 * 1024
_DEFAULT_MAX_BYTES: Final = 1024 * 1024
_CONNECTIONS_MAX = 32
_TRY_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_OWN_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "photo-api"}


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """An answer that was understood: a success, or a refusal of what was asked (400 to 499).

    Attributes:
        status: Of HTTP.
        headers: By name, whatever its case.
        document: The JSON object; None when there was no body, none was wanted, or a refusal had none.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    document: Mapping[str, Any] | None = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status says so (200 to 299)."""
        return self.status < HTTPStatus.MULTIPLE_CHOICES


class JsonService:
    """One service. Thread-safe; connects when first used and keeps connections open.

    Args:
        base_url: ``http(s)://host[:port][/path]``; certificates are verified against the system's.
        name: What it is, for the sentences of errors: ``"The CDN's API"``.
        timeout_seconds: Cap on one call, all together; the current deadline shortens it.
        max_bytes: Cap on the body of an answer.
    """

    def __init__(
        self, base_url: str, *, name: str, timeout_seconds: float, max_bytes: int = _DEFAULT_MAX_BYTES
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.clear()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _BudgetedAdapter())

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        wants_document: bool = True,
    ) -> JsonAnswer:
        """Ask once.

        Args:
            method: Of HTTP.
            path: Appended to the base URL; begins with a slash, percent-encoded.
            headers: Besides those of every call.
            json: The body; None for none.
            wants_document: False when only status and headers count: the body may be anything, within its limit.

        Raises:
            UpstreamTimeoutError: It took too long.
            UpstreamContentError: The answer is not one JSON object, is too large, or leads elsewhere.
            UpstreamDeniedError: The service's certificate does not hold.
            UnavailableError: It cannot be reached, broke off, or says that it cannot answer now (5xx, 408, 429).
        """
        own = dict(_OWN_HEADERS) if json is None else {**_OWN_HEADERS, "Content-Type": "application/json"}
        content = None if json is None else orjson.dumps(json)
        with self._exchange(method, path, {**own, **(headers or {})}, content) as response:
            return self._judge(response, self._read(response), wants_document=wants_document)

    def look(self, path: str) -> int:
        """Ask for the head of a resource and return the status, whatever it is; redirects are not followed.

        Args:
            path: As in :meth:`call`.

        Raises:
            UpstreamTimeoutError: It took too long.
            UpstreamDeniedError: The service's certificate does not hold.
            UnavailableError: It cannot be reached, or broke off.
        """
        with self._exchange("HEAD", path, {**_OWN_HEADERS, "Accept": "*/*"}, None) as response:
            return response.status_code

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    @contextmanager
    def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes | None
    ) -> Iterator[requests.Response]:
        """Send a request and yield the answer, whose body is still to be read."""
        try:
            budget = WaitBudget(self._timeout_seconds)
            running = _budget.set(budget)
            try:
                with self._session.request(
                    method,
                    self._base_url + path,
                    headers=headers,
                    data=content,
                    timeout=(min(_CONNECT_SECONDS, budget.left_seconds()), budget.left_seconds()),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    yield response
            finally:
                _budget.reset(running)
        except UpstreamTimeoutError as error:
            raise self._timed_out() from error
        except requests.exceptions.SSLError as error:
            raise UpstreamDeniedError(
                f"{self._name} has a certificate that does not hold; an operator must act."
            ) from _reason_of(error)
        except requests.exceptions.Timeout as error:
            raise self._timed_out() from _reason_of(error)
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise UnavailableError(f"{self._name} cannot be reached. Try again.") from _reason_of(error)

    def _read(self, response: requests.Response) -> bytes:
        announced = response.headers.get("Content-Length", "0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._refused("answered with more than it may")
        received = bytearray()
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            received += chunk
            if len(received) > self._max_bytes:
                raise self._refused("answered with more than it may")
        return bytes(received)

    def _judge(self, response: requests.Response, content: bytes, *, wants_document: bool) -> JsonAnswer:
        status = response.status_code
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRY_LATER:
            asked = parse_retry_after(response.headers.get("Retry-After"))
            raise UnavailableError(
                f"{self._name} cannot answer now ({status}). Try again.", retry_after_seconds=asked
            )
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise self._refused("leads elsewhere, which is not followed")
        headers = CaseInsensitiveDict(response.headers)
        if not wants_document or not content:
            return JsonAnswer(status, headers, None)
        document = _read_object(response.headers, content)
        if document is None and status < HTTPStatus.BAD_REQUEST:
            raise self._refused("answered with something else than a JSON object")
        return JsonAnswer(status, headers, document)

    def _refused(self, what: str) -> UpstreamContentError:
        return UpstreamContentError(f"{self._name} {what}.")

    def _timed_out(self) -> UpstreamTimeoutError:
        return UpstreamTimeoutError(f"{self._name} did not answer in time. Try again.")


def _read_object(headers: Mapping[str, str], content: bytes) -> dict[str, Any] | None:
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not (media_type == "application/json" or media_type.endswith("+json")) or "Content-Encoding" in headers:
        return None
    try:
        document = orjson.loads(content)  # which refuses what nests too deeply
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _reason_of(error: BaseException) -> BaseException:
    """Return the innermost reason: the outer errors of requests and urllib3 repeat the whole address."""
    while True:
        within = (getattr(error, "reason", None), *error.args, error.__cause__)
        inner = next((part for part in within if isinstance(part, BaseException)), None)
        if inner is None:
            break
        error = inner
    said = error.strerror if isinstance(error, OSError) else None
    return OSError(f"{type(error).__name__}: {said}" if said else type(error).__name__)


_budget: ContextVar[WaitBudget] = ContextVar("upstream_wait_budget")


def _open_response(connection: socket.socket, *, method: str | None = None, **_unused: object) -> BudgetedResponse:
    return BudgetedResponse(connection, method=method, budget=_budget.get())


class _BudgetedConnection(HTTPConnection):
    response_class = staticmethod(_open_response)  # type: ignore[assignment]  # what http.client calls, by keywords


class _BudgetedTlsConnection(HTTPSConnection):
    response_class = staticmethod(_open_response)  # type: ignore[assignment]  # what http.client calls, by keywords


class _BudgetedPool(HTTPConnectionPool):
    ConnectionCls = _BudgetedConnection


class _BudgetedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _BudgetedTlsConnection


class _BudgetedAdapter(HTTPAdapter):
    """The transport: connections that read within the call's budget and trust the system's certificates."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=_CONNECTIONS_MAX, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools of requests, of our classes."""
        super().init_poolmanager(*arguments, ssl_context=ssl.create_default_context(), **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _BudgetedPool, "https": _BudgetedTlsPool}

    def cert_verify(self, conn: Any, url: str, verify: bool | str, cert: Any) -> None:  # noqa: FBT001  # requests' signature
        """Add nothing to the context of the pools, which verifies; requests would add a list of its own."""
