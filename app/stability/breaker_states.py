"""The seven states of a circuit breaker, and which of them an operator can reach from which.

::

                 threshold                     wait is over
      CLOSED ───────────────▶ OPEN ─────────────────────────▶ HALF_OPEN
        ▲                      ▲                               │     │
        │                      └──── verdict, or time is up ───┘     │
        └────────────────────────────── verdict ─────────────────────┘

      by hand only:   DISABLED   METRICS_ONLY   FORCED_OPEN   FORCED_HALF_OPEN

=================  =====================================  ==============================================
State              Admits                                 Records
=================  =====================================  ==============================================
CLOSED             all                                    yes
OPEN               none                                   refusals; keeps the figures that tripped it
HALF_OPEN          a fixed number per visit               into a fresh window of that number
DISABLED           all                                    nothing
METRICS_ONLY       all                                    yes; a crossed threshold is told once per visit
FORCED_OPEN        none                                   refusals
FORCED_HALF_OPEN   a fixed number at a time               over as many of the last results
=================  =====================================  ==============================================
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """Where a circuit breaker is; the values are what metrics, logs and commands say."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"
    FORCED_OPEN = "forced_open"
    FORCED_HALF_OPEN = "forced_half_open"


_EVERYWHERE: Final = frozenset(State)

MANUAL_TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.CLOSED: _EVERYWHERE - {State.HALF_OPEN},
    State.OPEN: _EVERYWHERE,
    State.HALF_OPEN: _EVERYWHERE,
    State.DISABLED: _EVERYWHERE,
    State.METRICS_ONLY: _EVERYWHERE - {State.OPEN, State.HALF_OPEN},
    State.FORCED_OPEN: _EVERYWHERE,
    State.FORCED_HALF_OPEN: _EVERYWHERE,
}
"""Where each state can be moved by hand; to itself is always allowed and changes nothing."""


def can_move(source: State, target: State) -> bool:
    """Tell whether an operator can move a breaker from one state to another."""
    return target in MANUAL_TRANSITIONS[source]
