"""What a run tells: the table, the sentences, the file."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.load.burst import REQUESTS, Burst
from benchmarks.load.records import Outcome
from benchmarks.load.report import sentence, table, write
from benchmarks.load.traffic import at_once
from tests.benchmarks.load.findings import a_finding, a_record


def a_burst(good: int) -> Burst:
    rows = [
        (due, 0.5, Outcome.GOOD if number < good else Outcome.REFUSED) for number, due in enumerate(at_once(REQUESTS))
    ]
    return Burst(100, a_record(0, *rows).tally())


def test_a_line_of_the_table_has_its_figures_and_names_the_goals_it_misses() -> None:
    header, good, bad = table([a_finding(), a_finding(goodput=0.5, generator=0.02)]).splitlines()

    assert header.split()[:5] == ["work", "through", "load", "capacity", "good/s"]
    assert " ".join(good.split()) == "x direct 10x 100 100 1.00 401 400 1 0 0 0 10.0/10.0 1.0/1.0 - 1.0/5.0 0 0.00"
    assert bad.endswith("  goodput, generator late by 20 ms")


def test_what_was_never_seen_has_no_time() -> None:
    line = table([a_finding(goodput=0)]).splitlines()[1]

    assert " - " in line
    assert "nan" not in line


def test_a_burst_is_told_with_its_verdict() -> None:
    assert sentence(a_burst(150)) == (
        "500 at once, 50 places, a queue of 100: 150 good within 500 ms, 350 refused within 500 ms, "
        "0 other, 0 timed out, 0 lost: every one answered"
    )
    lost = Burst(1000, a_record(0, *[(0.0, 0.5, Outcome.GOOD)] * 499, (0.0, 0.0, Outcome.LOST)).tally())
    assert sentence(lost).endswith("1 lost: NOT every one answered")


def test_the_file_is_json_that_every_reader_takes(tmp_path: Path) -> None:
    path = tmp_path / "var" / "load.json"

    write([a_finding(goodput=0)], [a_burst(500)], path)

    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    assert "NaN" not in text
    assert document["overload"][0]["goodput"] == 0
    assert document["overload"][0]["load"]["good_ms"]["p50"] is None
    assert document["overload"][0]["missed"] == ["goodput"]
    assert document["bursts"][0]["holds"] is True
