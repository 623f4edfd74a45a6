"""What this process holds open in a folder, named or not; what other threads open and close elsewhere is left out."""

from __future__ import annotations

from pathlib import Path


def opened_in(folder: Path) -> list[str]:
    """Return where this process's open descriptors lead, of those that lead into a folder."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:  # closed while we looked
            continue
    return [target for target in found if target.startswith(f"{folder}/")]
