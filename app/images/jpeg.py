"""JPEG: the walk over its segments, from the start to the end of the image.

::

    SOI  (APPn | COM | DQT | DHT | DRI | DAC)*  SOF  (tables | SOS entropy-coded data)+  EOI  whatever

Every length is followed, every scan is counted, the entropy-coded data is searched for its end and not
decoded. Bytes after the end are allowed: phones put films and depth maps there. Not here: what the
entropy-coded data says, and the other pictures of a multi-picture file.

Source: ITU-T T.81 annex B.
"""

from __future__ import annotations

import re

from app.errors import ImageLimitError, UnsupportedMediaTypeError
from app.images.exif import NO_EXIF, read_exif
from app.images.limits import ImageLimits, Tally
from app.images.structure import Layout, Source, Structure, damaged

_KIND = "JPEG"
_SOI, _EOI, _SOS, _DQT, _DNL, _DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD
_DHT, _DAC, _COM, _APP0, _APP1, _APP2, _APP15 = 0xC4, 0xCC, 0xFE, 0xE0, 0xE1, 0xE2, 0xEF
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xCA})
_RARE_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE, 0xDF})
_IN_ENTROPY = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_COMPONENTS = 4
_MAX_SAMPLING = 4
_MAX_TABLE = 3
_MAX_COEFFICIENT = 63
_MAX_CODES = 256


def read_jpeg(source: Source, limits: ImageLimits) -> Structure:
    """Walk a JPEG to its end-of-image marker.

    Raises:
        UndecodableImageError: A length, table, frame or scan is wrong, or the end is missing.
        ImageLimitError: Too many pixels, scans, segments or bytes of metadata.
        UnsupportedMediaTypeError: Lossless or hierarchical JPEG.
    """
    source.kind = _KIND
    walk = _Walk(source, limits)
    position = 2
    while True:
        code, position = _marker(source, position)
        if code == _EOI:
            return walk.finish()
        length = source.uint(position, 2)
        if length < 2:  # noqa: PLR2004  the length counts its own two bytes
            raise damaged(_KIND, "the length of a segment is wrong")
        walk.segment(code, position + 2, length - 2)
        position += length
        if code == _SOS:
            position = _entropy_end(source, position)


def jpeg_layout(source: Source, limits: ImageLimits) -> Layout:
    """Read as far as the first scan, and tell how the pixels lie; what :func:`read_jpeg` judges is not judged again.

    Raises:
        UndecodableImageError: There is no frame, or no scan.
        ImageLimitError: Too many segments stand before them.
    """
    source.kind = _KIND
    tally = Tally(limits)
    position, bands, sample_bytes = 2, 0, 1
    while True:
        code, position = _marker(source, position)
        length = source.uint(position, 2)
        if code == _SOS and bands:
            # Components that come one after the other are collected as the passes of a progressive file are.
            return Layout(bands, sample_bytes, is_whole=source.uint(position + 2, 1) < bands)
        if code in {_EOI, _SOS} or length < 2:  # noqa: PLR2004  the length counts its own two bytes
            raise damaged(_KIND, "it has no picture")
        tally.segment()
        if code in _FRAMES:
            head = source.read(position + 2, 6)
            bands, sample_bytes = head[5], 1 if head[0] == 8 else 2  # noqa: PLR2004  T.81 table B.2: bits per sample
            if code in _PROGRESSIVE_FRAMES:
                return Layout(bands, sample_bytes, is_whole=True)
        position += length


def _marker(source: Source, position: int) -> tuple[int, int]:
    """Return the marker at a position and where it ends; any number of fill bytes may stand before it."""
    if source.uint(position, 1) != 0xFF:  # noqa: PLR2004  every marker starts so
        raise damaged(_KIND, "a segment does not start where the one before it ends")
    position += 1
    while True:
        window, index = source.window_at(position)
        if window[index] != 0xFF:  # noqa: PLR2004  the first byte that is no fill byte is the code
            return window[index], position + 1
        filled = len(window) - index - len(window[index:].lstrip(b"\xff"))
        position += filled


def _entropy_end(source: Source, start: int) -> int:
    """Return where the marker stands that ends the entropy-coded data, in one pass of compiled search."""
    position = start
    while True:
        window, index = source.window_at(position)
        match = _IN_ENTROPY.search(window, index)
        if match is not None:
            break
        position += len(window) - index
        if window.endswith(b"\xff"):
            position -= 1
            source.read(position, 2)  # moves the window, so that both bytes of a marker lie in one
    end = position + match.start() - index
    if end == start:
        raise damaged(_KIND, "a scan has no data")
    return end


