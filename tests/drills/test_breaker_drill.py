"""The drill of `make breaker-drill`, with fewer requests; and that its checks can fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.pipelines import load_configuration
from app.stability import CircuitBreaker
from tests.drills import breaker_drill
from tests.drills.breaker_drill import conduct, drilled_product, main
from tests.drills.drill import BreakerDrill
from tests.drills.journal import DrillFailedError, Journal
from tests.drills.plan import FULL, READ, SHORT, WRITE, product_settings
from tests.fakes.fault_proxy import Status
from tests.servers.base import skip_without
from tests.servers.product import Product


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    with drilled_product(SHORT) as running:
        yield running


def test_an_outage_from_beginning_to_end_is_as_it_should_be(product: Product) -> None:
    lines: list[str] = []
    journal = Journal(lines.append)

    code = conduct(BreakerDrill(product, SHORT, journal).run, journal)

    assert code == 0, "\n".join(lines)
    assert [number for number in range(1, 8) if any(f"s] {number}. " in line for line in lines)] == [*range(1, 8)]
    assert lines[-1] == f"\nPASSED: {journal.checks} checks"
    assert journal.checks == sum("   ok   " in line for line in lines) > 50


def test_without_the_breaker_the_check_that_no_call_reaches_the_store_fails(product: Product) -> None:
    drill = BreakerDrill(product, SHORT, Journal(list[str]().append))
    drill.warm_up()
    product.command("breakers", "set", READ, "disabled")
    assert product.stack.proxy is not None
    product.stack.proxy.inject(Status(500))

    try:
        with pytest.raises(DrillFailedError, match=rf"^{READ}: [1-9][0-9]* calls reached the store$"):
            drill.refuse(READ, 5)
    finally:
        product.command("breakers", "reset", READ)
        drill.close()


def test_a_check_that_does_not_hold_ends_the_drill_with_1() -> None:
    lines: list[str] = []
    journal = Journal(lines.append)

    code = conduct(lambda: journal.check([], "what should be there"), journal)

    assert code == 1
    assert lines[0].endswith("   NOT  what should be there")
    assert lines[-1] == "\nFAILED: what should be there"


def test_a_server_that_is_not_installed_ends_the_command_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(breaker_drill, "drilled_product", lambda _plan: skip_without("no Swift here"))

    code = main([])

    assert code == 1
    assert "The drill cannot run: " in capsys.readouterr().out


def test_the_short_drill_differs_from_production_in_times_only(product: Product) -> None:
    production = {**product.environ, **product_settings(FULL, product.folder)}
    del production["PHOTO_API_STABILITY__PIPELINES_FILE"]
    times = ("wait_duration_in_open_state_seconds", "slow_call_duration_threshold_seconds")

    full, short = (
        load_configuration(environ, working_folder=product.folder).pipelines.find_all(CircuitBreaker)
        for environ in (production, product.environ)
    )

    for name in (READ, WRITE):
        differing = {
            key for key, value in vars(full[name].options).items() if vars(short[name].options)[key] != value
        }
        assert differing == {*times}
    options = full[READ].options
    assert (options.minimum_number_of_calls, options.failure_rate_threshold) == (15, 0.2)
    assert (options.slow_call_duration_threshold_seconds, options.slow_call_rate_threshold) == (5, 0.5)
