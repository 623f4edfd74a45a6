"""Frames between the engine and its processes: what is sent arrives, and what is wrong is found."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images import engine_frames
from app.images.engine_frames import (
    Channel,
    Kind,
    LiedError,
    PeerLostError,
    RefusalCode,
    RefusedError,
    decode_job,
    encode_job,
    has_news,
    receive_ready,
    receive_rendered,
    receive_taken,
    send_refusal,
    send_rendered,
)
from app.images.jobs import Output, Rendered, RenderedImage
from app.images.presets import Format, Preset, Quality
from tests.fakes.clocks import HandClock
from tests.fakes.renderers import content_of, job

ANY = frozenset(Kind)


@pytest.fixture
def sides() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = (Channel(side) for side in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_job_arrives_as_it_was_sent_with_its_original(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides
    sent = job(Format.AVIF, Format.JPEG, describes=True)
    original = os.memfd_create("original")
    os.write(original, b"a photo")

    ours.send(Kind.JOB, encode_job(sent), original)
    os.close(original)
    received, descriptor = theirs.receive_job()

    assert received == sent
    assert os.pread(descriptor, 100, 0) == b"a photo"
    os.close(descriptor)


def test_a_job_with_all_its_fields_survives_the_journey() -> None:
    wanted = job()
    sizes = (Output(Preset("full", 2048, "cover"), Format.AVIF), Output(Preset("thumbnail", 320), Format.JPEG))
    whole = type(wanted)(
        content_type="image/heic",
        width=1,
        height=2,
        size_bytes=4,
        outputs=sizes,
        quality=Quality(jpeg=1, webp=2, avif=3, avif_effort=4),
        describes=True,
        shrinks_early=True,
    )

    assert decode_job(encode_job(whole)) == whole


def test_a_job_without_an_original_is_the_end(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides
    ours.send(Kind.JOB, encode_job(job()))

    with pytest.raises(PeerLostError):
        theirs.receive_job()


def test_an_answer_larger_than_the_sockets_buffer_arrives_whole(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides
    wanted = job(Format.JPEG)
    content = content_of(Format.JPEG) + os.urandom(1_000_000)
    sent = Rendered((RenderedImage(wanted.outputs[0], content, 640, 480),))
    child = threading.Thread(target=send_rendered, args=(theirs, sent))
    child.start()

    assert receive_rendered(ours, wanted) == sent
    child.join()


def test_a_refusal_arrives_printable_and_short(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides
    send_refusal(theirs, RefusalCode.FAULT, "line\nline\x1b[31m" + "x" * 1000)

    with pytest.raises(RefusedError) as caught:
        receive_rendered(ours, job())

    assert caught.value.code is RefusalCode.FAULT
    assert caught.value.said.startswith("line line [31mxxx")
    assert len(caught.value.said) == 300


def test_a_report_says_whether_the_process_is_confined(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides
    theirs.send(Kind.READY, b'{"confined": true}')
    theirs.send(Kind.READY, b'{"confined": "yes"}')

    assert receive_ready(ours) is True
    assert receive_ready(ours) is False


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.TAKEN])
def test_nothing_else_tells_that_a_job_was_taken(sides: tuple[Channel, Channel], kind: Kind) -> None:
    ours, theirs = sides
    theirs.send(kind, b"")

    with pytest.raises(LiedError):
        receive_taken(ours)


def test_an_announced_length_takes_no_memory_before_it_is_judged(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides
    theirs.connection.sendall(struct.pack("!BI", Kind.CONTENT, 1001))

    with pytest.raises(LiedError):
        ours.receive(most_bytes=1000, kinds=ANY)


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 7])
def test_a_frame_that_is_cut_off_is_the_end_of_its_sender(sides: tuple[Channel, Channel], cut: int) -> None:
    ours, theirs = sides
    theirs.connection.sendall((struct.pack("!BI", Kind.CONTENT, 3) + b"abc")[:cut])
    theirs.close()

    with pytest.raises(PeerLostError):
        ours.receive(most_bytes=3, kinds=ANY)


def test_whoever_has_left_cannot_be_sent_anything(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides
    theirs.close()

    with pytest.raises(PeerLostError):
        ours.send(Kind.JOB, b"{}")


def test_all_waits_together_take_the_time_that_is_allowed(
    sides: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    monkeypatch.setattr(engine_frames, "time", clock)
    ours, theirs = sides
    theirs.send(Kind.READY, b"{}")
    ours.allow(0.05)

    ours.receive(most_bytes=10, kinds=ANY)
    with pytest.raises(TimeoutError):
        ours.receive(most_bytes=10, kinds=ANY)
    clock.advance(0.05)
    with pytest.raises(TimeoutError):
        ours.send(Kind.JOB, b"")


def test_a_reader_that_stands_still_is_waited_for_no_longer_than_allowed(sides: tuple[Channel, Channel]) -> None:
    ours, _ = sides
    ours.allow(0.05)

    with pytest.raises(TimeoutError):
        ours.send(Kind.CONTENT, bytes(10_000_000))


def test_news_is_what_can_be_read_or_the_end(sides: tuple[Channel, Channel]) -> None:
    ours, theirs = sides

    quiet = has_news(ours.connection, 0)
    theirs.close()

    assert not quiet
    assert has_news(ours.connection, 0)


@given(st.binary(max_size=200))
def test_whatever_a_child_says_has_one_of_the_known_ends(said: bytes) -> None:
    ours, theirs = (Channel(side) for side in socket.socketpair())
    theirs.connection.sendall(said)
    theirs.close()

    with pytest.raises((LiedError, PeerLostError, RefusedError)):
        receive_rendered(ours, job())
    ours.close()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_whatever_sizes_a_child_claims_have_one_of_the_known_ends(sizes: object) -> None:
    ours, theirs = (Channel(side) for side in socket.socketpair())
    theirs.send(Kind.RENDERED, json.dumps({"images": sizes}).encode())
    theirs.close()

    with pytest.raises((LiedError, PeerLostError)):
        receive_rendered(ours, job())
    ours.close()
