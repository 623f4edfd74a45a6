"""What every operation of the document shares: headers, security schemes, the problem's schema, words of the page."""

from __future__ import annotations

from typing import Any, Final

from app.http.identity import Access
from app.http.problems import TYPE_PREFIX, Problem
from app.http.reasons import REASONS

INTRODUCTION: Final = """\
Photo API takes photos in, keeps them in object storage, and gives them back byte for byte, to their owner only.

- Bodies are JSON unless an operation says otherwise; unknown fields and parameters are refused with 422.
- Instants are RFC 3339 with their zone, and answered in UTC. Ids are UUIDs that sort by time.
- `HEAD` works wherever `GET` does, and gives the same headers without the body.
- Every answer has `X-Request-Id`; one that you send, of 1 to 128 letters, digits and `._:-`, is kept.
- Errors are `application/problem+json` (RFC 9457) with a stable `type`; `retryable` tells whether the same request \
may succeed another time.
- Another owner's id gets the same 404 as one that does not exist.
"""

TAGS: Final = [
    {"name": "Accounts", "description": "Making an account, and what is one's own."},
    {"name": "Sessions", "description": "Logging in, refreshing tokens, logging out."},
    {"name": "API keys", "description": "Long-lived credentials for programs, with some of one's scopes."},
    {"name": "Photos", "description": "Uploading, finding, changing, downloading and deleting photos."},
    {"name": "Operation", "description": "Operating the server; on its management listener only."},
]
_TAG_BY_SEGMENT = {
    "users": "Accounts",
    "auth": "Sessions",
    "api-keys": "API keys",
    "photos": "Photos",
    "admin": "Operation",
}
_SEGMENTS_BEFORE_TAG = 3  # "", "api", "v1"

SCOPES: Final = {
    "photos:read": "see and download photos",
    "photos:write": "upload, change and restore photos",
    "photos:delete": "move photos to the trash and remove them",
    "photos:geo": "see where photos were taken",
    "albums:read": "see albums",
    "albums:write": "make and change albums",
    "shares:manage": "make and revoke share links",
    "keys:manage": "make, list and delete API keys",
    "admin:read": "see what concerns all accounts (administrators)",
    "admin:ops": "operate the service (administrators)",
}
"""What each scope allows."""

_SCOPE_LIST = "\n".join(f"- `{name}`: {meaning}" for name, meaning in SCOPES.items())

SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT, or an API key",
        "description": "The access token of a login (`POST /api/v1/auth/tokens`), or an API key. A login has every "
        f"scope of the account, an API key those it was made with:\n\n{_SCOPE_LIST}",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Api-Key",
        "description": "An API key (`POST /api/v1/api-keys`), with the scopes it was made with. Send it here or as "
        "a bearer, not both.",
    },
}

_ETAG_LIST = {"type": "string", "examples": ['"v1"', "*"]}
REQUEST_HEADER_SCHEMAS: Final[dict[str, Any]] = {
    "Idempotency-Key": {"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$", "examples": ["upload-2026-05-17-0001"]},
    "Repr-Digest": {
        "type": "string",
        "pattern": r"^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$",
        "examples": ["sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:"],
    },
    "If-Match": _ETAG_LIST,
    "If-None-Match": _ETAG_LIST,
    "If-Range": {"type": "string", "examples": ['"v1"']},
    "If-Modified-Since": {"type": "string", "examples": ["Sun, 17 May 2026 09:30:00 GMT"]},
    "Accept": {"type": "string", "examples": ["image/avif,image/webp,*/*;q=0.8"]},
    "Range": {"type": "string", "examples": ["bytes=0-1023"]},
}
"""How request headers look; others are plain text."""

PATH_SCHEMAS: Final[dict[str, Any]] = {
    "preset": {"type": "string", "enum": ["thumbnail", "preview", "full"]},
}
"""How parts of paths look that not every text is, by their names."""

