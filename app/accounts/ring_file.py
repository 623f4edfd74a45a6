"""The file of key rings: read, watched, made and rotated.

The file is JSON, mode 0600::

    {"jwt": [{"kid": "…", "key": "<base64url, at least 32 bytes>", "not_before": "…", "retire_at": null}],
     "cursor": […], "refresh": […], "link": […]}

A file without ``link`` is an old one; its keys are derived, see :func:`app.accounts.keyring.link_keys_from`.

Whoever writes holds a lock on its folder, writes a whole new file and renames it: a reader, or a writer that
dies, never leaves half a file.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import fcntl
import logging
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from app.accounts.keyring import (
    CURSOR,
    KEY_BYTES,
    LINK,
    RINGS,
    DerivedRings,
    KeyRings,
    RingKey,
    Rings,
    link_keys_from,
)
from app.db.base import utc_now
from app.errors import ConfigurationError
from app.settings import AuthSettings
from app.stability import Clock, SystemClock

_log = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 1.0
_MODE = 0o600
_FOLDER_MODE = 0o700
_SETTING = "PHOTO_API_AUTH__KEY_RING_FILE"

ACTIVATION_DELAY_SECONDS = 5.0
"""From a rotation until the new key signs: every worker looks at the file each second."""


def _decode_key(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("must be text in base64url")  # noqa: TRY004  # pydantic reports ValueError only
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be text in base64url") from None
    if len(raw) < KEY_BYTES:
        raise ValueError(f"must have at least {KEY_BYTES} bytes")
    return raw


class _Entry(BaseModel):
    """One key as it stands in the file."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    kid: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    key: Annotated[bytes, BeforeValidator(_decode_key)]
    not_before: AwareDatetime
    retire_at: AwareDatetime | None = None


_RINGS = TypeAdapter(dict[str, list[_Entry]], config=ConfigDict(hide_input_in_errors=True))


