"""Thumbhash: some 25 bytes that show roughly what a photo looks like while it is being loaded.

The published algorithm (https://evanw.github.io/thumbhash/): the picture as luminance, two differences of
colour and alpha, of each the lowest frequencies of a cosine transform, packed in four bits apiece.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MAX_SIDE: Final = 100
"""The longest side, in pixels, of a picture that has a thumbhash."""

_CELLS: Final = 7
_CELLS_WITH_ALPHA: Final = 5


@dataclass(frozen=True, slots=True)
class _Channel:
    constant: float
    scale: float
    waves: tuple[float, ...]


def thumbhash(width: int, height: int, rgba: bytes) -> str:
    """Return the thumbhash of a small picture in Base64 (standard alphabet, padded).

    Args:
        width: Pixels, 1 to :data:`MAX_SIDE`.
        height: Pixels, 1 to :data:`MAX_SIDE`.
        rgba: Four bytes per pixel, not premultiplied, line by line.

    Raises:
        ValueError: The picture is larger, or has another number of bytes.
    """
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE) or len(rgba) != width * height * 4:
        raise ValueError(f"a thumbhash is of a picture of at most {MAX_SIDE} by {MAX_SIDE} pixels")
    planes, see_through = _planes(rgba)
    cells = _CELLS_WITH_ALPHA if see_through else _CELLS
    longer = max(width, height)
    across = max(1, _round(cells * width / longer))
    down = max(1, _round(cells * height / longer))
    waves = _Waves(width, height)
    light = waves.encode(planes[0], max(3, across), max(3, down))
    yellow_blue = waves.encode(planes[1], 3, 3)
    red_green = waves.encode(planes[2], 3, 3)
    head = (
        _round(63 * light.constant)
        | _round(31.5 + 31.5 * yellow_blue.constant) << 6
        | _round(31.5 + 31.5 * red_green.constant) << 12
        | _round(31 * light.scale) << 18
        | int(see_through) << 23
    )
    landscape = width > height
    tail = (
        (down if landscape else across)
        | _round(63 * yellow_blue.scale) << 3
        | _round(63 * red_green.scale) << 9
        | int(landscape) << 15
    )
    packed = bytearray(head.to_bytes(3, "little") + tail.to_bytes(2, "little"))
    channels = [light, yellow_blue, red_green]
    if see_through:
        opacity = waves.encode(planes[3], 5, 5)
        packed.append(_round(15 * opacity.constant) | _round(15 * opacity.scale) << 4)
        channels.append(opacity)
    packed += _in_pairs([_round(15 * wave) for channel in channels for wave in channel.waves])
    return base64.b64encode(packed).decode()


def _round(value: float) -> int:
    """Round halves up, as the reference does; Python rounds them to even."""
    return math.floor(value + 0.5)


def _planes(rgba: bytes) -> tuple[tuple[list[float], ...], bool]:
    """Return luminance, yellow against blue, red against green and alpha, and whether any of it is see-through.

    What is transparent takes the mean colour of the rest.
    """
    total = [0.0, 0.0, 0.0, 0.0]
    for at in range(0, len(rgba), 4):
        alpha = rgba[at + 3] / 255
        for index in range(3):
            total[index] += alpha / 255 * rgba[at + index]
        total[3] += alpha
    mean = [value / total[3] if total[3] else 0.0 for value in total[:3]]
    planes: tuple[list[float], ...] = ([], [], [], [])
    for at in range(0, len(rgba), 4):
        alpha = rgba[at + 3] / 255
        red, green, blue = (mean[index] * (1 - alpha) + alpha / 255 * rgba[at + index] for index in range(3))
        planes[0].append((red + green + blue) / 3)
        planes[1].append((red + green) / 2 - blue)
        planes[2].append(red - green)
        planes[3].append(alpha)
    return planes, total[3] < len(rgba) // 4


class _Waves:
    """The cosine transform of planes of one size."""

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._across = [_cosines(width, frequency) for frequency in range(_CELLS)]
        self._down = [_cosines(height, frequency) for frequency in range(_CELLS)]

    def encode(self, plane: Sequence[float], across: int, down: int) -> _Channel:
        """Return the constant part, and the frequencies of a triangle, scaled to 0 to 1."""
        lines = [plane[at : at + self._width] for at in range(0, len(plane), self._width)]
        sums = [[_dot(line, self._across[frequency]) for line in lines] for frequency in range(across)]
        constant, waves = 0.0, []
        for at_x, at_y in _triangle(across, down):
            value = _dot(sums[at_x], self._down[at_y]) / len(plane)
            if at_x or at_y:
                waves.append(value)
            else:
                constant = value
        scale = max((abs(wave) for wave in waves), default=0.0)
        return _Channel(constant, scale, tuple(0.5 + 0.5 / scale * wave if scale else wave for wave in waves))


def _triangle(across: int, down: int) -> Iterator[tuple[int, int]]:
    for at_y in range(down):
        at_x = 0
        while at_x * down < across * (down - at_y):
            yield at_x, at_y
            at_x += 1


def _cosines(length: int, frequency: int) -> list[float]:
    return [math.cos(math.pi / length * frequency * (at + 0.5)) for at in range(length)]


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(one * other for one, other in zip(first, second, strict=True))


def _in_pairs(values: list[int]) -> bytes:
    """Pack numbers of four bits, the first of a pair in the lower half."""
    padded = [*values, 0] if len(values) % 2 else values
    return bytes(low | high << 4 for low, high in zip(padded[::2], padded[1::2], strict=True))
