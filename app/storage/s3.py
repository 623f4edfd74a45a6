"""The object store on anything that speaks S3: OpenStack Swift with s3api, NHN, AWS, MinIO.

Requests are signed by hand (``s3_signing.py``), given the SHA-256 that the spool has computed already, and sent over
this package's own keep-alive connections. boto3's client is not in the hot path: it spends 0.4 ms of CPU on each call
besides hashing the payload a second time, and its time-outs start anew with every byte received.

What every PUT carries: ``Content-MD5`` and the signed payload's SHA-256 (the server checks both),
``If-None-Match: *`` (never replaces), ``x-amz-meta-sha256`` (checked again when it is read). The answer's
ETag is compared. Nothing is retried here.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from http.client import HTTPResponse
from typing import BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from app.storage.base import (
    Body,
    ObjectCorruptError,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectReader,
    StorageDeniedError,
    StorageError,
    check_key,
    check_range,
    judge_existing,
)
from app.storage.connections import ConnectionPool, Exchange
from app.storage.opening import open_answer, range_headers
from app.storage.reading import WaitBudget
from app.storage.s3_answers import read_answer_error, read_info, read_page, storage_error
from app.storage.s3_links import S3Links, host_header
from app.storage.s3_signing import EMPTY_SHA256, S3Signer

_SMALL_BYTES = 1024 * 1024
_OPAQUE_ETAG = "opaque"


@dataclass(frozen=True, slots=True)
class S3Config:
    """Where the bucket is and how to reach it.

    Attributes:
        endpoint_url: ``http(s)://host[:port]``, addressed by path; None means AWS.
        bucket: The bucket, which exists already.
        region: The region that signatures name.
        access_key_id: The public part of the credentials.
        secret_access_key: The secret part; it is not shown in ``repr``.
        max_connections: How many requests may be under way at once in this process.
        connect_timeout_seconds: The longest wait for a connection.
        upload_timeout_seconds: The longest a PUT may wait for the store, all together.
        download_timeout_seconds: The same for every other request, the bytes of a GET included.
        page_size: How many keys a page of a listing has, 1 to 1000.
    """

    endpoint_url: str | None
    bucket: str
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    max_connections: int = 32
    connect_timeout_seconds: float = 3.0
    upload_timeout_seconds: float = 60.0
    download_timeout_seconds: float = 60.0
    page_size: int = 1000


class S3ObjectStore:
    """An :class:`app.storage.base.ObjectStore` in one bucket. Thread-safe; connects when first used.

    Args:
        config: Where the bucket is and how to reach it.
    """

    def __init__(self, config: S3Config) -> None:
        address = bucket_url(config)
        base_url = urlsplit(address)
        self._config = config
        self._path = base_url.path.rstrip("/")
        self._signer = S3Signer(
            host_header(address),
            region=config.region,
            access_key_id=config.access_key_id,
            secret_access_key=config.secret_access_key,
        )
        self._links = S3Links(
            address,
            region=config.region,
            access_key_id=config.access_key_id,
            secret_access_key=config.secret_access_key,
        )
        self._pool = ConnectionPool(
            f"{base_url.scheme}://{base_url.netloc}",
            max_connections=config.max_connections,
            connect_timeout_seconds=config.connect_timeout_seconds,
        )

    def put(self, key: str, body: Body, *, content_type: str) -> ObjectInfo:
        """Create an object; see :meth:`app.storage.base.ObjectStore.put`."""
        check_key(key)
        headers = {
            "Content-Type": content_type,
            "Content-MD5": b64encode(bytes.fromhex(body.md5)).decode(),
            "If-None-Match": "*",
            "x-amz-meta-sha256": body.sha256,
        }
        budget = WaitBudget(self._config.upload_timeout_seconds)
        try:
            with body.open() as reader:
                content: bytes | BinaryIO = reader.read() if body.size_bytes <= _SMALL_BYTES else reader
                exchange = self._send(
                    "PUT", key, budget, headers, content=content, size_bytes=body.size_bytes, sha256=body.sha256
                )
        except ObjectExistsError:
            return judge_existing(self, key, body)
        etag = _read_etag(exchange.response)
        exchange.finish()
        if etag not in {body.md5, _OPAQUE_ETAG}:
            with suppress(StorageError):
                self.delete(key)
            raise ObjectCorruptError("The object store kept other bytes than were sent. Try again.")
        return ObjectInfo(key, body.size_bytes, body.sha256, datetime.now(UTC))

    def head(self, key: str) -> ObjectInfo:
        """Return an object's facts; see :meth:`app.storage.base.ObjectStore.head`."""
        check_key(key)
        budget = self._budget()
        try:
            exchange = self._send("HEAD", key, budget)
        except ObjectNotFoundError:
            self._require_bucket(budget)
            raise
        info = exchange.read(partial(read_info, key, exchange.response))
        exchange.finish()
        return info

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object or a range of it; see :meth:`app.storage.base.ObjectStore.open`."""
        check_key(key)
        check_range(start, length)
        exchange = self._send("GET", key, self._budget(), range_headers(start, length))
        info = exchange.read(partial(read_info, key, exchange.response))
        return open_answer(exchange, info, start=start, length=length)

    def delete(self, key: str) -> None:
        """Remove an object; see :meth:`app.storage.base.ObjectStore.delete`."""
        check_key(key)
        with suppress(ObjectNotFoundError):
            self._send("DELETE", key, self._budget()).finish()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield objects in key order; see :meth:`app.storage.base.ObjectStore.list`.

        Keys that this product cannot have made are left out.
        """
        continuation: str | None = None
        while True:
            query = {"list-type": "2", "max-keys": str(self._config.page_size), "prefix": prefix}
            if continuation is not None:
                query["continuation-token"] = continuation
            exchange = self._send("GET", None, self._budget(), query=query)
            page = exchange.read(partial(read_page, exchange.response))
            exchange.finish()
            yield from page.objects
            if page.continuation is None:
                return
            continuation = page.continuation

    def presigned_get(self, key: str, *, expires_at: datetime, issued_at: datetime, content_type: str) -> str:
        """Return a link; see :meth:`app.storage.links.PresignedStore.presigned_get`."""
        return self._links.presigned_get(key, expires_at=expires_at, issued_at=issued_at, content_type=content_type)

    def close(self) -> None:
        """Give back connections; see :meth:`app.storage.base.ObjectStore.close`."""
        self._pool.close()

    def _budget(self) -> WaitBudget:
        return WaitBudget(self._config.download_timeout_seconds)

    def _send(
        self,
        method: str,
        key: str | None,
        budget: WaitBudget,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content: bytes | BinaryIO = b"",
        size_bytes: int = 0,
        sha256: str = EMPTY_SHA256,
    ) -> Exchange:
        """Sign and send a request; return its exchange when the answer is a success, raise what it means else."""
        path = f"{self._path}/{key}" if key is not None else self._path or "/"
        asked = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~") if query else ""
        signed = self._signer.sign(method, path, asked, headers or {}, payload_sha256=sha256)
        if method == "PUT":
            signed["Content-Length"] = str(size_bytes)
        exchange = self._pool.request(method, f"{path}?{asked}" if asked else path, signed, content, budget=budget)
        response = exchange.response
        if response.status in {HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.PARTIAL_CONTENT}:
            return exchange
        answer = exchange.read(partial(read_answer_error, response))
        exchange.finish()
        raise storage_error(answer, response.headers.get("Retry-After")) from answer

    def _require_bucket(self, budget: WaitBudget) -> None:
        """Raise when the whole bucket is missing: HEAD has no body that could tell, and all would look lost."""
        try:
            self._send("HEAD", None, budget).finish()
        except ObjectNotFoundError as error:
            raise StorageDeniedError("The object store has no such bucket; its operator must act.") from error


