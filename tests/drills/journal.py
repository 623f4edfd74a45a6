"""What a drill tells the person who runs it: a line for each thing done and each thing seen, with the time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


class DrillFailedError(AssertionError):
    """Something was not as it should be; the message says what was expected, and what was seen."""


def print_line(line: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Journal:
    """Tells of a drill, step by step.

    Args:
        write: Takes one line.
    """

    def __init__(self, write: Callable[[str], object] = print_line) -> None:
        self._write = write
        self._began = time.monotonic()
        self.checks = 0

    def say(self, text: str) -> None:
        """Tell of the drill itself."""
        self._write(text)

    def step(self, title: str) -> None:
        """Begin a step."""
        self._write("")
        self._line("", title)

    def did(self, text: str) -> None:
        """Tell what was done to the system."""
        self._line("   did  ", text)

    def check(self, holds: object, text: str) -> None:
        """Judge what was seen.

        Args:
            holds: Whether it is as it should be.
            text: What it should be, and what it is.

        Raises:
            DrillFailedError: It is not.
        """
        self.checks += 1
        self._line("   ok   " if holds else "   NOT  ", text)
        if not holds:
            raise DrillFailedError(text)

    def _line(self, kind: str, text: str) -> None:
        self._write(f"[{time.monotonic() - self._began:6.1f} s] {kind}{text}")
