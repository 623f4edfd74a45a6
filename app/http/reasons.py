"""When each type of problem is answered and what helps: one sentence each, for the API's document and its readers."""

from __future__ import annotations

from collections.abc import Iterable

from app.http.problems import (
    HEADERS_TOO_LARGE,
    HOST_NOT_ALLOWED,
    INTERNAL,
    METHOD_NOT_ALLOWED,
    PROBLEMS,
    URI_TOO_LONG,
    Problem,
)

REASONS: dict[str, str] = {
    "host-not-allowed": "The Host header names none of the hosts that this server is configured for.",
    "malformed-request": "The body, a header or a cursor cannot be read; `detail` says which. Mend it.",
    "incomplete-body": "Fewer bytes came than were announced, or the framing broke. Send the body again.",
    "digest-mismatch": "The bytes that came do not have the digest in `Repr-Digest`. Send them again.",
    "invalid-token": "No token or key, two of them, or one that is malformed, expired or revoked. Log in.",
    "invalid-credentials": "The e-mail address or the password is wrong; which of them is not said.",
    "missing-scope": "The token or key lacks the scope that this operation names.",
    "permission-denied": "The caller is known, and this is not allowed to it: an API key where a login is needed, "
    "or a wrong present password.",
    "link-not-valid": "A signed link was changed, or has ended. Use it exactly as you got it, or ask for a new one.",
    "registration-closed": "Accounts are made by an administrator here.",
    "not-found": "Nothing is at this path, or the caller does not own it: both get the same answer.",
    "method-not-allowed": "The path exists and does not know this method; `Allow` lists those it knows.",
    "request-timeout": "The rest of the request did not come, or came too slowly. Send it again.",
    "conflict": "The state of the resource forbids it now; `detail` says why.",
    "request-in-progress": "The first request with this idempotency key still runs. Ask again after `Retry-After`.",
    "precondition-failed": "`If-Match` names a version that is no longer current. Read again, then change.",
    "payload-too-large": "The body is larger than this operation takes.",
    "uri-too-long": "The path and query together have more than 4094 bytes. Shorten the query.",
    "headers-too-large": "A header has more than 8190 bytes, there are more than 100, or 64 KiB of them in all.",
    "unsupported-media-type": "This kind of body is not accepted; photos are judged by their content, not by a name.",
    "range-not-satisfiable": "No byte of the asked range exists; `Content-Range` tells the size.",
    "validation-failed": "Fields or parameters are wrong, missing or unknown; `errors` lists each of them.",
    "idempotency-key-reused": "The idempotency key was used for another request. Take a new key.",
    "undecodable-image": "The image is truncated, its structure is broken, or its pixels cannot be decoded.",
    "heif-not-supported": "The photo is whole, but this server lacks the decoder for HEIC. Show the original.",
    "image-limit-exceeded": "The image has more pixels, frames, scans or metadata than allowed.",
    "too-many-requests": "Wait for the seconds in `Retry-After`.",
    "internal-error": "A mistake of the server, logged under `request_id`. Please report it.",
    "object-missing": "The photo's bytes are not where they were stored. An operator has to look.",
    "object-corrupt": "The photo's bytes are not those that were stored. An operator has to look.",
    "upstream-content": "An upstream gave wrong content.",
    "unavailable": "The database or the object store does not answer. Nothing was changed; a retry is safe.",
    "read-only": "Nothing can be changed just now; reading works. Nothing was changed; a retry is safe.",
    "overloaded": "This server has more work than it can do in time. Nothing was done; wait for `Retry-After`.",
    "spool-full": "This host has no room just now for uploads, or to decode. Nothing was stored; a retry is safe.",
    "storage-timeout": "The object store did not answer in time. Try again.",
    "upstream-timeout": "An upstream did not answer in time. Try again.",
    "deadline-exceeded": "The request took longer than a request may. Try again.",
    "quota-exceeded": "The photo does not fit the account's quota; the trash counts too.",
    "storage-full": "The object store has no room left. Nothing was stored. An operator has to look.",
}


def known_problems() -> list[Problem]:
    """Return every problem that a client may meet, by status, each type once."""
    others = (HOST_NOT_ALLOWED, METHOD_NOT_ALLOWED, URI_TOO_LONG, HEADERS_TOO_LARGE, INTERNAL)
    return in_order([*PROBLEMS.values(), *others])


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems by status and type, each type once."""
    by_slug = {problem.slug: problem for problem in problems}
    return sorted(by_slug.values(), key=lambda problem: (problem.status, problem.slug))
