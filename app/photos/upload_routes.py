"""The route that takes photos in: what the request says, read and checked, and the answer of the commit protocol."""

from __future__ import annotations

import re
from typing import Any, Literal, Protocol

from flask import request
from pydantic import ValidationError

from app.errors import (
    DigestMismatchError,
    IdempotencyKeyReusedError,
    ImageLimitError,
    IncompleteBodyError,
    MalformedRequestError,
    PayloadTooLargeError,
    QuotaExceededError,
    RequestInProgressError,
    RequestTimeoutError,
    SpoolFullError,
    UndecodableImageError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from app.http import bodies
from app.http.context import restart_deadline
from app.http.identity import Principal
from app.http.operations import Changes, Media, Reply, mistake_of, pointer_of, post
from app.photos import schemas
from app.photos.ledger import Answer
from app.photos.upload import STORE_ERRORS, UploadService

_JOINERS = "\u200c\u200d"  # not printable by themselves, but parts of words and emoji
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_UPLOAD_BODIES = (
    Media(
        ("multipart/form-data",),
        "The photo in the part `file`, with its fields beside it.",
        {
            "type": "object",
            "required": ["file"],
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "title": {"type": "string", "maxLength": 200},
                "description": {"type": "string", "maxLength": 4000},
                "tags": {"type": "string", "description": "Parted by commas; the field may also be repeated."},
                "taken_at": {"type": "string", "format": "date-time"},
            },
            "additionalProperties": False,
        },
    ),
    Media(("image/*", "application/octet-stream"), "The photo itself."),
)


class ClientObserver(Protocol):
    """Who hears of clients. Must not raise."""

    def client_left(self, during: Literal["upload", "download"]) -> None:
        """A client left before its upload was whole."""
        ...


class UploadRoutes:
    """``POST /api/v1/photos``.

    Args:
        uploads: Takes photos in.
        receiver: Reads their bytes.
        observer: Who hears of clients that leave.
    """

    def __init__(self, uploads: UploadService, receiver: bodies.UploadReceiver, observer: ClientObserver) -> None:
        self._uploads = uploads
        self._receiver = receiver
        self._observer = observer

    @post(
        "/api/v1/photos",
        summary="Upload a photo",
        access="photos:write",
        changes=Changes.BYTES,
        media_body=_UPLOAD_BODIES,
        headers={
            "Idempotency-Key": "1 to 255 visible ASCII characters: the same upload with the same key happens once.",
            "Repr-Digest": "`sha-256=:<base64>:` of the photo; checked, and a known one is answered at once.",
        },
        answers={201: schemas.UploadAnswer, 200: schemas.UploadAnswer},
        sends={201: ("Location", "ETag", "Idempotency-Replayed"), 200: ("Idempotency-Replayed",)},
        problems=(
            MalformedRequestError,
            IncompleteBodyError,
            DigestMismatchError,
            RequestInProgressError,
            PayloadTooLargeError,
            RequestTimeoutError,
            UnsupportedMediaTypeError,
            UndecodableImageError,
            ImageLimitError,
            ValidationFailedError,
            IdempotencyKeyReusedError,
            SpoolFullError,
            QuotaExceededError,
            *STORE_ERRORS,
        ),
    )
    def upload(self, principal: Principal) -> Reply:
        """Store a photo, byte for byte.

        201 means that it is durable. The same bytes again give 200, the photo that is there, and
        `"status": "duplicate"`.
        """
        key = _idempotency_key()
        digest = bodies.announced_digest(request)
        known = self._uploads.find_duplicate(principal.user_id, digest, key) if digest else None
        if known is not None:
            return _uploaded(known)
        try:
            received = self._receiver.receive(request)
        except (IncompleteBodyError, RequestTimeoutError):
            self._observer.client_left("upload")
            raise
        with received.body as body:
            restart_deadline()
            if body.size_bytes == 0:
                raise MalformedRequestError("The body is empty. Send the photo's bytes.")
            if digest is not None and digest != body.sha256:
                raise DigestMismatchError(
                    "The bytes received do not have the digest in Repr-Digest. Send them again."
                )
            answer = self._uploads.take(
                principal.user_id,
                body,
                _form(received.fields),
                filename=_filename(received.filename),
                idempotency_key=key,
            )
            return _uploaded(answer)


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise MalformedRequestError("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def _form(fields: dict[str, list[str]]) -> schemas.UploadForm:
    values: dict[str, Any] = {}
    for name, given in fields.items():
        if name == "tags":
            values["tags"] = [tag for part in given for tag in part.split(",") if tag.strip()]
        elif len(given) > 1:
            raise ValidationFailedError(
                "The form is not as expected.", [{"pointer": f"/{name}", "detail": "Give this field once."}]
            )
        elif given[0]:
            values[name] = given[0]
    try:
        return schemas.UploadForm.model_validate(values)
    except ValidationError as error:
        mistakes = [
            {"pointer": pointer_of(item["loc"]), "detail": mistake_of(item)}
            for item in error.errors(include_input=False, include_url=False)
        ]
        raise ValidationFailedError("Some fields of the form are wrong.", mistakes) from None


def _filename(name: str | None) -> str | None:
    if not name:
        return None
    last = re.split(r"[/\\]", name)[-1]
    clean = "".join(character for character in last if character.isprintable() or character in _JOINERS).strip()
    return clean[:255] or None


def _uploaded(uploaded: Answer) -> Reply:
    headers = {}
    if uploaded.is_replay:
        headers["Idempotency-Replayed"] = "true"
    if uploaded.is_created:
        headers |= {"Location": uploaded.document["links"]["self"], "ETag": f'"{uploaded.mark}"'}
    return Reply(201 if uploaded.is_created else 200, uploaded.content, headers)
