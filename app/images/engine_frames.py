"""How a job travels to a process of the image engine and its answer back, over one socket of their own.

::

    parent                                   child
           ◄── READY   {"confined": true}                  once, before the first job
           ──► JOB     {...} + the original's descriptor
           ◄── TAKEN                                       from here on the photo is at work in it
           ◄── RENDERED {"images": [{w, h, bytes}], ...}   or REFUSED {"code", "said"}
           ◄── CONTENT <bytes>                             one for each image

A frame is one byte of kind, four bytes of length (big-endian) and so many bytes. The child opens files of
strangers and may be anybody by the time it answers: :func:`receive_rendered` believes nothing that it says, and
holds no more memory than the job can need. Nothing that the child says reaches a client.
"""

from __future__ import annotations

import json
import math
import re
import select
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict
from enum import IntEnum, StrEnum
from typing import Any, Final

from app.images.jobs import Output, Rendered, RenderedImage, RenderJob
from app.images.presets import Format, Preset, Quality

_HEADER: Final = struct.Struct("!BI")
_MOST_JSON_BYTES: Final = 64 * 1024
_MOST_SAID_CHARACTERS: Final = 300
_LEAST_ROOM_BYTES: Final = 64 * 1024
_BYTES_PER_PIXEL: Final = 4
_CHUNK_BYTES: Final = 1024 * 1024
_THUMBHASH: Final = re.compile(r"[A-Za-z0-9+/]{6,36}={0,2}")
_COLOR: Final = re.compile(r"#[0-9a-f]{6}")
_MAGIC: Final = {
    Format.JPEG: re.compile(rb"\xff\xd8\xff"),
    Format.WEBP: re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    Format.AVIF: re.compile(rb".{4}ftypavif", re.DOTALL),
}


class Kind(IntEnum):
    """What a frame holds."""

    READY = 1
    JOB = 2
    TAKEN = 3
    RENDERED = 4
    CONTENT = 5
    REFUSED = 6


class RefusalCode(StrEnum):
    """Why a child made nothing of a photo and lives on."""

    UNDECODABLE = "undecodable"
    HEIF_NOT_INSTALLED = "heif-not-installed"
    MEMORY = "memory"
    FAULT = "fault"


class PeerLostError(Exception):
    """The other side of the socket is gone."""


class LiedError(Exception):
    """The child said what no honest child says; its process is not to be used again."""


class RefusedError(Exception):
    """The child made nothing of the photo, and said why.

    Args:
        code: Why.
        said: For the log only: printable, at most 300 characters.
    """

    def __init__(self, code: RefusalCode, said: str) -> None:
        super().__init__(f"{code}: {said}")
        self.code = code
        self.said = said


