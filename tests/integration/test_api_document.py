"""The commands of docs/api.md, run in their order against a server that really listens."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.fakes import images
from tests.servers.product import ROOT, Product

COMMANDS = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_document_work_as_they_are_printed(product: Product, tmp_path: Path) -> None:
    script = "\n".join(COMMANDS.findall((ROOT / "docs/api.md").read_text(encoding="utf-8")))
    (tmp_path / "photo.jpg").write_bytes(images.jpeg(640, 480, seed=3))

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**product.environ, "API": product.url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"status":"duplicate"') >= 3
    assert "Idempotency-Replayed: true" in done.stdout
