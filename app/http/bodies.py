"""Reading an upload: the raw body, or the parts of a multipart form, streamed into a spool.

Nothing is kept in memory but one chunk and the small fields. What the client or the server's parser does
wrong becomes one of our errors; the spool is freed in every path.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flask import Request
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from app.errors import (
    IncompleteBodyError,
    MalformedRequestError,
    PayloadTooLargeError,
    PhotoApiError,
    RequestTimeoutError,
    ValidationFailedError,
)
from app.storage.spool import Spool, SpooledBody

CHUNK_BYTES = 64 * 1024
_FIELDS_BYTES_MAX = 64 * 1024
_PARTS_MAX = 100
_FRAMING_BYTES_MAX = 64 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_REPR_DIGEST = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):\s*(?=[;,]|$)")
_OTHER_DIGEST = r"\s*(?!sha-256\s*=)[a-z*][a-z0-9_.*-]*=:[A-Za-z0-9+/=]*:(?:;[^,]*|\s*)"
_OTHER_DIGESTS = re.compile(f"{_OTHER_DIGEST}(?:,{_OTHER_DIGEST})*")
_SHA256_BYTES = 32


@dataclass(frozen=True, slots=True)
class ReceivedUpload:
    """An upload that has come in whole. The owner closes ``body``."""

    body: SpooledBody
    filename: str | None = None
    fields: dict[str, list[str]] = field(default_factory=dict)


def announced_digest(request: Request) -> str | None:
    """Return the SHA-256 in ``Repr-Digest`` (RFC 9530) as hex, or None when there is none.

    Digests of other algorithms are not ours to check, and say nothing.

    Raises:
        MalformedRequestError: It is there, but cannot be read.
    """
    header = request.headers.get("Repr-Digest")
    if header is None or _OTHER_DIGESTS.fullmatch(header):
        return None
    matched = _REPR_DIGEST.search(header)
    try:
        raw = base64.b64decode(matched.group(1), validate=True) if matched else b""
    except binascii.Error:
        raw = b""
    if len(raw) != _SHA256_BYTES:
        raise MalformedRequestError("Repr-Digest must look like 'sha-256=:<base64 of the 32 bytes>:'.")
    return raw.hex()


class UploadReceiver:
    """Reads uploads into spools. Thread-safe.

    Args:
        folder: Where larger bodies go; made if it is not there.
        max_bytes: The largest photo.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        with suppress(OSError):  # each upload says that there is no room; everything else goes on
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes

    def receive(self, request: Request) -> ReceivedUpload:
        """Read a request's body: the part ``file`` of a multipart form, or the body itself.

        Args:
            request: The request, nothing of its body read so far.

        Raises:
            PayloadTooLargeError: More bytes than allowed; reading stopped at the limit.
            IncompleteBodyError: The client left, or the body is shorter than announced.
            RequestTimeoutError: It came too slowly.
            MalformedRequestError: Broken framing, or a form that cannot be read.
            ValidationFailedError: The form's parts are not the ones expected.
            SpoolFullError: This host has no room.
        """
        is_form = request.mimetype == "multipart/form-data"
        allowance = _FRAMING_BYTES_MAX + _FIELDS_BYTES_MAX if is_form else 0
        if (request.content_length or 0) > self._max_bytes + allowance:
            raise PayloadTooLargeError(f"A photo may have at most {self._max_bytes} bytes.")
        with ExitStack() as undo:
            spool = undo.enter_context(Spool(self._folder, max_bytes=self._max_bytes))
            upload = _receive_form(request, spool) if is_form else _receive_raw(request, spool)
            undo.pop_all()
            return upload


def _receive_raw(request: Request, spool: Spool) -> ReceivedUpload:
    for chunk in _chunks(request):
        spool.write(chunk)
    return ReceivedUpload(spool.finish())


def _chunks(request: Request) -> Iterator[bytes]:
    stream = request.stream
    announced, received = request.content_length or 0, 0
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except ClientDisconnected as error:
            raise IncompleteBodyError("The body ended early. Send it again.") from error
        except HTTPException:
            raise
        except TimeoutError as error:
            raise RequestTimeoutError from error
        except Exception as error:  # the server's stream has its own classes for broken chunks and resets
            raise IncompleteBodyError("The body ended early or its framing is broken. Send it again.") from error
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if received < announced:  # the server ends its stream without a word when the client closes early
        raise IncompleteBodyError("The body ended before the announced number of bytes. Send it again.")


class _FormReader:
    """Takes the events of one multipart body: the file goes to the spool, small fields are kept."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._name = ""
        self._field_bytes = 0
        self._parts: dict[str, list[bytearray]] = {}
        self.filename: str | None = None
        self.has_file = False
        self.is_complete = False

    def take(self, event: object) -> None:
        match event:
            case Field(name=name) | File(name=name):
                self._begin(name or "", event.filename if isinstance(event, File) else None)
            case Data(data=content):
                self._content(content)
            case Epilogue():
                self.is_complete = True
            case _:
                pass

    def _begin(self, name: str, filename: str | None) -> None:
        self._name = name
        if name != "file":
            self._parts.setdefault(name, []).append(bytearray())
            return
        if self.has_file:
            raise _form_mistake("/file", "Send one photo a request.")
        self.has_file, self.filename = True, filename

    def _content(self, content: bytes) -> None:
        if self._name == "file":
            self._spool.write(content)
            return
        self._field_bytes += len(content)
        if self._field_bytes > _FIELDS_BYTES_MAX:
            raise PayloadTooLargeError(f"The fields of a form may have at most {_FIELDS_BYTES_MAX} bytes together.")
        self._parts[self._name][-1] += content

    def fields(self) -> dict[str, list[str]]:
        try:
            return {name: [bytes(part).decode() for part in parts] for name, parts in self._parts.items()}
        except UnicodeDecodeError:
            raise MalformedRequestError("The fields of a form must be UTF-8.") from None


def _receive_form(request: Request, spool: Spool) -> ReceivedUpload:
    boundary = request.mimetype_params.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise MalformedRequestError("The Content-Type of a form needs a valid boundary.")
    decoder = MultipartDecoder(boundary.encode(), max_parts=_PARTS_MAX)
    reader = _FormReader(spool)
    for chunk in _chunks(request):
        _feed(decoder, chunk, reader)
    _feed(decoder, None, reader)
    if not reader.is_complete:
        raise MalformedRequestError("The form ends before its closing boundary.")
    if not reader.has_file:
        raise _form_mistake("/file", "This part is missing: the photo's bytes.")
    return ReceivedUpload(spool.finish(), reader.filename, reader.fields())


def _feed(decoder: MultipartDecoder, chunk: bytes | None, reader: _FormReader) -> None:
    try:
        decoder.receive_data(chunk)
        while not isinstance(event := decoder.next_event(), NeedData):
            reader.take(event)
            if isinstance(event, Epilogue):
                return
        # What is no content is kept until it ends: the text before the first part, and the headers of a part.
        if len(decoder.buffer) > _FRAMING_BYTES_MAX + CHUNK_BYTES:
            raise MalformedRequestError("The form's parts have too long headers, or do not begin.")
    except RequestEntityTooLarge as error:
        raise PayloadTooLargeError(f"A form may have at most {_PARTS_MAX} parts.") from error
    except (PhotoApiError, HTTPException):
        raise
    except (ValueError, LookupError) as error:
        raise MalformedRequestError("The form cannot be read: a part or the closing boundary is broken.") from error


def _form_mistake(pointer: str, detail: str) -> ValidationFailedError:
    return ValidationFailedError("The form is not as expected.", [{"pointer": pointer, "detail": detail}])
