"""What some stores can do besides the port: hand out links to themselves, or name an object's file.

A store stays complete without them. Who wants one looks for it with :func:`find_capability`, which also finds what
a store wrapped in observers and pipelines can do: making a link is no call to the store, so nothing has to stand
before it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar, cast, runtime_checkable

CapabilityT = TypeVar("CapabilityT")


@runtime_checkable
class PresignedStore(Protocol):
    """A store that lets others read an object by a link, without credentials. Thread-safe; makes no call."""

    def presigned_get(self, key: str, *, expires_at: datetime, issued_at: datetime, content_type: str) -> str:
        """Return an absolute URL that reads one object.

        The same arguments give the same URL while the store's credentials stay, so that caches can keep what it
        leads to.

        Args:
            key: The object's key; it is not looked for.
            expires_at: Aware; whole seconds count. The link ends then, at the latest.
            issued_at: Aware; whole seconds count. The time that the link says it was made at, where it says one.
            content_type: The media type that the answer states, where the store lets a link choose it.

        Raises:
            ValueError: The key breaks the grammar, or the link would end before it begins or live too long.
            UnavailableError: No link can be made now, for instance because the account's address is not known yet.
        """
        ...


@runtime_checkable
class FileStore(Protocol):
    """A store whose objects are files on this host. Thread-safe."""

    def folder_of(self, key: str) -> str:
        """Return the folder that holds an object's file, below the store's ``objects``, without looking at the disk.

        The file in it is named after the lower-case hex SHA-256 of the object.

        Raises:
            ValueError: The key breaks the grammar.
        """
        ...

    def holds(self, key: str, *, sha256: str, size_bytes: int) -> bool:
        """Tell whether an object's file is there and as long as it should be; one look at the disk, nothing is read.

        Args:
            key: Of the object.
            sha256: Of all its bytes, lower-case hex.
            size_bytes: How many.

        Raises:
            ValueError: The key breaks the grammar.
        """
        ...

    def key_in(self, folder: str) -> str | None:
        """Return the key whose :meth:`folder_of` this is; None when it is no key's."""
        ...

    def path_of(self, key: str) -> Path | None:
        """Return the path of an object's file; None when there is no object.

        Raises:
            StorageError: The folder cannot be read, or the object is damaged.
            ValueError: The key breaks the grammar.
        """
        ...


@runtime_checkable
class LinkCheck(Protocol):
    """A store whose links need something in the cloud that can be missing."""

    def check_links(self) -> None:
        """Look whether the store's links would be honoured, and arrange it where nobody has arranged anything yet.

        Raises:
            StorageDeniedError: They would not; the cause says what the operator has to do.
            StorageError: The store does not say.
        """
        ...


@runtime_checkable
class PublicityCheck(Protocol):
    """A store that can tell whether its objects need no link."""

    def is_public(self) -> bool:
        """Tell whether who knows an object's name may read it without credentials; False where that is not told.

        Raises:
            StorageError: The store does not answer, or refuses.
        """
        ...


def find_capability(store: object, capability: Callable[..., CapabilityT]) -> CapabilityT | None:
    """Return the outermost store that can do something, looking through what wraps it; None when none can.

    Args:
        store: A store, or a wrapper that shows what it wraps as ``inner``.
        capability: One of the protocols here.
    """
    wanted = cast("type[CapabilityT]", capability)  # mypy takes no protocol for a type[...] argument
    found: object | None = store
    while found is not None:
        if isinstance(found, wanted):
            return found
        found = getattr(found, "inner", None)
    return None