ANSWER_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": "Names this request in the logs; yours, or a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds after which a retry makes sense.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"description": "Asks for a bearer.", "required": True, "schema": {"type": "string"}},
    "Location": {"description": "Path of what was made.", "required": True, "schema": {"type": "string"}},
    "ETag": {
        "description": "Version of what was answered, for `If-None-Match` and `If-Match`.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[\\x21\\x23-\\x7e]+"$'},
    },
    "Vary": {
        "description": "The request headers that the answer follows from.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Last-Modified": {"description": "HTTP date.", "required": True, "schema": {"type": "string"}},
    "Link": {
        "description": 'The next page, `rel="next"`, when there is one.',
        "schema": {"type": "string"},
    },
    "Content-Range": {
        "description": "Which bytes these are, and of how many; on 416 only of how many.",
        "required": True,
        "schema": {"type": "string", "pattern": r"^bytes (?:[0-9]+-[0-9]+|\*)/[0-9]+$"},
    },
    "Accept-Ranges": {"description": "`bytes`.", "required": True, "schema": {"const": "bytes"}},
    "Content-Disposition": {
        "description": "The file name, RFC 6266.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "`true` when this is the answer of an earlier request with the same key.",
        "schema": {"const": "true"},
    },
}
"""How answers' headers look."""

_MISTAKE = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "pointer": {"type": "string", "description": "The field in the body, RFC 6901."},
        "parameter": {"type": "string", "description": "The query parameter."},
        "detail": {"type": "string"},
    },
}
_PROBLEM_MEMBERS: dict[str, Any] = {
    "type": {"type": "string", "format": "uri", "description": "What kind of problem it is; stable."},
    "title": {"type": "string", "description": "The same in words."},
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "detail": {"type": "string", "description": "What is wrong this time, and what to do."},
    "request_id": {"type": "string", "description": "As in X-Request-Id."},
    "retryable": {"type": "boolean", "description": "Whether the same request may succeed another time."},
    "retry_after_seconds": {"type": "integer", "minimum": 1, "description": "As in Retry-After."},
}
_PROBLEM_REQUIRED = ["type", "title", "status", "detail", "request_id", "retryable"]

PROBLEM_SCHEMAS: Final[dict[str, Any]] = {
    "Problem": {
        "type": "object",
        "description": "Why a request failed (RFC 9457).",
        "required": _PROBLEM_REQUIRED,
        "properties": _PROBLEM_MEMBERS,
    },
    "ValidationProblem": {
        "type": "object",
        "description": "A problem with the list of all mistakes.",
        "required": _PROBLEM_REQUIRED,
        "properties": {**_PROBLEM_MEMBERS, "errors": {"type": "array", "items": _MISTAKE}},
    },
}
"""The schemas of errors."""


def tag_of(path: str) -> str:
    """Return the name of the group that a path belongs to."""
    segments = path.split("/")
    segment = segments[_SEGMENTS_BEFORE_TAG] if len(segments) > _SEGMENTS_BEFORE_TAG else ""
    return _TAG_BY_SEGMENT.get(segment, segment or "Other")


def header_ref(name: str) -> dict[str, str]:
    """Return the reference to an answer's header."""
    if name not in ANSWER_HEADERS:
        raise KeyError(name)
    return {"$ref": f"#/components/headers/{name}"}


def headers_of_status(status: int) -> tuple[str, ...]:
    """Return the headers that every problem of a status has besides the request id."""
    return {
        401: ("WWW-Authenticate",),
        416: ("Content-Range", "Accept-Ranges"),
        429: ("Retry-After",),
        503: ("Retry-After",),
    }.get(status, ())


def problem_example(problem: Problem) -> dict[str, Any]:
    """Return a problem document as it is sent."""
    example: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": REASONS[problem.slug].replace("`", ""),
        "request_id": "8d3f0c52a9b14e6fb1c7d2e90f3a4b5c",
        "retryable": problem.retryable,
    }
    if "Retry-After" in headers_of_status(problem.status):
        example["retry_after_seconds"] = 2
    if problem.slug == "validation-failed":
        example["errors"] = [{"pointer": "/title", "detail": "must be a single line"}]
    return example


def access_sentence(access: Access | str) -> str:
    """Return whom an operation admits, as a sentence of its description."""
    match access:
        case Access.PUBLIC:
            return "Needs no credential."
        case Access.SESSION:
            return "Needs the access token of a login; an API key is refused."
        case Access.AUTHENTICATED:
            return "Needs any valid access token or API key."
        case scope:
            return f"Needs the scope `{scope}`: {SCOPES.get(scope, '')}."
