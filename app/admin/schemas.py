"""What the operators' routes take and answer."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from app.http.fields import Line
from app.http.operations import RequestModel
from app.ops.host_board import REASON_BYTES_MAX

FOR_SECONDS_MAX = 86_400.0

BreakerState = Literal["closed", "open", "half_open", "disabled", "metrics_only", "forced_open", "forced_half_open"]
"""The states of a circuit breaker, as :class:`app.stability.State` has them."""


def _refuse_long(reason: str) -> str:
    if len(reason.encode("utf-8", "replace")) > REASON_BYTES_MAX:
        raise ValueError(f"must have at most {REASON_BYTES_MAX} bytes in UTF-8")
    return reason


Reason = Annotated[
    Line,
    StringConstraints(max_length=REASON_BYTES_MAX),
    AfterValidator(_refuse_long),
    Field(examples=["the store is being moved"]),
]
Rate = Annotated[float | None, Field(description="0 to 1; null while there are too few results", examples=[0.25])]


class BreakerChange(RequestModel):
    """A state to set, and why."""

    state: BreakerState
    for_seconds: float | None = Field(
        default=None,
        gt=0,
        le=FOR_SECONDS_MAX,
        description="with open only: for how long instead of the breaker's own wait",
    )
    reason: Reason = Field(
        description=f"why, up to {REASON_BYTES_MAX} bytes in UTF-8; for the log and for whoever looks next"
    )


class BreakerFigures(BaseModel):
    """What one worker has counted."""

    failure_rate: Rate
    slow_call_rate: Rate
    results: int = Field(description="in the window")
    failures: int = Field(description="failed ones among them")
    slow_calls: int = Field(description="slow ones among them")
    calls_in_flight: int
    calls: dict[str, int] = Field(
        description="all so far: successful, failed, ignored, late, not_permitted",
        examples=[{"successful": 940, "failed": 7, "ignored": 3, "late": 0, "not_permitted": 0}],
    )


class BreakerView(BaseModel):
    """A circuit breaker."""

    name: str = Field(examples=["storage_read"])
    state: BreakerState
    ends_in_seconds: float | None = Field(description="null when no time ends it", examples=[41.5])
    since: dt.datetime | None = Field(description="when that was decided; null when it never was, or is not known")
    by: str | None = Field(description="who decided: breaker, a user's id, or a login at a command line")
    reason: str | None = Field(description="why, in their words")
    openings: int = Field(description="since it was last closed")
    can_be_set_to: list[BreakerState]
    is_shared: bool = Field(
        description="whether all workers of this host follow; false while their shared page is lost",
        examples=[True],
    )
    worker_pid: int = Field(description="the process that answers", examples=[4711])
    figures: BreakerFigures = Field(description="of that worker alone")


class BreakersView(BaseModel):
    """All circuit breakers."""

    items: list[BreakerView]