class Channel:
    """One side of the socket between parent and child. Not thread-safe: one job at a time.

    Args:
        connection: A connected stream socket; this object owns it.

    Attributes:
        connection: The socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._until: float | None = None

    def allow(self, seconds: float | None) -> None:
        """Let everything from now on take so many seconds together; None or ``inf`` for as long as it takes."""
        self._until = None if seconds is None or seconds == math.inf else time.monotonic() + seconds

    def send(self, kind: Kind, content: bytes, descriptor: int | None = None) -> None:
        """Send a frame, and with its first byte a descriptor.

        Raises:
            PeerLostError: The other side is gone.
            TimeoutError: It does not read in time.
        """
        rest = memoryview(_HEADER.pack(kind, len(content)) + content)
        try:
            if descriptor is not None:
                self._wait_no_longer()
                rest = rest[socket.send_fds(self.connection, [rest], [descriptor]) :]
            while rest:
                self._wait_no_longer()
                rest = rest[self.connection.send(rest) :]
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerLostError from error

    def receive(self, *, most_bytes: int, kinds: frozenset[Kind]) -> tuple[Kind, bytes]:
        """Receive a frame.

        Args:
            most_bytes: A longer one is a lie.
            kinds: Another one is a lie.

        Raises:
            LiedError: The frame is not one of these.
            PeerLostError: The other side is gone.
            TimeoutError: It was not here in time.
        """
        kind, length = _HEADER.unpack(self._read(_HEADER.size))
        if kind not in kinds or length > most_bytes:
            raise LiedError(f"a frame of kind {kind} with {length} bytes where {most_bytes} are the most")
        return Kind(kind), bytes(self._read(length))

    def receive_job(self) -> tuple[RenderJob, int]:
        """Receive a job and the descriptor of its original; the caller closes it. The child's side.

        Raises:
            PeerLostError: The parent is gone, or sent no descriptor.
        """
        header, descriptors, _, _ = socket.recv_fds(self.connection, _HEADER.size, 1)
        header += self._read(_HEADER.size - len(header))
        if not descriptors:
            raise PeerLostError
        return decode_job(bytes(self._read(_HEADER.unpack(header)[1]))), descriptors[0]

    def close(self) -> None:
        """Close the socket; an idle child ends then. Safe to call twice."""
        self.connection.close()

    def _read(self, length: int) -> bytearray:
        # Grown as it comes: a child that announces much and sends little costs little.
        content = bytearray()
        try:
            while len(content) < length:
                self._wait_no_longer()
                chunk = self.connection.recv(min(length - len(content), _CHUNK_BYTES))
                if not chunk:
                    raise PeerLostError
                content += chunk
        except ConnectionResetError as error:
            raise PeerLostError from error
        return content

    def _wait_no_longer(self) -> None:
        """Let the next call of the socket wait for what is left of the allowed time."""
        if self._until is None:
            self.connection.settimeout(None)
            return
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)


def has_news(connection: socket.socket, seconds: float) -> bool:
    """Return whether something can be read, or the other side is gone, within so many seconds."""
    waiting = select.poll()  # a worker with a thousand connections has descriptors that select cannot name
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def encode_job(job: RenderJob) -> bytes:
    """Return a job as the content of a frame."""
    return json.dumps(asdict(job)).encode()


def decode_job(content: bytes) -> RenderJob:
    """Return the job of :func:`encode_job`; its sender is trusted."""
    fields = json.loads(content)
    outputs = tuple(Output(Preset(**one["preset"]), Format(one["format"])) for one in fields.pop("outputs"))
    return RenderJob(outputs=outputs, quality=Quality(**fields.pop("quality")), **fields)


def send_rendered(channel: Channel, rendered: Rendered) -> None:
    """Send what a job gave. The child's side.

    Raises:
        PeerLostError: The parent is gone.
    """
    facts = {
        "thumbhash": rendered.thumbhash,
        "dominant_color": rendered.dominant_color,
        "images": [[image.width, image.height, len(image.content)] for image in rendered.images],
    }
    channel.send(Kind.RENDERED, json.dumps(facts).encode())
    for image in rendered.images:
        channel.send(Kind.CONTENT, image.content)


def send_refusal(channel: Channel, code: RefusalCode, said: str) -> None:
    """Send why nothing was made. The child's side.

    Raises:
        PeerLostError: The parent is gone.
    """
    channel.send(Kind.REFUSED, json.dumps({"code": code, "said": said[:_MOST_SAID_CHARACTERS]}).encode())


def receive_ready(channel: Channel) -> bool:
    """Return whether the child that reports for work is confined. The parent's side.

    Raises:
        LiedError: It says something else.
        PeerLostError: It ended.
        TimeoutError: It did not report in time.
    """
    _, content = channel.receive(most_bytes=_MOST_JSON_BYTES, kinds=frozenset({Kind.READY}))
    return _object(content).get("confined") is True


def receive_taken(channel: Channel) -> None:
    """Wait until the child has the job. The parent's side.

    Raises:
        LiedError: It says something else.
        PeerLostError: It ended before, and has seen nothing of the photo.
        TimeoutError: It did not take it in time.
    """
    channel.receive(most_bytes=0, kinds=frozenset({Kind.TAKEN}))


def receive_rendered(channel: Channel, job: RenderJob) -> Rendered:
    """Receive the answer to a job and judge it. The parent's side.

    Raises:
        RefusedError: The child made nothing of the photo.
        LiedError: The answer is none that this job can have.
        PeerLostError: The child ended.
        TimeoutError: The answer was not here in time.
    """
    kind, content = channel.receive(most_bytes=_MOST_JSON_BYTES, kinds=frozenset({Kind.RENDERED, Kind.REFUSED}))
    facts = _object(content)
    if kind is Kind.REFUSED:
        raise _refusal(facts)
    sizes = facts.get("images")
    if not isinstance(sizes, list) or len(sizes) != len(job.outputs):
        raise LiedError("another number of images than was asked for")
    images = tuple(_receive_image(channel, output, size) for output, size in zip(job.outputs, sizes, strict=True))
    thumbhash = _described(facts, "thumbhash", _THUMBHASH, wanted=job.describes)
    return Rendered(images, thumbhash, _described(facts, "dominant_color", _COLOR, wanted=job.describes))


def _receive_image(channel: Channel, output: Output, size: object) -> RenderedImage:
    side = output.preset.side
    if not (isinstance(size, list) and [type(number) for number in size] == [int] * 3):
        raise LiedError("an image without a size")
    width, height, length = size
    if not (1 <= width <= side and 1 <= height <= side):
        raise LiedError(f"an image of {width} by {height} pixels for a side of {side}")
    most = width * height * _BYTES_PER_PIXEL + _LEAST_ROOM_BYTES
    _, content = channel.receive(most_bytes=most, kinds=frozenset({Kind.CONTENT}))
    if len(content) != length or not _MAGIC[output.format].match(content):
        raise LiedError(f"bytes that are no {output.format}")
    return RenderedImage(output, content, width, height)


def _described(facts: Mapping[str, Any], name: str, form: re.Pattern[str], *, wanted: bool) -> str | None:
    given = facts.get(name)
    if not wanted and given is None:
        return None
    if not wanted or not isinstance(given, str) or not form.fullmatch(given):
        raise LiedError(f"no {name} of the form that is wanted")
    return given


def _refusal(facts: Mapping[str, Any]) -> RefusedError:
    said = "".join(character if character.isprintable() else " " for character in str(facts.get("said", "")))
    try:
        return RefusedError(RefusalCode(facts.get("code", "")), said[:_MOST_SAID_CHARACTERS])
    except ValueError as error:
        raise LiedError("a refusal without a known code") from error


def _object(content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LiedError("no JSON") from error
    if not isinstance(facts, dict):
        raise LiedError("no JSON object")
    return facts
