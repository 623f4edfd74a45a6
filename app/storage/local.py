"""The object store on a local file system: durable, create-only, never half an object.

::

    root/objects/3f/a9/photos,0197…,original/<sha256 of the bytes>    one folder per object, one file in it
    root/incoming/<random>/                                           what is being written or removed

An object is a folder that holds one file: named after its digest, with exactly the object's bytes, so that
bytes and facts become visible in one atomic step, and nginx can send the file by a path that the database
alone can tell. ``put`` writes folder and file aside, makes them durable and renames the folder to its place,
which fails when there is one already. The two hash folders keep every folder small; the key's ``/`` become
``,``, so that ``a`` and ``a/b`` can both exist.

What a killed process leaves under ``incoming`` is removed when the next store is opened: a lock, which the
kernel lets go of when its process dies, tells it from what is still being written. Names that the store does not
make, such as those of file managers and backups, are no objects and are left alone. A key's folder without a file
is no object either; one with two digests is damage.

Not kept: the content type; who serves an object knows it from the database. POSIX only.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import heapq
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from app.storage.base import (
    Body,
    ObjectCorruptError,
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
from app.storage.reading import CHUNK_BYTES, CheckedReader, check_deadline

_log = logging.getLogger(__name__)

_MISSING = "The stored object is missing."
_NAME_CHARACTERS = 200
_FOLDER_MODE = 0o700
_GROUP_MODE = 0o050
_CONTINUED = "~"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP})


class LocalObjectStore:
    """An :class:`app.storage.base.ObjectStore` under one folder. Thread-safe, also over several processes.

    A folder that cannot be made or read now is no error yet, so that a worker starts also while its disk is away;
    each use then tells what is wrong.

    Args:
        root: The folder; it is made when it is missing, for its owner alone.
        page_size: How many keys ``list`` keeps in memory at a time.
        group_readable: Whether its group may read objects, so that nginx can send them; whatever the umask is.
    """

    def __init__(self, root: Path, *, page_size: int = 100_000, group_readable: bool = False) -> None:
        self._objects = root / "objects"
        self._incoming = root / "incoming"
        self._page_size = page_size
        self._is_group_readable = group_readable
        self._opening_error: StorageError | None = None
        try:
            with _storage_errors():
                for folder in (self._objects, self._incoming):
                    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
                for folder in (root, self._objects):
                    self._let_group_read(folder)
                self._remove_abandoned()
        except StorageError as error:
            self._opening_error = error
            _log.warning("the object store's folder cannot be opened: %s", error.detail)

    def put(self, key: str, body: Body, *, content_type: str) -> ObjectInfo:  # noqa: ARG002 - the port's signature
        """Create an object; see :meth:`app.storage.base.ObjectStore.put`."""
        check_key(key)
        place = self._place(key)
        with _storage_errors(), self._aside() as folder:
            _write(folder / body.sha256, body, 0o640 if self._is_group_readable else 0o600)
            self._let_group_read(folder)
            _fsync(folder)
            try:
                self._rename(folder, place)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                return judge_existing(self, key, body)
            _fsync(place.parent)
        return ObjectInfo(key, body.size_bytes, body.sha256, datetime.now(UTC))

    def head(self, key: str) -> ObjectInfo:
        """Return an object's facts; see :meth:`app.storage.base.ObjectStore.head`."""
        check_key(key)
        with _storage_errors():
            path = self._content(key)
            with _absence():
                return _info(key, path, path.stat())

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object or a range of it; see :meth:`app.storage.base.ObjectStore.open`."""
        check_key(key)
        check_range(start, length)
        check_deadline()
        with _storage_errors():
            path = self._content(key)
            with _absence():
                file = path.open("rb", buffering=0)
        info = _info(key, path, os.fstat(file.fileno()))
        expected = info.size_bytes - start if length is None else length
        if start + expected > info.size_bytes or expected < 0:
            file.close()
            raise ObjectCorruptError("The stored object has not the size that it should have.")
        file.seek(start)
        whole = expected == info.size_bytes  # asked for as a range, too
        return CheckedReader(file, info=info, length=expected, whole=whole, close=lambda _complete: file.close())

    def delete(self, key: str) -> None:
        """Remove an object; see :meth:`app.storage.base.ObjectStore.delete`."""
        check_key(key)
        place = self._place(key)
        with _storage_errors(), self._aside() as folder:
            try:
                # Gone for readers at once and as a whole; removing the pieces may then take its time.
                place.rename(folder)
            except FileNotFoundError:
                return
            _fsync(place.parent)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield objects in key order; see :meth:`app.storage.base.ObjectStore.list`.

        Keys are scattered over the folders, so each page walks all of them.
        """
        last = ""
        while True:
            with _storage_errors():
                page = heapq.nsmallest(self._page_size, (key for key in self._walk(prefix) if key > last))
            for key in page:
                with suppress(ObjectNotFoundError, ObjectCorruptError):  # who needs it asks for it by its key
                    yield self.head(key)
            if len(page) < self._page_size:
                return
            last = page[-1]

    def close(self) -> None:
        """Do nothing: nothing is held between calls."""

    def folder_of(self, key: str) -> str:
        """Return an object's folder; see :meth:`app.storage.links.FileStore.folder_of`."""
        check_key(key)
        return _folder(key)

    def holds(self, key: str, *, sha256: str, size_bytes: int) -> bool:
        """Tell whether an object is whole by its size; see :meth:`app.storage.links.FileStore.holds`."""
        check_key(key)
        try:
            return (self._place(key) / sha256).stat().st_size == size_bytes
        except OSError:  # who reads it finds out why
            return False

    def key_in(self, folder: str) -> str | None:
        """Return the key of a folder; see :meth:`app.storage.links.FileStore.key_in`."""
        key = "".join(name.removesuffix(_CONTINUED) for name in folder.split("/")[2:]).replace(",", "/")
        return key if is_valid_key(key) and _folder(key) == folder else None

    def path_of(self, key: str) -> Path | None:
        """Return the path of an object's file; see :meth:`app.storage.links.FileStore.path_of`."""
        check_key(key)
        with _storage_errors(), suppress(ObjectNotFoundError):
            return self._content(key)
        return None

    def _place(self, key: str) -> Path:
        return self._objects / _folder(key)

    def _content(self, key: str) -> Path:
        """Return the path of an object's bytes."""
        names = [name for name in _names(self._place(key)) if _SHA256.fullmatch(name)]
        if not names:
            self._require_folder()
            raise ObjectNotFoundError(_MISSING)
        if len(names) > 1:
            raise ObjectCorruptError("The stored object is damaged.")
        return self._place(key) / names[0]

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """Yield a new folder under ``incoming``, locked; it is removed in the end if it is still there."""
        while True:
            folder = self._incoming / uuid.uuid4().hex
            try:
                folder.mkdir(mode=_FOLDER_MODE)
            except FileNotFoundError as error:
                if self._opening_error is None:
                    raise
                raise type(self._opening_error)(self._opening_error.detail) from error
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have taken it for abandoned just before it was locked.
            if folder.exists():
                break
            os.close(descriptor)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)

    def _remove_abandoned(self) -> None:
        """Remove what killed processes left; nothing that is locked is touched."""
        for folder in self._incoming.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # gone, or not ours
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    with suppress(BlockingIOError):
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(descriptor)

    def _rename(self, folder: Path, place: Path) -> None:
        """Rename a folder to its place, whose parents are made durable when they are missing."""
        try:
            folder.rename(place)
        except FileNotFoundError:
            missing = [parent for parent in place.parents if parent.is_relative_to(self._objects)]
            for parent in reversed(missing[:-1]):
                parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
                self._let_group_read(parent)
                _fsync(parent.parent)
            folder.rename(place)

    def _let_group_read(self, folder: Path) -> None:
        """Open a folder to its group, where that is wanted; a mode given to ``mkdir`` is subject to the umask."""
        if self._is_group_readable and folder.stat().st_mode & _GROUP_MODE != _GROUP_MODE:
            folder.chmod(_FOLDER_MODE | _GROUP_MODE)

    def _require_folder(self) -> None:
        """Raise when the whole store is missing, unmounted most likely: all objects would look lost."""
        if not self._objects.is_dir():
            raise StorageDeniedError("The object store's folder is missing; its operator must act.")

    def _walk(self, prefix: str) -> Iterator[str]:
        """Yield every key with the prefix, in no order."""
        self._require_folder()
        for first in _names(self._objects):
            for second in _names(self._objects / first):
                for name in _joined_names(self._objects / first / second):
                    key = name.replace(",", "/")
                    if key.startswith(prefix) and is_valid_key(key):
                        yield key


