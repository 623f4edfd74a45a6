"""The operators' routes: breakers and modes. On the management listener; the public one does not have them."""

from __future__ import annotations

import datetime as dt

from app.admin.schemas import BreakerChange, BreakersView, BreakerView, ModeChange, ModesView
from app.admin.service import BreakerRecord, BreakerService, ModeRecord, ModeService
from app.errors import ConflictError
from app.http.identity import Principal
from app.http.operations import Changes, Reply, get, put
from app.ops.modes import describe


class BreakerRoutes:
    """Seeing and setting circuit breakers.

    Args:
        breakers: The use cases.
    """

    def __init__(self, breakers: BreakerService) -> None:
        self._breakers = breakers

    @get("/api/v1/admin/breakers", summary="List the breakers", access="admin:read", answers={200: BreakersView})
    def list_breakers(self) -> Reply:
        """All circuit breakers of this host, by name. What the workers have counted is in the metrics."""
        return Reply(content=BreakersView(items=[_view(record) for record in self._breakers.list_all()]))

    @get("/api/v1/admin/breakers/<name>", summary="Show a breaker", access="admin:read", answers={200: BreakerView})
    def show_breaker(self, name: str) -> Reply:
        """One circuit breaker, and the states that it can be set to."""
        return Reply(content=_view(self._breakers.show(name)))

    @put(
        "/api/v1/admin/breakers/<name>/state",
        summary="Set a breaker's state",
        access="admin:ops",
        answers={200: BreakerView},
        problems=(ConflictError,),
        changes=Changes.NOTHING,
    )
    def set_breaker_state(self, principal: Principal, name: str, body: BreakerChange) -> Reply:
        """Move a breaker by hand, in all workers of this host.

        `disabled`, `metrics_only` and the forced states hold until another state is set, over restarts too. Setting
        the state that it is in changes nothing, but for `open` with a new time. What a state cannot go to is 409;
        `can_be_set_to` lists what it can.
        """
        record = self._breakers.change(
            name, body.state, for_seconds=body.for_seconds, by=str(principal.user_id), reason=body.reason
        )
        return Reply(content=_view(record))


def _view(record: BreakerRecord) -> BreakerView:
    snapshot, decision = record.snapshot, record.entry.decision
    return BreakerView.model_validate(
        {
            "name": snapshot.name,
            "state": snapshot.state.value,
            "ends_in_seconds": None if snapshot.remaining_seconds is None else round(snapshot.remaining_seconds, 1),
            "since": None if decision is None else dt.datetime.fromtimestamp(round(record.entry.decided_at), dt.UTC),
            "by": None if decision is None else decision.by,
            "reason": (decision.reason or None) if decision is not None else None,
            "openings": snapshot.attempt,
            "can_be_set_to": [state.value for state in record.targets],
            "is_shared": record.is_shared,
        }
    )


class ModeRoutes:
    """Seeing the mode of this host, and setting it.

    Args:
        modes: The use cases.
    """

    def __init__(self, modes: ModeService) -> None:
        self._modes = modes

    @get("/api/v1/admin/modes", summary="Show the mode", access="admin:read", answers={200: ModesView})
    def show_mode(self) -> Reply:
        """What this host takes now, and why. Spool and memory are judged by the process that answers."""
        return Reply(content=_modes_view(self._modes.show()))

    @put(
        "/api/v1/admin/modes",
        summary="Set the mode",
        access="admin:ops",
        answers={200: ModesView},
        changes=Changes.NOTHING,
    )
    def set_mode(self, principal: Principal, body: ModeChange) -> Reply:
        """Let nothing be changed, in all workers of this host, until it is taken back with `normal`.

        It holds from the next request on, over restarts too; what is under way is finished. What the server finds by
        itself holds besides: `normal` ends no outage.
        """
        record = self._modes.change(
            body.mode, for_seconds=body.for_seconds, by=str(principal.user_id), reason=body.reason
        )
        return Reply(content=_modes_view(record))


def _modes_view(record: ModeRecord) -> ModesView:
    reasons = [describe(reason) for reason in record.mode.reasons]
    return ModesView.model_validate({"mode": record.mode.name, "reasons": reasons, "is_shared": record.is_shared})
