"""The store's side of renditions: originals are fetched from it, what was made of them goes into it."""

from __future__ import annotations

from pathlib import Path

from app.errors import PayloadTooLargeError
from app.images.jobs import RenderedImage
from app.photos.photo_cache import Original
from app.photos.rendition_rows import Made
from app.storage.base import ObjectCorruptError, ObjectExistsError, ObjectStore
from app.storage.probe import BytesBody
from app.storage.spool import Spool, SpooledBody


class RenditionObjects:
    """Fetches originals and stores renditions. Thread-safe.

    Args:
        store: The object store, behind its pipelines.
        scratch_dir: Where larger originals wait while they are decoded, in files without a name; it must exist.
    """

    def __init__(self, store: ObjectStore, scratch_dir: Path) -> None:
        self._store = store
        self._scratch_dir = scratch_dir

    def fetch(self, photo: Original) -> SpooledBody:
        """Return an original; the caller closes it.

        Raises:
            ObjectNotFoundError: The store has lost it.
            ObjectCorruptError: It is not what was uploaded.
            StorageError: It cannot be read now.
            SpoolFullError: This host has no room for it.
        """
        with self._store.open(photo.object_key) as reader, self._spool(photo) as spool:
            try:
                for chunk in reader:
                    spool.write(chunk)
            except PayloadTooLargeError as error:
                raise _damaged() from error
            body = spool.finish()
        if body.sha256 != photo.sha256:
            body.close()
            raise _damaged()
        return body

    def store(self, object_key: str, image: RenderedImage) -> Made:
        """Store a rendition, or adopt the one that an earlier maker has left under its key.

        Returns:
            The facts of what the store has now.

        Raises:
            StorageError: It could not be stored; whether it is there is unknown.
        """
        body = BytesBody(image.content)
        try:
            self._store.put(object_key, body, content_type=image.output.format.content_type)
        except ObjectExistsError:
            # Made of the same photo in the same way; encoders need not repeat themselves to the last bit.
            return self._adopted(object_key, image)
        return Made(body.sha256, body.size_bytes, image.width, image.height)

    def remove(self, object_key: str) -> None:
        """Remove a rendition; one that is not there is no error.

        Raises:
            StorageError: It may still be there.
        """
        self._store.delete(object_key)

    def _adopted(self, object_key: str, image: RenderedImage) -> Made:
        found = self._store.head(object_key)
        if found.sha256 is None:
            raise ObjectCorruptError("The stored object does not say what it is.")
        return Made(found.sha256, found.size_bytes, image.width, image.height)

    def _spool(self, photo: Original) -> Spool:
        return Spool(self._scratch_dir, max_bytes=photo.size_bytes, with_md5=False)


def _damaged() -> ObjectCorruptError:
    return ObjectCorruptError("The stored bytes of this photo are damaged.")
