"""How a page's bytes lie: what is written is read, and what is damaged says nothing or what was said before."""

from __future__ import annotations

import pytest
from annotated_types import Le
from hypothesis import given
from hypothesis import strategies as some

from app.ops.owners import Owner
from app.ops.state_layout import (
    COPY_BYTES,
    HEADER_BYTES,
    NAME_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    SLOT_BYTES,
    SLOTS,
    Entry,
    Header,
    copy_packer,
    entries_of,
    newest_entry,
    offset_of,
    pack_copy,
    pack_header,
    read_header,
    read_slot,
)
from app.settings_edge import ServerSettings

OLD, NEW = b"old" * 60, b"new" * 90
HEADER = Header(1_770_000_000.5, "0b9c1f4e-5d0a-4e62-9f0e-6a1d2c3b4e5f")
SLOT = pack_copy("breaker/a", OLD, 7).ljust(COPY_BYTES, b"\0") + pack_copy("breaker/a", NEW, 8).ljust(
    COPY_BYTES, b"\0"
)

names = some.text(min_size=1).filter(lambda text: len(text.encode()) <= NAME_BYTES_MAX and "\0" not in text)
payloads = some.binary(max_size=PAYLOAD_BYTES_MAX)


@given(names, payloads, some.integers(1, 2**64 - 1))
def test_what_is_written_is_read(name: str, payload: bytes, sequence: int) -> None:
    raw = pack_copy(name, payload, sequence)

    entry = newest_entry(raw.ljust(SLOT_BYTES, b"\0"))

    assert len(raw) <= COPY_BYTES
    assert entry is not None
    assert (entry.name, entry.payload, entry.sequence, entry.copy) == (name, payload, sequence, 0)


@given(names, some.integers(1, 2**32 - 1), some.integers(0, 2**64 - 1), some.binary(min_size=16, max_size=16))
def test_an_entry_of_a_single_writer_names_it(name: str, pid: int, started: int, boot: bytes) -> None:
    owner = Owner(pid, started, boot)

    entry = newest_entry(copy_packer(name, owner)(NEW, 3).ljust(SLOT_BYTES, b"\0"))

    assert entry == Entry(name, NEW, 3, 0, owner)


@pytest.mark.parametrize(("newer", "older"), [(0, 1), (1, 0)])
def test_the_newer_copy_counts_wherever_it_stands(newer: int, older: int) -> None:
    copies = {newer: pack_copy("a", NEW, 2), older: pack_copy("a", OLD, 1)}

    entry = newest_entry(b"".join(copies[copy].ljust(COPY_BYTES, b"\0") for copy in (0, 1)))

    assert entry is not None
    assert (entry.payload, entry.copy) == (NEW, newer)


@pytest.mark.parametrize("cut", range(COPY_BYTES + 1))
def test_a_write_that_ends_anywhere_leaves_the_old_or_the_new(cut: int) -> None:
    following = pack_copy("breaker/a", b"next" * 70, 9)

    entry = newest_entry(following[:cut] + SLOT[len(following[:cut]) :])

    assert entry is not None
    assert entry.payload == (b"next" * 70 if cut >= len(following) else NEW)


@given(some.integers(0, SLOT_BYTES - 1), some.integers(1, 255))
def test_a_damaged_byte_anywhere_leaves_the_old_or_the_new(offset: int, flipped: int) -> None:
    damaged = bytearray(SLOT)
    damaged[offset] ^= flipped

    entry = newest_entry(bytes(damaged))

    assert entry is not None
    assert entry.payload in {OLD, NEW}


@pytest.mark.parametrize(
    ("slot", "is_whole"),
    [
        (SLOT, True),
        (SLOT[:COPY_BYTES].ljust(SLOT_BYTES, b"\0"), True),
        (bytes(COPY_BYTES) + SLOT[COPY_BYTES:], True),
        (SLOT[:COPY_BYTES].ljust(SLOT_BYTES - 1, b"\0") + b"x", False),
        (SLOT[:20] + bytes(COPY_BYTES - 20) + SLOT[COPY_BYTES:], False),
        (bytes(SLOT_BYTES), False),
        (b"x" * SLOT_BYTES, False),
    ],
)
def test_a_slot_is_whole_when_nothing_in_it_is_torn(slot: bytes, is_whole: bool) -> None:
    assert read_slot(slot)[1] is is_whole


@given(some.binary(max_size=SLOT_BYTES + 10))
def test_noise_says_nothing(noise: bytes) -> None:
    assert newest_entry(noise) is None


@pytest.mark.parametrize("length", [0, 1, 93, COPY_BYTES - 1, COPY_BYTES, SLOT_BYTES - 1])
def test_a_slot_that_is_cut_off_says_at_most_what_was_said_before(length: int) -> None:
    entry = newest_entry(SLOT[:length])

    assert entry is None or entry.payload in {OLD, NEW}


@pytest.mark.parametrize(
    ("name", "payload"), [("", b""), ("n" * (NAME_BYTES_MAX + 1), b""), ("a", b"x" * (PAYLOAD_BYTES_MAX + 1))]
)
def test_what_does_not_fit_is_refused(name: str, payload: bytes) -> None:
    with pytest.raises(ValueError, match="an entry has"):
        pack_copy(name, payload, 1)


def test_a_header_says_when_and_in_which_boot_the_page_was_made() -> None:
    raw = pack_header(HEADER)

    assert len(raw) == HEADER_BYTES
    assert read_header(raw) == HEADER


@given(some.integers(0, 63), some.integers(1, 255))
def test_a_damaged_header_is_none(offset: int, flipped: int) -> None:
    damaged = bytearray(pack_header(HEADER))
    damaged[offset] ^= flipped

    assert read_header(bytes(damaged)) is None


def test_a_header_of_another_layout_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.ops.state_layout.LAYOUT_VERSION", 1)
    other = pack_header(HEADER)
    monkeypatch.undo()

    assert read_header(other) is None
    assert read_header(b"") is None


def test_a_page_gives_what_its_slots_say_and_passes_over_the_others() -> None:
    page = bytearray(offset_of(SLOTS))
    page[offset_of(3) : offset_of(3) + SLOT_BYTES] = SLOT
    page[offset_of(5)] = 1

    found = list(entries_of(bytes(page)))

    assert [(index, entry.name, entry.payload) for index, entry in found] == [(3, "breaker/a", NEW)]


def test_there_is_room_for_the_most_workers_twice_and_for_as_many_breakers() -> None:
    limits = ServerSettings.model_fields["workers"].metadata
    (most,) = [limit.le for limit in limits if isinstance(limit, Le)]

    assert isinstance(most, int)
    assert 3 * most + 2 <= SLOTS  # and two masters