def bucket_url(config: S3Config) -> str:
    """Return the URL that keys are appended to; AWS's own rules make it when no endpoint is configured."""
    if config.endpoint_url is not None:
        return f"{config.endpoint_url.rstrip('/')}/{config.bucket}"
    import boto3  # noqa: PLC0415 - takes 0.6 s that nobody else should wait for
    from botocore.config import Config  # noqa: PLC0415  # botocore takes a while to import

    client = boto3.session.Session().client(
        "s3",
        region_name=config.region,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key,
        # Without this, links to every region but the newest go to one global host that redirects.
        config=Config(
            signature_version="s3v4", s3={"addressing_style": "path" if "." in config.bucket else "virtual"}
        ),
    )
    presigned: str = client.generate_presigned_url("get_object", Params={"Bucket": config.bucket, "Key": "key"})
    return presigned.partition("?")[0].removesuffix("/key")


def _read_etag(response: HTTPResponse) -> str:
    """Return the MD5 that an answer states, or ``_OPAQUE_ETAG`` where its ETag is no digest of the content."""
    # With a managed key the ETag is of the encrypted bytes; Content-MD5 has been checked all the same.
    if "kms" in response.headers.get("x-amz-server-side-encryption", ""):
        return _OPAQUE_ETAG
    return str(response.headers.get("ETag", "")).strip('"')
