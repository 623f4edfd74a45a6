"""Uploads that are decoded before anything is stored: refused, or taken in as ever."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.errors import OverloadedError, UndecodableImageError
from app.images.jobs import HeifNotInstalledError
from app.images.probe import DEFAULT_LIMITS
from app.photos.schemas import UploadForm
from app.photos.upload import UploadService
from app.renditions.decoding import UploadDecoder
from app.storage.probe import BytesBody
from tests.photos.world import image
from tests.renditions.world import Instance


def take(instance: Instance, owner_id: UUID | None = None) -> bool:
    world = instance.world
    uploads = UploadService(
        world.ledger,
        world.store,
        world.keeper,
        limits=DEFAULT_LIMITS,
        observer=world.observer,
        decoder=UploadDecoder(instance.engine),
    )
    owner_id = owner_id or world.new_user()
    answer = uploads.take(owner_id, BytesBody(image()), UploadForm(), filename=None, idempotency_key=None)
    return answer.is_created


def test_a_photo_is_decoded_and_described_and_nothing_is_encoded(here: Instance) -> None:
    assert take(here)

    ((job, background),) = here.engine.jobs
    assert here.engine.bodies == [image()]
    assert (job.content_type, job.width, job.height) == ("image/png", 4, 3)
    assert (job.size_bytes, job.outputs, job.describes, background) == (len(image()), (), True, False)


@pytest.mark.parametrize("error", [UndecodableImageError("broken"), OverloadedError("busy")], ids=["broken", "busy"])
def test_what_cannot_be_decoded_is_refused_and_nothing_is_kept(here: Instance, error: Exception) -> None:
    here.engine.failure = error

    with pytest.raises(type(error)):
        take(here)

    assert here.world.rows() == []
    assert here.world.store.keys() == []
    assert here.world.outbox() == []
    here.world.assert_quota()


def test_a_photo_whose_decoder_is_missing_is_let_in(here: Instance) -> None:
    here.engine.failure = HeifNotInstalledError("none")

    assert take(here)


def test_a_photo_that_is_there_already_is_not_judged_again(here: Instance) -> None:
    owner_id = here.world.new_user()
    here.upload(owner_id=owner_id)
    here.engine.failure = UndecodableImageError("broken")

    assert not take(here, owner_id)

    assert here.engine.jobs == []