class _Walk:
    """What has been seen so far of one JPEG."""

    def __init__(self, source: Source, limits: ImageLimits) -> None:
        self._source = source
        self._limits = limits
        self._tally = Tally(limits)
        self._components: frozenset[int] = frozenset()
        self._width = 0
        self._height = 0
        self._scans = 0
        self._exif = NO_EXIF

    def segment(self, code: int, offset: int, size: int) -> None:
        """Judge one segment by its marker; offset and size are those of its payload."""
        self._tally.segment()
        if _APP0 <= code <= _APP15 or code == _COM:
            self._metadata(code, offset, size)
        elif code in _FRAMES:
            self._frame(self._source.read(offset, size))
        elif code == _SOS:
            self._scan(self._source.read(offset, size))
        elif code == _DQT:
            _check_quantization(self._source.read(offset, size))
        elif code == _DHT:
            _check_huffman(self._source.read(offset, size))
        elif code in _RARE_FRAMES:
            raise UnsupportedMediaTypeError(
                "The file is a lossless or hierarchical JPEG, which is not accepted. Export it as an ordinary JPEG."
            )
        elif code not in {_DRI, _DAC, _DNL} or (code != _DAC and size != 2):  # noqa: PLR2004  both hold one number
            raise damaged(_KIND, "it has a segment that no JPEG has")

    def finish(self) -> Structure:
        """Return what was found; the end-of-image marker has been reached."""
        if not self._scans:
            raise damaged(_KIND, "it has no picture")
        return Structure(
            content_type="image/jpeg", width=self._width, height=self._height, scans=self._scans, exif=self._exif
        )

    def _metadata(self, code: int, offset: int, size: int) -> None:
        self._tally.metadata(size)
        head = self._source.upto(offset, min(size, 12))
        if code == _COM:
            self._tally.text(size)
        elif code == _APP2 and head == b"ICC_PROFILE\0":
            self._tally.icc(size)
        elif code == _APP1 and head.startswith(b"Exif\0"):
            self._tally.exif(size)
            if self._exif is NO_EXIF:
                self._exif = read_exif(self._source.read(offset, size))

    def _frame(self, data: bytes) -> None:
        if self._components:
            raise damaged(_KIND, "it has two frames")
        if len(data) < 6 or len(data) != 6 + 3 * data[5] or data[0] not in {8, 12}:  # noqa: PLR2004  T.81 table B.2
            raise damaged(_KIND, "the length of its frame header is wrong")
        self._height, self._width = int.from_bytes(data[1:3]), int.from_bytes(data[3:5])
        if not self._width or not self._height:
            raise damaged(_KIND, "its width or height is zero")
        parts = [data[index : index + 3] for index in range(6, len(data), 3)]
        self._components = frozenset(part[0] for part in parts)
        if not 1 <= len(self._components) == len(parts) <= _MAX_COMPONENTS:
            raise damaged(_KIND, "its colour components are wrong")
        for _, sampling, table in parts:
            across, down = divmod(sampling, 16)
            if not (1 <= across <= _MAX_SAMPLING and 1 <= down <= _MAX_SAMPLING and table <= _MAX_TABLE):
                raise damaged(_KIND, "its colour components are wrong")
        self._limits.check_canvas(self._width, self._height)

    def _scan(self, data: bytes) -> None:
        count = data[0] if data else 0
        if not 1 <= count <= _MAX_COMPONENTS or len(data) != 4 + 2 * count:
            raise damaged(_KIND, "the length of a scan header is wrong")
        if not self._components.issuperset(data[1 : 1 + 2 * count : 2]):
            raise damaged(_KIND, "a scan is for a colour component that is not there")
        if not data[-3] <= data[-2] <= _MAX_COEFFICIENT:
            raise damaged(_KIND, "a scan header is wrong")
        self._scans += 1
        if self._scans > self._limits.max_scans:
            raise ImageLimitError(
                f"The JPEG has more than {self._limits.max_scans} scans. Export it again with the usual progressive "
                "or baseline setting."
            )


def _check_quantization(data: bytes) -> None:
    """Follow the tables of a DQT segment to its very end."""
    position = 0
    while position < len(data):
        precision, table = divmod(data[position], 16)
        if precision > 1 or table > _MAX_TABLE:
            raise damaged(_KIND, "a quantization table is wrong")
        position += 1 + 64 * (precision + 1)
    if position != len(data) or not data:
        raise damaged(_KIND, "the length of a quantization table is wrong")


def _check_huffman(data: bytes) -> None:
    """Follow the tables of a DHT segment to its very end."""
    position = 0
    while position < len(data):
        table_class, table = divmod(data[position], 16)
        codes = sum(data[position + 1 : position + 17])
        if table_class > 1 or table > _MAX_TABLE or codes > _MAX_CODES:
            raise damaged(_KIND, "a Huffman table is wrong")
        position += 17 + codes
    if position != len(data) or not data:
        raise damaged(_KIND, "the length of a Huffman table is wrong")
