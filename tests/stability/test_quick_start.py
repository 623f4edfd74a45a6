"""The entry page of the library runs as it is printed, by the name that the library has in its wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/stability"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(name: str, tmp_path: Path) -> str:
    """Run what a page shows, as one program, and return what it printed."""
    (tmp_path / "stability").symlink_to(ROOT / "app/stability")
    blocks = BLOCK.findall((PAGES / name).read_text(encoding="utf-8"))
    assert len(blocks) >= 2
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]

    done = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quick_start_runs(tmp_path: Path) -> None:
    printed = run_page("README.md", tmp_path)

    assert "circuit_breaker_calls {'name': 'inventory', 'kind': 'not_permitted'}" in printed


def test_the_page_about_files_runs(tmp_path: Path) -> None:
    printed = run_page("configuration.md", tmp_path)

    assert printed.startswith("inventory: timeout > retry > circuit_breaker\n")
    assert re.search(r"^ +max_attempts +2 attempts +profiles\.production\.defaults\.retry$", printed, re.MULTILINE)
    assert "Warning" not in printed


def test_the_page_about_watching_runs(tmp_path: Path) -> None:
    printed = run_page("observing.md", tmp_path)

    assert "reason='the other side is moved'" in printed
    assert 'inventory_circuit_breaker_state{name="inventory",state="forced_open"} 1.0' in printed


def test_the_entry_page_leads_to_every_other_page() -> None:
    text = (PAGES / "README.md").read_text(encoding="utf-8")

    missing = [page.name for page in PAGES.glob("*.md") if page.name != "README.md" and f"]({page.name})" not in text]

    assert missing == []
