"""E-mail addresses: which are accepted, and the one form in which they are kept and compared."""

from __future__ import annotations

import unicodedata

from email_validator import EmailNotValidError, validate_email

EMAIL_CHARACTERS_MAX = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets


def normalize_email(text: str) -> str:
    """Return an address as it is kept: lower case, NFC, the domain in IDNA's ASCII.

    Nothing is sent there, so that names without a public domain (``me@nas``) are accepted.

    Raises:
        ValueError: It is not an e-mail address.
    """
    try:
        address = validate_email(text, check_deliverability=False, globally_deliverable=False, strict=True)
    except EmailNotValidError:
        raise ValueError("is not an e-mail address") from None
    local_part = unicodedata.normalize("NFC", address.local_part.lower())
    normalized = f"{local_part}@{address.ascii_domain.lower()}"
    if len(normalized) > EMAIL_CHARACTERS_MAX:
        raise ValueError(f"must have at most {EMAIL_CHARACTERS_MAX} characters")
    return normalized
