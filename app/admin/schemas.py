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


class BreakerView(BaseModel):
    """A circuit breaker of this host; what each worker has counted is in the metrics."""

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


class BreakersView(BaseModel):
    """All circuit breakers."""

    items: list[BreakerView]


class ModeChange(RequestModel):
    """A mode to hold, and why."""

    mode: Literal["normal", "read_only"]
    for_seconds: float | None = Field(
        default=None,
        gt=0,
        le=FOR_SECONDS_MAX,
        description="with read_only only: for how long; until it is taken back when it is left out",
    )
    reason: Reason = Field(
        description=f"why, up to {REASON_BYTES_MAX} bytes in UTF-8; for the log and for whoever looks next"
    )


class ModeReasonView(BaseModel):
    """Why a mode holds."""

    name: Literal["operator", "database", "storage_writes", "spool", "memory"]
    mode: Literal["degraded", "read_only"] = Field(description="what it alone would make of the server")
    output: str = Field(examples=["the database takes no changes"])
    since: dt.datetime | None = Field(description="when it began; null when that is not known")
    by: str | None = Field(description="who has said so: a user's id, or a login at a command line")
    reason: str | None = Field(description="why, in their words")
    ends_in_seconds: float | None = Field(description="null when no time ends it", examples=[41.5])


class ModesView(BaseModel):
    """The mode that holds, and why."""

    mode: Literal["normal", "degraded", "read_only"]
    reasons: list[ModeReasonView]
    is_shared: bool = Field(
        description="whether what is said here holds in all workers of this host; false while their page is lost",
        examples=[True],
    )
