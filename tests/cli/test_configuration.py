"""``check-config``, ``settings`` and the tree of commands, as processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.pipelines import NAMES
from app.settings_timing import COMPARISONS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"
NUMBERS = [comparison.number for comparison in COMPARISONS]
HEAVY = (
    "pydantic",
    "flask",
    "werkzeug",
    "sqlalchemy",
    "boto3",
    "requests",
    "prometheus_client",
    "gunicorn",
    "dotenv",
)


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without settings, and able to find the package."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PHOTO_API")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_right_configuration_exits_with_0_and_prints_the_pipelines_as_they_will_run(tmp_path: Path) -> None:
    done = run(tmp_path, "check-config")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The configuration is right (profile development).")
    assert {line.split(":")[0] for line in done.stdout.splitlines() if line[:1].islower()} == set(NAMES)
    assert re.search(r"^ +minimum_number_of_calls +20 calls +defaults\.circuit_breaker$", done.stdout, re.MULTILINE)


def test_mistakes_of_settings_and_pipelines_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[pipelines.storage_raed]\npolicies = []\n", encoding="utf-8")

    done = run(
        tmp_path, "check-config", PHOTO_API_STABILITY__PIPELINES_FILE="mine.toml", PHOTO_API_SERVER__WORKERS="two"
    )

    assert (done.returncode, done.stdout) == (78, "")
    assert "PHOTO_API_SERVER__WORKERS (environment): must be" in done.stderr
    assert "PHOTO_API_STABILITY__PIPELINES_FILE: pipelines.storage_raed is no pipeline of this program" in done.stderr


def test_a_file_that_cannot_be_used_is_a_mistake_here_and_at_the_start(tmp_path: Path) -> None:
    cdn = {"BACKEND": "cloudfront", "BASE_URL": "https://cdn.example.org", "CLOUDFRONT_KEY_PAIR_ID": "K1"}
    given = {f"PHOTO_API_CDN__{name}": text for name, text in cdn.items()}
    bucket = {"BACKEND": "s3", "S3_BUCKET": "photos", "S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "secret"}
    given |= {f"PHOTO_API_STORAGE__{name}": text for name, text in bucket.items()}
    given["PHOTO_API_CDN__CLOUDFRONT_PRIVATE_KEY_FILE"] = "none.pem"

    for command in ("check-config", "serve"):
        done = run(tmp_path, command, **given)

        assert (done.returncode, done.stdout) == (78, "")
        heading, mistake = done.stderr.splitlines()
        assert heading == "The configuration is wrong:"
        assert mistake.startswith("  PHOTO_API_CDN__CLOUDFRONT_PRIVATE_KEY_FILE: the file cannot be read")


def test_what_production_would_refuse_is_refused_in_development(tmp_path: Path) -> None:
    text = (ROOT / "config/stability.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(
        text.replace("failure_rate_threshold = 0.2", "failure_rate_threshold = 20"), "utf-8"
    )

    done = run(tmp_path, "check-config", PHOTO_API_STABILITY__PIPELINES_FILE="mine.toml")

    assert (done.returncode, done.stdout) == (78, "")
    assert "profiles.production.defaults.circuit_breaker.failure_rate_threshold must be > 0, ≤ 1\n" in done.stderr


def test_what_is_probably_not_meant_is_a_warning(tmp_path: Path) -> None:
    text = (ROOT / "config/stability.toml").read_text(encoding="utf-8")
    foolish = text.replace('"retry", "circuit_breaker"', '"circuit_breaker", "retry"')
    (tmp_path / "mine.toml").write_text(foolish, encoding="utf-8")

    done = run(tmp_path, "check-config", PHOTO_API_STABILITY__PIPELINES_FILE="mine.toml")
    as_json = run(tmp_path, "check-config", "--json", PHOTO_API_STABILITY__PIPELINES_FILE="mine.toml")

    assert done.returncode == as_json.returncode == 0
    assert (
        "Warning: PHOTO_API_STABILITY__PIPELINES_FILE: pipelines.storage_read: circuit_breaker stands" in done.stderr
    )
    assert [f"Warning: {text}" for text in json.loads(as_json.stdout)["warnings"]] == done.stderr.splitlines()


def test_a_wrong_configuration_exits_with_78_and_lists_every_mistake(tmp_path: Path) -> None:
    done = run(tmp_path, "check-config", PHOTO_API_SERVER__WORKERS="hunter2", PHOTO_API_LOG__LEVLE="INFO")

    assert done.returncode == 78
    assert done.stdout == ""
    assert "PHOTO_API_SERVER__WORKERS" in done.stderr
    assert "PHOTO_API_LOG__LEVLE" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("level", "code"), [("INFO", 0), ("loud", 78)])
def test_a_script_reads_the_judgement_as_json(tmp_path: Path, level: str, code: int) -> None:
    done = run(tmp_path, "check-config", "--json", PHOTO_API_LOG__LEVEL=level)

    judgement = json.loads(done.stdout)
    assert done.returncode == code
    assert judgement["valid"] is (code == 0)
    assert len(judgement["mistakes"]) == (0 if code == 0 else 1)
    assert judgement["profile"] == "development"
    assert [pipeline["name"] for pipeline in judgement["pipelines"]] == ([*NAMES] if code == 0 else [])
    assert [time["number"] for time in judgement["times"]] == (NUMBERS if code == 0 else [])


def test_a_profile_that_does_not_exist_is_judged_without_one(tmp_path: Path) -> None:
    done = run(tmp_path, "check-config", "--json", PHOTO_API_PROFILE="prduction")

    assert (done.returncode, json.loads(done.stdout)["profile"]) == (78, None)


@pytest.mark.parametrize(
    "command",
    ["serve", "migrate", "user", "user create", "keys", "keys list", "keys rotate", "check-config", "reconcile"],
)
def test_the_help_of_a_command_says_how_it_exits(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, *command.split(), "--help")

    assert done.returncode == 0
    assert "exit codes: 0 " in done.stdout
    assert "78 the configuration" in " ".join(done.stdout.split()) or command == "check-config"


def test_the_table_names_value_and_origin_and_masks_secrets(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PHOTO_API_SERVER__THREADS=5\n", encoding="utf-8")

    done = run(tmp_path, "settings", PHOTO_API_AUTH__JWT_SECRET="hunter2" * 6)

    lines = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert lines["PHOTO_API_SERVER__THREADS"] == ["5", ".env"]
    assert lines["PHOTO_API_AUTH__JWT_SECRET"] == ["********", "environment"]
    assert "hunter2" not in done.stdout


def test_a_script_reads_the_table_as_json(tmp_path: Path) -> None:
    done = run(tmp_path, "settings", "--json", PHOTO_API_PROFILE="test")

    rows = {row["variable"]: row for row in json.loads(done.stdout)}
    assert rows["PHOTO_API_PROFILE"]["value"] == "test"
    assert rows["PHOTO_API_UPLOADS__MAX_BYTES"] == {
        "variable": "PHOTO_API_UPLOADS__MAX_BYTES",
        "section": "uploads",
        "allowed": "a whole number of bytes from 1024 to 5368709120",
        "unit": "bytes",
        "default": "31457280",
        "secret": False,
        "meaning": "Largest photo",
        "value": "31457280",
        "origin": "default",
    }


def test_the_reference_is_printed_even_when_the_configuration_is_wrong(tmp_path: Path) -> None:
    done = run(tmp_path, "settings", "--markdown", PHOTO_API_LOG__LEVEL="loud")

    assert done.returncode == 0
    assert done.stdout in DOCUMENT.read_text(encoding="utf-8")


def test_the_table_of_a_wrong_configuration_is_its_mistakes(tmp_path: Path) -> None:
    done = run(tmp_path, "settings", PHOTO_API_LOG__LEVEL="loud")

    assert (done.returncode, done.stdout) == (78, "")
    assert "PHOTO_API_LOG__LEVEL (environment)" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["check-config", "--help"], ["settings", "--help"]])
def test_help_tells_the_exit_codes(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments, PHOTO_API_LOG__LEVEL="loud")

    assert done.returncode == 0
    assert "exit codes" in done.stdout
    assert "78" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["settings", "--json", "--markdown"]])
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)

    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from app.cli.main import build_parser; build_parser().format_help(); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [sys.executable, "-m", "app", "settings"],
        cwd=tmp_path,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (141, b"")
