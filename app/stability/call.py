"""One call on its way through a pipeline, and what a policy is.

::

    pipeline.call(fetch, "a")           Call(fetch, "a")
          │                                  │
          ▼                                  ▼
    ┌─ policy ──┐   proceed(call)   ┌─ policy ──┐   proceed(call)
    │  execute  │ ────────────────▶ │  execute  │ ────────────────▶ fetch("a")
    └───────────┘                   └───────────┘

Policies are immutable in their options and shared by all threads; what belongs to one call lives in its
:class:`Call`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from .deadline import Deadline, current_deadline

R = TypeVar("R")


class Call(partial[R]):
    """A function with its arguments, and what policies need to know of it. Used by one thread at a time.

    It is a :class:`functools.partial`: made and called without a frame of Python, which is a third of what a
    guarded call may cost. ``Call(function, *args, **kwargs)`` makes one; ``call()`` runs the function.

    A call made of another call has facts of its own and does not take over the other's, except that it is not
    :attr:`repeatable` when the other is not. To run a call with its facts, give it to
    :meth:`.pipeline.Pipeline.run`.

    Attributes:
        operation: What is done, for events and logs; ``""`` where the pipeline's name says enough.
        attempt: Which attempt this is, from 1; a retry policy counts it up.
        idempotent: Whether doing it twice is the same as doing it once.
        idempotency_key: The key by which the other side knows a repetition; None when it has none.
        replayable: Whether all arguments can be sent again. False for a stream that was read once.
        partition: Whose share of a limit it uses, ``""`` for nobody's in particular.
        key: What a rate limit or a cache tells apart, ``""`` for one that is common to all calls.
    """

    operation: str = ""
    attempt: int = 1
    idempotent: bool = True
    idempotency_key: str | None = None
    replayable: bool = True
    partition: str = ""
    key: str = ""

    @property
    def deadline(self) -> Deadline | None:
        """The deadline of this context, None outside any scope."""
        return current_deadline()

    @property
    def repeatable(self) -> bool:
        """Whether a second attempt can do no harm and sends the same."""
        inner = self.func
        return (
            self.replayable
            and (self.idempotent or self.idempotency_key is not None)
            and (not isinstance(inner, Call) or inner.repeatable)
        )

    def describe(self, **facts: Any) -> Self:
        """Set attributes of this class by name and return the call.

        Raises:
            TypeError: There is no such attribute.
        """
        for name, value in facts.items():
            if name not in _FACTS:
                message = f"a call has no {name!r}; it has {', '.join(sorted(_FACTS))}"
                raise TypeError(message)
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Name the function, never its arguments, which may be secret or large."""
        return f"Call({getattr(self.func, '__qualname__', type(self.func).__name__)}, attempt={self.attempt})"


_FACTS = frozenset({"operation", "attempt", "idempotent", "idempotency_key", "replayable", "partition", "key"})

Proceed: TypeAlias = Callable[[Call[Any]], Any]
"""What is left of a pipeline behind a policy. Called any number of times, or not at all."""


class Policy(Protocol):
    """Something that stands between a caller and a function. Thread-safe.

    A policy either returns what ``proceed(call)`` returns, returns something in its place, raises what it
    raised, or refuses with an error of :mod:`.errors` without calling it. It holds no lock across ``proceed``,
    and what it took for the call it gives back in ``finally``.
    """

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run the call through this policy.

        Args:
            call: The call; the same object goes on to ``proceed``.
            proceed: The rest of the pipeline.
        """
        ...


@runtime_checkable
class Linkable(Protocol):
    """A policy that can do the same with fewer frames of Python: for those on every call's way."""

    def link(self, proceed: Proceed) -> Proceed:
        """Return ``execute`` with its second argument given; asked once, when a pipeline is made."""
        ...
