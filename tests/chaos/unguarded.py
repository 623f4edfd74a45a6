"""The product without one of its guards: a few lines of Python that every one of its processes runs as it starts."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.product import ROOT


def without(folder: Path, lines: str) -> dict[str, str]:
    """Return the settings of a product that runs these lines first.

    Args:
        folder: An empty folder; Python finds its ``sitecustomize`` in there.
        lines: What takes the guard away.
    """
    (folder / "sitecustomize.py").write_text(lines, encoding="utf-8")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
