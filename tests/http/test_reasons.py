"""The table of problem types in docs/api.md is the one that the product answers by."""

from __future__ import annotations

from pathlib import Path

from app.http.problems import PROBLEMS
from app.http.reasons import REASONS, in_order, known_problems

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "api.md"
HEADING = "|---|---|---|---|\n"


def table() -> str:
    """Return the rows of the table."""
    rows = [
        (str(problem.status), f"`{problem.slug}`", REASONS[problem.slug], "yes" if problem.retryable else "no")
        for problem in known_problems()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_document_lists_every_problem_with_its_reason() -> None:
    written = DOCUMENT.read_text(encoding="utf-8").rpartition(HEADING)[2]

    assert written == table(), f"docs/api.md should end with:\n{table()}"


def test_problems_are_known_once_and_in_order() -> None:
    known = known_problems()

    assert len({problem.slug for problem in known}) == len(known)
    assert [problem.status for problem in known] == sorted(problem.status for problem in known)
    assert set(PROBLEMS.values()) <= set(known)
    assert in_order([*known, *reversed(known)]) == known
