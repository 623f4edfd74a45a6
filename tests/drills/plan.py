"""How a drill is run: with the times of production, or with those of a test suite. Nothing else differs.

Both run the profile of production on the pipelines of ``config/stability.toml``; what the drill expects it reads from
the configuration that the product runs with.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.pipelines import load_configuration
from app.settings import CONFIG_FOLDER
from app.stability import CircuitBreaker, CircuitBreakerOptions, Retry, RetryOptions
from app.stability.pipelines import Pipelines

WORKERS = 2
READ, WRITE = "storage_read", "storage_write"
PROFILE = "production"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters of a drill.

    Attributes:
        name: For its first line.
        times: What differs from the configuration of production: seconds by option, by policy.
        slow_answer_seconds: How long the slow store takes; longer than a slow call, shorter than any timeout.
        refusals: How many downloads, and how many uploads, are refused by an open breaker and timed.
        longest_refusal_ms: What 99 of 100 refusals may take; a test suite keeps the machine busy.
        control_downloads: How many downloads fail while the breaker is disabled.
    """

    name: str
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    slow_answer_seconds: float
    refusals: int
    longest_refusal_ms: float
    control_downloads: int


FULL = Plan(
    name="the values of production",
    slow_answer_seconds=6.0,
    refusals=300,
    longest_refusal_ms=100,
    control_downloads=50,
)

SHORT = Plan(
    name="the values of production, but for the times of a test suite",
    times={
        "retry": {"base_seconds": 0.02, "cap_seconds": 0.1},
        "circuit_breaker": {
            "wait_duration_in_open_state_seconds": 18,
            "slow_call_duration_threshold_seconds": 4,
        },
    },
    slow_answer_seconds=4.5,
    refusals=50,
    longest_refusal_ms=500,
    control_downloads=20,
)


@dataclass(frozen=True)
class Expected:
    """What the product is configured to do, as far as a drill asks.

    Attributes:
        breaker: Of reading; that of writing is the same but for its name.
        retry: Of reading.
    """

    breaker: CircuitBreakerOptions
    retry: RetryOptions

    @property
    def wait_seconds(self) -> float:
        """How long the breaker stays open."""
        wait = self.breaker.wait_duration_in_open_state_seconds
        assert not callable(wait)
        return wait

    @property
    def calls_to_reach_the_minimum(self) -> int:
        """So many calls at once that one worker has at least the minimum, however they are spread."""
        return WORKERS * (self.breaker.minimum_number_of_calls - 1) + 1

    def most_calls(self, requests: int) -> float:
        """Return how many calls so many requests may make in an outage, retries of all workers included."""
        return (1 + self.retry.budget_ratio) * requests + WORKERS * self.retry.budget_floor


def read_expected(environ: Mapping[str, str], folder: Path) -> Expected:
    """Read what a product with these settings runs with."""
    pipelines = load_configuration(environ, working_folder=folder).pipelines
    breaker = pipelines.find_all(CircuitBreaker)[READ].options
    assert breaker == pipelines.find_all(CircuitBreaker)[WRITE].options
    return Expected(breaker, _retry(pipelines).options)


def _retry(pipelines: Pipelines) -> Retry:
    found = pipelines[READ].find(Retry)
    assert found is not None
    return found


def product_settings(plan: Plan, folder: Path) -> dict[str, str]:
    """Return the settings of a product that is drilled; its pipelines are written into the folder."""
    settings = {
        "PHOTO_API_PROFILE": PROFILE,
        "PHOTO_API_SERVER__ALLOWED_HOSTS": "127.0.0.1",
        # Calls that hang must leave threads to those that ask how things stand.
        "PHOTO_API_SERVER__THREADS": "40",
        # No balancer has to notice its end.
        "PHOTO_API_BALANCER__PROBE_INTERVAL_SECONDS": "0",
        "PHOTO_API_BALANCER__PROBE_TIMEOUT_SECONDS": "0",
        "PHOTO_API_BALANCER__PROPAGATION_SECONDS": "0",
        "PHOTO_API_SERVER__DRAIN_LAME_DUCK_SECONDS": "0",
        "PHOTO_API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "PHOTO_API_AUTH__ACCESS_TOKEN_SECONDS": "3600",
        "PHOTO_API_AUTH__REGISTRATION": "open",
    }
    if plan.times:
        path = folder / "pipelines.toml"
        path.write_text(pipelines_document(plan), encoding="utf-8")
        settings["PHOTO_API_STABILITY__PIPELINES_FILE"] = str(path)
    return settings


def pipelines_document(plan: Plan) -> str:
    """Return the pipelines of production with the times of a plan."""
    lines = [(CONFIG_FOLDER / "stability.toml").read_text(encoding="utf-8")]
    for pipeline in (READ, WRITE):
        for policy, times in plan.times.items():
            lines.append(f"[profiles.{PROFILE}.pipelines.{pipeline}.{policy}]")
            lines += [f"{option} = {seconds}" for option, seconds in times.items()]
    return "\n".join(lines) + "\n"
