"""The object store in one container of OpenStack Swift, spoken to in its own protocol: NHN Cloud, and others.

Bytes go over this package's own keep-alive connections, as those of S3 do; the tokens come from ``swift_auth.py``,
whose calls are carried by requests. A time-out of requests starts anew with every byte received, and a photo through
it costs two to four times the CPU (``docs/adr/0025``).

What every PUT carries: ``ETag`` (Swift checks the MD5, 422 else), ``If-None-Match: *`` (never replaces),
``X-Object-Meta-Sha256`` (checked again when it is read). The answer's ETag is compared. Nothing is retried here, but
for one: a token that Swift refuses is replaced once, and the request sent once more with its body from the start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from functools import partial
from http import HTTPStatus
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from app.storage.base import (
    Body,
    DenialReason,
    ObjectCorruptError,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectReader,
    StorageDeniedError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    check_key,
    check_range,
    is_valid_key,
    judge_existing,
)
from app.storage.connections import ConnectionPool, Exchange
from app.storage.opening import open_answer, range_headers
from app.storage.reading import WaitBudget
from app.storage.swift_answers import LARGEST_BYTES, read_answer_error, read_etag, read_info, read_page, storage_error
from app.storage.swift_auth import SwiftTokens
from app.storage.swift_identity import DENIED, IdentityService, SwiftAccess, SwiftIdentity

_SMALL_BYTES = 1024 * 1024
_GOOD: Final = frozenset(
    {
        HTTPStatus.OK,
        HTTPStatus.CREATED,
        HTTPStatus.ACCEPTED,
        HTTPStatus.NO_CONTENT,
        HTTPStatus.PARTIAL_CONTENT,
    }
)
_NOT_HONOURED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_NO_CONTAINER = (
    "the account has no such container; check PHOTO_API_STORAGE__SWIFT_CONTAINER and, where it is set, the account "
    "in PHOTO_API_STORAGE__SWIFT_STORAGE_URL, and make the container if it is not there"
)


@dataclass(frozen=True, slots=True)
class SwiftConfig:
    """Where the container is and how to reach it.

    Attributes:
        identity: Where tokens come from.
        container: The container, which exists already.
        max_connections: How many requests may be under way at once in this process.
        connect_timeout_seconds: The longest wait for a connection.
        upload_timeout_seconds: The longest a PUT may wait for the store, all together.
        download_timeout_seconds: The same for every other request, the bytes of a GET included.
        page_size: How many keys a page of a listing has, 1 to 10,000.
    """

    identity: SwiftIdentity
    container: str
    max_connections: int = 32
    connect_timeout_seconds: float = 3.0
    upload_timeout_seconds: float = 60.0
    download_timeout_seconds: float = 60.0
    page_size: int = 1000


class _Endpoint(NamedTuple):
    """One address of the account: its connections, and where the container begins.

    Attributes:
        storage_url: The address.
        host: For the header ``Host``.
        container_path: Path of the container, encoded.
        pool: Its connections.
    """

    storage_url: str
    host: str
    container_path: str
    pool: ConnectionPool


class _Request(NamedTuple):
    """What is asked, token and address left aside.

    Attributes:
        method: Of HTTP.
        key: Of the object; None for the container.
        headers: All but ``Host`` and the token.
        query: Not encoded.
        body: Opened anew for each attempt; None for none.
    """

    method: str
    key: str | None
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: Body | None


class SwiftObjectStore:
    """An :class:`app.storage.base.ObjectStore` in one container. Thread-safe; connects when first used.

    Args:
        config: Where the container is and how to reach it.
        tokens: Where tokens come from; None for the identity service itself, with nothing before it.
    """

    def __init__(self, config: SwiftConfig, *, tokens: SwiftTokens | None = None) -> None:
        self._config = config
        self._tokens = tokens or SwiftTokens(IdentityService(config.identity))
        self._lock = threading.Lock()
        self._endpoint: _Endpoint | None = None

    def put(self, key: str, body: Body, *, content_type: str) -> ObjectInfo:
        """Create an object; see :meth:`app.storage.base.ObjectStore.put`."""
        check_key(key)
        if body.size_bytes > LARGEST_BYTES:
            raise StorageFullError("An object of more than 5 GiB does not fit into this object store in one piece.")
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(body.size_bytes),
            "ETag": body.md5,
            "If-None-Match": "*",
            "X-Object-Meta-Sha256": body.sha256,
        }
        budget = WaitBudget(self._config.upload_timeout_seconds)
        try:
            exchange = self._send("PUT", key, budget, headers, body=body)
        except ObjectExistsError:
            return judge_existing(self, key, body)
        except ObjectNotFoundError:
            raise StorageDeniedError(DENIED) from DenialReason(_NO_CONTAINER)
        etag = read_etag(exchange.response.headers)
        exchange.finish()
        if etag != body.md5:
            with suppress(StorageError):
                self.delete(key)
            raise ObjectCorruptError("The object store kept other bytes than were sent. Try again.")
        return ObjectInfo(key, body.size_bytes, body.sha256, datetime.now(UTC))

    def head(self, key: str) -> ObjectInfo:
        """Return an object's facts; see :meth:`app.storage.base.ObjectStore.head`."""
        check_key(key)
        budget = self._budget()
        exchange = self._find("HEAD", key, budget)
        info = exchange.read(partial(read_info, key, exchange.response))
        exchange.finish()
        return info

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object or a range of it; see :meth:`app.storage.base.ObjectStore.open`."""
        check_key(key)
        check_range(start, length)
        exchange = self._find("GET", key, self._budget(), range_headers(start, length))
        info = exchange.read(partial(read_info, key, exchange.response))
        return open_answer(exchange, info, start=start, length=length)

    def delete(self, key: str) -> None:
        """Remove an object; see :meth:`app.storage.base.ObjectStore.delete`."""
        check_key(key)
        try:
            self._find("DELETE", key, self._budget()).finish()
        except ObjectNotFoundError:
            return
        except ObjectExistsError as error:  # 409: a newer write of this key is under way
            raise StorageUnavailableError("The stored object is being changed. Try again.") from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield objects in key order; see :meth:`app.storage.base.ObjectStore.list`.

        Keys that this product cannot have made are left out.
        """
        marker = ""
        while True:
            query = {"format": "json", "limit": str(self._config.page_size), "prefix": prefix, "marker": marker}
            try:
                exchange = self._send("GET", None, self._budget(), query=query)
            except ObjectNotFoundError:
                raise StorageDeniedError(DENIED) from DenialReason(_NO_CONTAINER)
            page = exchange.read(partial(read_page, exchange.response, marker))
            exchange.finish()
            if not page:
                return
            marker = page[-1].key
            yield from (info for info in page if is_valid_key(info.key))

    def close(self) -> None:
        """Give back connections; see :meth:`app.storage.base.ObjectStore.close`."""
        with self._lock:
            endpoint = self._endpoint
        if endpoint is not None:
            endpoint.pool.close()
        self._tokens.close()

    @property
    def _storage_url(self) -> str | None:
        """The account's address; None while only the identity service knows it."""
        given = self._config.identity.storage_url
        return self._tokens.storage_url if given is None else given.rstrip("/")

    def _container_headers(self) -> Message:
        """Return what Swift says of the container."""
        return self._ask_container("HEAD", {})

    def _set_container_headers(self, headers: Mapping[str, str]) -> None:
        """Change some of what Swift says of the container."""
        self._ask_container("POST", {**headers, "Content-Length": "0"})

    def _ask_container(self, method: str, headers: Mapping[str, str]) -> Message:
        try:
            exchange = self._send(method, None, self._budget(), headers)
        except ObjectNotFoundError:
            raise StorageDeniedError(DENIED) from DenialReason(_NO_CONTAINER)
        exchange.finish()
        return exchange.response.headers

    def _is_honoured(self, key: str, query: str) -> bool:
        """Tell whether Swift accepts a link, whose digest counts before any token; the object need not be there.

        Raises:
            StorageError: Swift does not say.
        """
        request = _Request("HEAD", key, {}, dict(parse_qsl(query, keep_blank_values=True)), None)
        exchange = self._ask(request, self._tokens.current(), self._budget())
        status = exchange.response.status
        if status not in {*_GOOD, *_NOT_HONOURED, HTTPStatus.NOT_FOUND}:
            raise self._refusal(exchange)
        exchange.finish()
        return status not in _NOT_HONOURED

    def _budget(self) -> WaitBudget:
        return WaitBudget(self._config.download_timeout_seconds)

    def _find(self, method: str, key: str, budget: WaitBudget, headers: Mapping[str, str] | None = None) -> Exchange:
        """Ask for an object; a missing container is told from a missing object, or all photos would look lost."""
        try:
            return self._send(method, key, budget, headers)
        except ObjectNotFoundError:
            try:
                self._send("HEAD", None, budget).finish()
            except ObjectNotFoundError:
                raise StorageDeniedError(DENIED) from DenialReason(_NO_CONTAINER)
            raise

    def _send(
        self,
        method: str,
        key: str | None,
        budget: WaitBudget,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Exchange:
        """Send a request; return its exchange when the answer is a success, raise what it means else."""
        request = _Request(method, key, headers or {}, query or {}, body)
        access = self._tokens.current()
        exchange = self._ask(request, access, budget)
        if exchange.response.status == HTTPStatus.UNAUTHORIZED:
            exchange.finish()
            access = self._tokens.replace(access)
            exchange = self._ask(request, access, budget)
        if exchange.response.status in _GOOD:
            return exchange
        refusal = self._refusal(exchange)
        if exchange.response.status == HTTPStatus.UNAUTHORIZED:
            self._tokens.reject(access)
        raise refusal

    @staticmethod
    def _refusal(exchange: Exchange) -> StorageError:
        """Return what an answer means that is no success; its exchange is closed."""
        response = exchange.response
        answer = exchange.read(partial(read_answer_error, response))
        exchange.finish()
        error = storage_error(answer, response.headers.get("Retry-After"))
        error.__cause__ = answer
        return error

    def _ask(self, request: _Request, access: SwiftAccess, budget: WaitBudget) -> Exchange:
        """Send a request with a token."""
        endpoint = self._endpoint_of(access.storage_url)
        target = endpoint.container_path + ("" if request.key is None else f"/{request.key}")
        if request.query:
            target += "?" + urlencode(request.query, quote_via=quote, safe="-_.~")
        headers = {"Host": endpoint.host, "X-Auth-Token": access.token, **request.headers}
        body = request.body
        if body is None:
            return endpoint.pool.request(request.method, target, headers, b"", budget=budget)
        with body.open() as reader:
            content: bytes | BinaryIO = reader.read() if body.size_bytes <= _SMALL_BYTES else reader
            return endpoint.pool.request(request.method, target, headers, content, budget=budget)

    def _endpoint_of(self, storage_url: str) -> _Endpoint:
        """Return the connections to an address; the catalogue may name another one after a while."""
        with self._lock:
            endpoint = self._endpoint
            if endpoint is not None and endpoint.storage_url == storage_url:
                return endpoint
            parts = urlsplit(storage_url)
            pool = ConnectionPool(
                f"{parts.scheme}://{parts.netloc}",
                max_connections=self._config.max_connections,
                connect_timeout_seconds=self._config.connect_timeout_seconds,
            )
            path = f"{parts.path.rstrip('/')}/{quote(self._config.container)}"
            self._endpoint = made = _Endpoint(storage_url, parts.netloc, path, pool)
        if endpoint is not None:
            endpoint.pool.close()
        return made
