"""One small picture through all decoders and encoders, before an engine process is confined.

A library opens files when it is used for the first time, not when it is imported; afterwards it needs none. And
a process that cannot make a picture never gets a photo.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from app.images.jobs import Output, Rendered, RenderJob
from app.images.presets import Format, Preset, Quality

_SIDE: Final = 64
_OUTPUTS: Final = tuple(Output(Preset("trial", _SIDE // 2), image_format) for image_format in Format)
_EXTRAS: Final = ("pillow_heif",)


def try_out(render: Callable[[int, RenderJob], Rendered]) -> None:
    """Render a small picture as every format, and each of those again.

    Args:
        render: What the process will do with photos.

    Raises:
        Exception: This installation cannot render; whatever was raised.
    """
    for name in _EXTRAS:
        if find_spec(name) is not None:
            import_module(name)
    for image in _tried(render, "image/png", small_png(_SIDE)).images:
        _tried(render, image.output.format.content_type, image.content)


def small_png(side: int) -> bytes:
    """Return a PNG of a square with colours running across it.

    Args:
        side: In pixels, 1 to 256.
    """
    lines = b"".join(
        b"\0" + b"".join(bytes((across, down, side - 1 - across)) for across in range(side)) for down in range(side)
    )
    header = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _tried(render: Callable[[int, RenderJob], Rendered], content_type: str, content: bytes) -> Rendered:
    job = RenderJob(
        content_type=content_type,
        width=_SIDE,
        height=_SIDE,
        size_bytes=len(content),
        outputs=_OUTPUTS,
        quality=Quality(avif_effort=0),
        describes=True,
    )
    descriptor = os.memfd_create("trial")
    try:
        os.write(descriptor, content)
        return render(descriptor, job)
    finally:
        os.close(descriptor)