class RingFile:
    """A file of rings, read again when it changes: it is looked at once a second at the most. Thread-safe.

    Args:
        path: The file.
        clock: The monotonic clock.

    Raises:
        ConfigurationError: It is not there, open to others, or not what it should be. Once it has been read, a
            bad change is logged, and the keys read before stay.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = SystemClock() if clock is None else clock
        self._lock = threading.Lock()
        self._seen = _fingerprint(path)
        self._rings = read_ring_file(path)
        self._look_at = self._clock.monotonic() + _LOOK_AGAIN_SECONDS

    def rings(self, *, at_once: bool = False) -> Rings:
        """Return all rings, as fresh as the class says."""
        if at_once or self._clock.monotonic() >= self._look_at:
            with self._lock:
                self._look()
        return self._rings

    def _look(self) -> None:
        self._look_at = self._clock.monotonic() + _LOOK_AGAIN_SECONDS
        try:
            now_there = _fingerprint(self._path)
            if now_there == self._seen:
                return
            self._seen = now_there
            self._rings = read_ring_file(self._path)
        except ConfigurationError as error:
            _log.error("the changed key ring file is not used: %s", error.detail)
        else:
            _log.info("key rings read again")


def open_rings(settings: AuthSettings, *, create: bool, now: Callable[[], dt.datetime] = utc_now) -> KeyRings:
    """Open the keys that the settings name.

    Args:
        settings: With a secret or with a file.
        create: Make the file when it is not there: the embedded default does, production does not.
        now: The wall clock.

    Raises:
        ConfigurationError: There is no usable key.
    """
    if settings.jwt_secret is not None:
        return KeyRings(DerivedRings(settings.jwt_secret.get_secret_value().encode()), now)
    if settings.key_ring_file is None:
        raise ConfigurationError([f"{_SETTING}: must be given"])
    if create:
        create_ring_file(settings.key_ring_file, now=now)
    return KeyRings(RingFile(settings.key_ring_file), now)


def create_ring_file(path: Path, *, now: Callable[[], dt.datetime] = utc_now) -> None:
    """Make the file with one key a ring, unless it is there. Several processes may do this at once.

    Raises:
        ConfigurationError: The folder or the file cannot be made.
    """
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        with _locked(path.parent):
            if not path.exists():
                _write(path, {name: [_new_key(now())] for name in RINGS})
    except OSError as error:
        raise ConfigurationError([f"{_SETTING}: the file cannot be made ({error.strerror})"]) from error


def rotate_ring_file(
    path: Path,
    rings: Sequence[str],
    *,
    overlap_seconds: float,
    delay_seconds: float = ACTIVATION_DELAY_SECONDS,
    now: Callable[[], dt.datetime] = utc_now,
) -> None:
    """Give rings a new key, plan the retirement of their old ones, and drop those already retired.

    Args:
        path: The file.
        rings: Names of rings.
        overlap_seconds: How long the old keys verify after the new one signs: longer than what they signed lives.
        delay_seconds: From now until the new key signs.
        now: The wall clock.

    Raises:
        ConfigurationError: The file cannot be read or written.
    """
    try:
        with _locked(path.parent):
            present = now()
            active_at = present + dt.timedelta(seconds=delay_seconds)
            retire_at = active_at + dt.timedelta(seconds=overlap_seconds)
            changed = {name: list(keys) for name, keys in read_ring_file(path).items()}
            for name in rings:
                kept = [_retiring(key, retire_at) for key in changed[name] if not key.is_retired(present)]
                changed[name] = [_new_key(active_at), *kept]
            _write(path, changed)
    except OSError as error:
        raise ConfigurationError([f"{_SETTING}: the file cannot be written ({error.strerror})"]) from error


def read_ring_file(path: Path) -> dict[str, tuple[RingKey, ...]]:
    """Return the rings in a file.

    Raises:
        ConfigurationError: It is not there, open to others, or not what it should be; no key is repeated.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigurationError(
                    [f"{_SETTING}: the file must be its owner's alone (mode 0600, not {mode:04o})"]
                )
            entries = _RINGS.validate_json(file.read())
    except OSError as error:
        raise ConfigurationError([f"{_SETTING}: the file cannot be read ({error.strerror})"]) from error
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        mistakes = [f"{_SETTING}: {'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in found]
        raise ConfigurationError(mistakes) from None
    _judge(entries)
    rings = {
        name: tuple(RingKey(entry.kid, entry.key, entry.not_before, entry.retire_at) for entry in ring)
        for name, ring in entries.items()
    }
    return {**rings, LINK: rings.get(LINK) or link_keys_from(rings[CURSOR])}


def _judge(entries: Mapping[str, Sequence[_Entry]]) -> None:
    needed = [name for name in RINGS if name != LINK or name in entries]
    mistakes = [f"{_SETTING}: the ring {name} has no key" for name in needed if not entries.get(name)]
    for name, ring in entries.items():
        if len({entry.kid for entry in ring}) < len(ring):
            mistakes.append(f"{_SETTING}: two keys of the ring {name} have the same kid")
    if mistakes:
        raise ConfigurationError(mistakes)


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None  # reading it says why
    return found.st_ino, found.st_mtime_ns, found.st_size


def _new_key(not_before: dt.datetime) -> RingKey:
    return RingKey(secrets.token_hex(6), secrets.token_bytes(KEY_BYTES), not_before)


def _retiring(key: RingKey, retire_at: dt.datetime) -> RingKey:
    earlier = retire_at if key.retire_at is None else min(key.retire_at, retire_at)
    return RingKey(key.kid, key.secret, key.not_before, earlier)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, rings: Rings) -> None:
    """Replace the file; the caller holds the lock, so that the temporary name is nobody else's."""
    content = orjson.dumps(
        {name: [_entry(key) for key in keys] for name, keys in rings.items()}, option=orjson.OPT_INDENT_2
    )
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # what a writer that died left behind
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content + b"\n")
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _entry(key: RingKey) -> dict[str, str | None]:
    return {
        "kid": key.kid,
        "key": base64.urlsafe_b64encode(key.secret).decode().rstrip("="),
        "not_before": key.not_before.isoformat(),
        "retire_at": None if key.retire_at is None else key.retire_at.isoformat(),
    }
