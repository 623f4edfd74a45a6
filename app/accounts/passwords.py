"""Passwords: how they are hashed, how many at once, and which are refused.

Parameters after OWASP's list and ASVS 5.0 appendix C (argon2id, t=1, m>=47104 KiB, p=1). One hash holds 46 MiB
for some 70 ms, so a process makes at most two at once; a few more wait, the rest are told to come back.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Protocol

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import TooManyRequestsError, ValidationFailedError
from app.stability import remaining_seconds

PASSWORD_CHARACTERS_MIN = 8
PASSWORD_CHARACTERS_MAX = 128

_MEMORY_KIBIBYTES = 47_104
_WAIT_SECONDS_MAX = 5.0
_RETRY_AFTER_SECONDS = 1.0
_PRODUCT_WORDS = re.compile(
    r"(?:photos?|pictures?|images?|api|album|gallery|camera|uploads?|admin|login|password|secret|welcome|my|the)+"
)


class Hashing(Protocol):
    """Makes and checks password hashes. Thread-safe."""

    def hash(self, password: str) -> str:
        """Return a new hash with its own salt and parameters in it."""
        ...

    def verify(self, password_hash: str, password: str) -> bool:
        """Tell whether the hash is of this password; a hash that cannot be read is of none."""
        ...

    def is_outdated(self, password_hash: str) -> bool:
        """Tell whether the hash was made with other parameters than today's."""
        ...


class Argon2id:
    """Argon2id. Thread-safe.

    Args:
        memory_kibibytes: Memory of one hash.
    """

    def __init__(self, memory_kibibytes: int = _MEMORY_KIBIBYTES) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=1, memory_cost=memory_kibibytes, parallelism=1)

    def hash(self, password: str) -> str:
        """Return a new hash in the PHC string format."""
        return self._hasher.hash(password)

    def verify(self, password_hash: str, password: str) -> bool:
        """Tell whether the hash is of this password."""
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    def is_outdated(self, password_hash: str) -> bool:
        """Tell whether the hash has other parameters than this object makes."""
        return self._hasher.check_needs_rehash(password_hash)


class Passwords:
    """Hashes, checks and judges passwords. Thread-safe; one per process, as it bounds the process's memory.

    Args:
        hashing: The algorithm; default: argon2id with the parameters of this module.
        concurrent: How many hashes run at once.
        waiting: How many callers wait for their turn; one more is refused.
    """

    def __init__(self, hashing: Hashing | None = None, *, concurrent: int = 2, waiting: int = 8) -> None:
        self._hashing = Argon2id() if hashing is None else hashing
        self._slots = threading.Semaphore(concurrent)
        self._admitted_max = concurrent + waiting
        self._admitted = 0
        self._admitted_lock = threading.Lock()
        self._common = _read_common_passwords()
        # A user who does not exist is checked against this, so that both cost the same.
        self._nobodys_hash = self._hashing.hash(secrets.token_urlsafe(32))

    def hash(self, password: str) -> str:
        """Return a hash to keep.

        Raises:
            TooManyRequestsError: Too many others wait already.
        """
        with self._turn():
            return self._hashing.hash(password)

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Tell whether a password is right.

        Args:
            password_hash: The user's; None when there is no such user: False, after the same work.
            password: As it was given, unaltered.

        Raises:
            TooManyRequestsError: Too many others wait already.
        """
        with self._turn():
            matches = self._hashing.verify(password_hash or self._nobodys_hash, password)
        return matches and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Tell whether a right password should be hashed anew, with today's parameters."""
        return self._hashing.is_outdated(password_hash)

    def require_acceptable(self, password: str, email: str, *, pointer: str = "/password") -> None:
        """Let only passwords pass that nobody guesses first (ASVS 5.0, 6.2.1 to 6.2.12).

        Args:
            password: The new password.
            email: Whose it is to be.
            pointer: Where in the request it stood.

        Raises:
            ValidationFailedError: It has the wrong length, or is common, or made of the product's or the user's
                own words.
        """
        reason = self._objection(password, email)
        if reason:
            raise ValidationFailedError(
                "This password is not accepted.", [{"pointer": pointer, "detail": f"The password {reason}."}]
            )

    def _objection(self, password: str, email: str) -> str | None:
        lowered = password.lower()
        if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
            return f"must have {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters"
        if lowered in self._common:
            return "is among the most common ones"
        if lowered in {email, email.partition("@")[0]}:
            return "is the e-mail address"
        if _PRODUCT_WORDS.fullmatch("".join(character for character in lowered if character.isalpha())):
            return "is made of words that one tries first here"
        return None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._admitted_lock:
            if self._admitted >= self._admitted_max:
                raise _too_many()
            self._admitted += 1
        try:
            if not self._slots.acquire(timeout=remaining_seconds(_WAIT_SECONDS_MAX)):
                raise _too_many()
            try:
                yield
            finally:
                self._slots.release()
        finally:
            with self._admitted_lock:
                self._admitted -= 1


def _too_many() -> TooManyRequestsError:
    return TooManyRequestsError(
        "Too many passwords are being checked. Try again in a moment.", retry_after_seconds=_RETRY_AFTER_SECONDS
    )


def _read_common_passwords() -> frozenset[str]:
    text = resources.files("app.accounts").joinpath("common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))