def _folder(key: str) -> str:
    """Return the folder of an object below ``objects``; a long name goes on in a folder whose name says so."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    name = key.replace("/", ",")
    parts = [name[at : at + _NAME_CHARACTERS] for at in range(0, len(name), _NAME_CHARACTERS)]
    return "/".join([digest[:2], digest[2:4], *(part + _CONTINUED for part in parts[:-1]), parts[-1]])


def _names(folder: Path) -> list[str]:
    """Return the names in a folder; none when it has just been removed, or is a foreign file."""
    try:
        return os.listdir(folder)  # noqa: PTH208  # names are compared, no paths are needed
    except (FileNotFoundError, NotADirectoryError):
        return []


def _joined_names(folder: Path) -> Iterator[str]:
    """Yield the names in a folder, long ones put together again."""
    for name in _names(folder):
        if name.endswith(_CONTINUED):
            for rest in _joined_names(folder / name):
                yield name.removesuffix(_CONTINUED) + rest
        else:
            yield name


def _write(path: Path, body: Body, mode: int) -> None:
    """Write a body to a new file of this mode and make it durable.

    Raises:
        ObjectCorruptError: The body's bytes have not the digest that it states.
        StorageTimeoutError: The current deadline has passed.
    """
    digest = hashlib.sha256()
    with body.open() as reader, path.open("xb", buffering=0) as file:
        while chunk := reader.read(CHUNK_BYTES):
            check_deadline()
            digest.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        path.chmod(mode)
        os.fsync(file.fileno())
    if digest.hexdigest() != body.sha256:
        raise ObjectCorruptError("The object store received other bytes than were sent. Try again.")


def _fsync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _info(key: str, path: Path, facts: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, facts.st_size, path.name, datetime.fromtimestamp(facts.st_mtime, UTC))


@contextmanager
def _absence() -> Iterator[None]:
    """Take a file that went since its folder was read for an object that is not there."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFoundError(_MISSING) from error


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn what the operating system says into the port's errors."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError("The object store is full.") from error
        if error.errno in _DENIED:
            raise StorageDeniedError("The object store refuses this server; its operator must act.") from error
        raise StorageUnavailableError("The object store fails. Try again.", retry_after_seconds=5) from error
