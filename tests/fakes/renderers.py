"""What an engine process runs in tests instead of decoders: it does what the first word of the original says."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from app.errors import UndecodableImageError
from app.images.jobs import HeifNotInstalledError, Output, Rendered, RenderedImage, RenderJob
from app.images.presets import Format, Preset, Quality

MODULE = __name__

_MAGIC = {Format.JPEG: b"\xff\xd8\xff", Format.WEBP: b"RIFF\0\0\0\0WEBP", Format.AVIF: b"\0\0\0\0ftypavif"}
SIDE = 640


def job(*formats: Format, content_type: str = "image/jpeg", describes: bool = False) -> RenderJob:
    """Return a job for renditions of at most 640 pixels."""
    outputs = tuple(Output(Preset("thumbnail", SIDE), image_format) for image_format in formats or (Format.WEBP,))
    return RenderJob(
        content_type=content_type,
        width=1000,
        height=1000,
        size_bytes=100,
        outputs=outputs,
        quality=Quality(),
        describes=describes,
    )


def pid_of(rendered: Rendered) -> int:
    """Return which process made it."""
    return int(rendered.images[0].content.rpartition(b"pid ")[2])


def render(descriptor: int, job: RenderJob) -> Rendered:
    """Do what the original says; by default, answer honestly and tell the process's id."""
    word = os.pread(descriptor, 20, 0).partition(b" ")[0].decode("latin-1")
    if word in _TRICKS:
        _TRICKS[word]()
    images = tuple(RenderedImage(output, content_of(output.format), 1, 1) for output in job.outputs)
    return Rendered(images, "1QcSHQRnh493V4dIh4eXh1h4kJUI", "#a0b1c2") if job.describes else Rendered(images)


def content_of(image_format: Format) -> bytes:
    """Return what is taken for a picture at the first look."""
    return _MAGIC[image_format] + b"pid %d" % os.getpid()


def _refuse() -> NoReturn:
    raise UndecodableImageError("refused")


def _lack_heif() -> NoReturn:
    raise HeifNotInstalledError("no decoder")


def _raise() -> NoReturn:
    raise ValueError("a decoder's own\nerror")


def _raise_memory() -> None:
    bytearray(1 << 36)


def _read_null() -> None:
    ctypes.string_at(0)


def _spin() -> NoReturn:
    while True:
        pass


def _say(kind: int, content: bytes) -> None:
    """Write a frame of its own, past the code that writes honest ones."""
    rest = struct.pack("!BI", kind, len(content)) + content
    while rest:
        rest = rest[os.write(_descriptor(), rest) :]


def _descriptor() -> int:
    return int(sys.argv[sys.argv.index("--socket") + 1])


def _answer(*images: object, content: bytes | None = None, **facts: object) -> Callable[[], None]:
    """Return a trick that claims these images; a child goes on to answer honestly after it, which is too much."""

    def trick() -> None:
        _say(4, json.dumps({"images": images, "thumbhash": None, "dominant_color": None} | facts).encode())
        if content is not None:
            _say(5, content)
        time.sleep(60)

    return trick


def _die_while_answering() -> None:
    _say(4, json.dumps({"images": [[1, 1, 100]], "thumbhash": None, "dominant_color": None}).encode())
    os.write(_descriptor(), struct.pack("!BI", 5, 100) + b"RIFF")
    os.kill(os.getpid(), signal.SIGKILL)


def _close_and_stay() -> None:
    os.close(_descriptor())
    time.sleep(60)


def _answer_slowly() -> None:
    """Send an answer of 4 KiB at a hundred bytes a second."""
    os.write(_descriptor(), struct.pack("!BI", 4, 4096))
    while True:
        os.write(_descriptor(), b"[")
        time.sleep(0.01)


_WEBP = _MAGIC[Format.WEBP]
LIES: dict[str, Callable[[], object]] = {
    "lie:kind": lambda: _say(2, b"{}"),
    "lie:unknown-kind": lambda: _say(77, b"{}"),
    "lie:length": lambda: os.write(_descriptor(), struct.pack("!BI", 4, 0xFFFFFFFF)),
    "lie:json": lambda: _say(4, b"\xff{"),
    "lie:nested": lambda: _say(4, b"[" * 60_000),
    "lie:no-object": lambda: _say(4, b"[]"),
    "lie:no-images": lambda: _say(4, b"{}"),
    "lie:too-few": _answer(),
    "lie:too-many": _answer([1, 1, 20], [1, 1, 20]),
    "lie:size-of-text": _answer(["1", 1, 20]),
    "lie:size-of-truth": _answer([True, True, 20]),
    "lie:size-short": _answer([1, 1]),
    "lie:zero-wide": _answer([0, 1, 20]),
    "lie:enlarged": _answer([SIDE + 1, 1, 20]),
    "lie:too-long": _answer([1, 1, 70_000], content=_WEBP + bytes(70_000)),
    "lie:other-length": _answer([1, 1, 5], content=_WEBP),
    "lie:other-format": _answer([1, 1, 20], content=_MAGIC[Format.JPEG] + bytes(17)),
    "lie:described": _answer([1, 1, len(_WEBP)], content=_WEBP, thumbhash="1QcSHQRnh493V4dIh4eXh1h4kJUI"),
    "lie:color": _answer([1, 1, len(_WEBP)], content=_WEBP, dominant_color="<script>"),
    "lie:refusal": lambda: _say(6, b'{"code": "fine"}'),
    "lie:refusal-list": lambda: _say(6, b'{"code": ["undecodable"]}'),
}
"""Answers that no honest child gives."""

_TRICKS: dict[str, Callable[[], object]] = {
    "refuse": _refuse,
    "lack-heif": _lack_heif,
    "raise": _raise,
    "memory": _raise_memory,
    "null": _read_null,
    "abort": os.abort,
    "spin": _spin,
    "hang": lambda: time.sleep(3600),
    "exit": lambda: os._exit(3),
    "leave": lambda: os._exit(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "alarm": lambda: os.kill(os.getpid(), signal.SIGALRM),
    "processor": lambda: os.kill(os.getpid(), signal.SIGXCPU),
    "network": socket.socket,
    "fork": os.fork,
    "program": lambda: os.execv(sys.executable, [sys.executable]),  # noqa: S606  what the filter must forbid
    "die-answering": _die_while_answering,
    "close-and-stay": _close_and_stay,
    "drip": _answer_slowly,
    **LIES,
}
