"""The fallback: another way to an answer when the guarded one has failed.

::

    execute ─▶ call ─▶ success, or an error that is an answer ────────────────▶ as it is
                 └──▶ failed ─▶ first alternative whose condition applies
                                   ├─▶ success, or an error that is an answer ─▶ in the call's place
                                   └─▶ failed ─▶ next one … none left ─────────▶ the call's own failure, with notes

What has failed is decided in one place, :func:`has_failed`, for the call and for the alternatives alike: an
alternative that says "there is no such photo" has answered, and its error is the caller's.

Alternatives are code, so no file can hold them. A file may choose among those that the program offers, see
:meth:`Fallback.given`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias, cast

from .deadline import DeadlineExceededError
from .errors import CallRefusedError, OptionError, StabilityError
from .events import Event, EventBus
from .figures import Figure
from .locks import make_lock
from .options import Options, option
from .outcome import EVERY_ERROR_FAILS, Classification, Outcome

if TYPE_CHECKING:
    from .call import Call, Proceed
    from .context import PolicyContext

_log = logging.getLogger(__name__)

NONE: Final = "none"
"""Where a failed call went for which no alternative had an answer."""

_NOTHING: Final = object()
_MOST_NOTES: Final = 16

Condition: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Types of errors, or a function that says of one error whether an alternative applies."""


class FailingResultError(StabilityError):
    """A returned value that is a failure, for alternatives and their conditions; it is never raised.

    Args:
        value: What the call returned.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return f"the call returned a {type(self.value).__name__} that is a failure"


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to an answer.

    Attributes:
        name: For metrics and events, of a fixed set; not ``"none"``.
        function: Is given the call and the first failure, and returns what the caller gets.
        when: Which failures of the call it is for; any, when nothing is said.
    """

    name: str
    function: Callable[[Call[Any], Exception], Any]
    when: Condition = Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed(Event):
    """An alternative is tried.

    Attributes:
        operation: The call's.
        source: What failed before it: the guarded call's name, or another alternative's.
        target: The alternative.
        error: Class of the error of ``source``; ``FailingResultError`` for a returned value.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    source: str
    target: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackFailed(Event):
    """A call has failed and no alternative had an answer.

    Attributes:
        operation: The call's.
        tried: The alternatives that failed, in order; empty when none applied.
        error: Class of the call's own error, which the caller gets; ``FailingResultError`` for a returned value.
    """

    level: ClassVar[int] = logging.ERROR

    operation: str
    tried: tuple[str, ...]
    error: str


def _names_mistake(value: Any) -> str | None:
    if not isinstance(value, tuple) or not all(isinstance(name, str) and name for name in value):
        return "must be a list of names"
    return None if len(set(value)) == len(value) else "must name each alternative once"


@dataclass(frozen=True, kw_only=True)
class FallbackOptions(Options):
    """Which alternatives, and when."""

    alternatives: tuple[str, ...] = option(
        (),
        "Which of the alternatives that the program offers, in order; all of them when empty",
        judge=_names_mistake,
    )
    primary: str = option("primary", "What the guarded call is called in metrics")
    on_failing_results: bool = option(
        False, "Whether a returned value that the classification calls a failure is one here"
    )


class Fallback:
    """A policy that puts something in the place of a failed call. Thread-safe.

    ``KeyboardInterrupt``, ``SystemExit`` and ``GeneratorExit`` pass, whoever raises them.

    Args:
        name: For events and metrics.
        alternatives: In the order in which they are tried, with names of their own.
        options: Which of them, and when.
        classification: What is a failure, of the call and of the alternatives.
        bus: Who hears of it.

    Raises:
        OptionError: There is no alternative, or their names are not usable, or the options name another one.
    """

    Options: ClassVar[type[FallbackOptions]] = FallbackOptions
    offered: ClassVar[tuple[Alternative, ...]] = ()

    def __init__(
        self,
        name: str,
        alternatives: Sequence[Alternative],
        options: FallbackOptions | None = None,
        *,
        classification: Classification = EVERY_ERROR_FAILS,
        bus: EventBus | None = None,
    ) -> None:
        self.name = name
        self.options = FallbackOptions() if options is None else options
        self.alternatives = _chosen(alternatives, self.options)
        self._classification = classification
        judges = self.options.on_failing_results and classification.judges_results
        self._judge = classification.of_result if judges else None
        self._bus = bus or EventBus()
        self._lock = make_lock()
        names = [self.options.primary, *(alternative.name for alternative in self.alternatives)]
        self._counts = {
            (source, target): 0 for index, source in enumerate(names) for target in (*names[index + 1 :], NONE)
        }

    @classmethod
    def given(cls, *alternatives: Alternative) -> type[Self]:
        """Return a class of this kind that a configuration can name, with alternatives to choose from.

        ``build_pipelines(document, kinds={"fallback": Fallback.given(from_origin, placeholder)})``
        """
        return cast("type[Self]", type(cls.__name__, (cls,), {"offered": alternatives, "__doc__": cls.__doc__}))

    @classmethod
    def build(cls, options: FallbackOptions, context: PolicyContext) -> Self:
        """Return a fallback for a pipeline; see :class:`.context.PolicyKind`.

        Raises:
            OptionError: The program offers no alternatives, or not those that the options name.
        """
        return cls(context.name, cls.offered, options, classification=context.classification, bus=context.bus)

    def execute(self, call: Call[Any], proceed: Proceed) -> Any:
        """Run a call, and when it fails the alternatives, until one of them has an answer.

        Returns:
            What the call returned, else what an alternative returned. A value that is a failure comes back as it is
            when nothing better is found.

        Raises:
            Exception: What the call raised, when no alternative had an answer: the same object, with a note for each
                alternative that failed too. Or the error with which an alternative answered.
        """
        judge = self._judge
        try:
            result = proceed(call)
        except Exception as error:
            if not has_failed(self._classification, error):
                raise
            found = self._substitute(call, error)
            if found is _NOTHING:
                raise
            return found
        if judge is None or judge(result) is not Outcome.FAILURE:
            return result
        found = self._substitute(call, FailingResultError(result))
        return result if found is _NOTHING else found

    def figures(self) -> Iterator[Figure]:
        """Yield how often it went from where to where."""
        for (source, target), count in self._counts.items():
            yield Figure("fallback", "counter", count, {"name": self.name, "from": source, "to": target})

    def _substitute(self, call: Call[Any], first: Exception) -> Any:
        """Return the first answer that an alternative has; ``_NOTHING`` when none has one."""
        source, failure = self.options.primary, first
        tried: list[str] = []
        for alternative in self.alternatives:
            if not self._applies(alternative, first):
                continue
            self._use(call, source, alternative.name, failure)
            source = alternative.name
            tried.append(source)
            try:
                value = alternative.function(call, first)
            except Exception as error:
                if not has_failed(self._classification, error):
                    raise
                failure = error
            else:
                if self._judge is None or self._judge(value) is not Outcome.FAILURE:
                    return value
                failure = FailingResultError(value)
            _note(first, f"fallback {source!r} failed too: {type(failure).__name__}: {failure}")
        self._count(source, NONE)
        self._bus.publish(
            FallbackFailed(name=self.name, operation=call.operation, tried=tuple(tried), error=type(first).__name__)
        )
        return _NOTHING

    def _applies(self, alternative: Alternative, error: Exception) -> bool:
        when = alternative.when
        try:
            if isinstance(when, tuple | type):
                return isinstance(error, when)
            return bool(when(error))
        except Exception:  # noqa: BLE001  # a condition's mistake is its own
            with suppress(Exception):  # what a log handler raises
                _log.exception(
                    "the condition of a fallback raised; it does not apply",
                    extra={"policy": self.name, "alternative": alternative.name},
                )
            return False

    def _use(self, call: Call[Any], source: str, target: str, failure: Exception) -> None:
        self._count(source, target)
        self._bus.publish(
            FallbackUsed(
                name=self.name,
                operation=call.operation,
                source=source,
                target=target,
                error=type(failure).__name__,
            )
        )

    def _count(self, source: str, target: str) -> None:
        with self._lock:
            self._counts[source, target] += 1


def has_failed(classification: Classification, error: Exception) -> bool:
    """Return whether an error means that there is no answer, so that one may be had from elsewhere.

    Refusals and deadlines that have passed do, whatever the classification says; else failures in its eyes. Every
    other error is an answer: it says something about the question and not about who was asked.
    """
    return (
        isinstance(error, CallRefusedError | DeadlineExceededError)
        or classification.of_error(error) is Outcome.FAILURE
    )


def _chosen(offered: Sequence[Alternative], options: FallbackOptions) -> tuple[Alternative, ...]:
    if not offered:
        sentence = "a fallback's alternatives are code: give kinds={'fallback': Fallback.given(…)} with the document"
        raise OptionError([sentence])
    by_name = {alternative.name: alternative for alternative in offered}
    taken = {"", NONE, options.primary} & by_name.keys()
    mistakes = [f"an alternative cannot be called {name!r}" for name in sorted(taken)]
    if len(by_name) != len(offered):
        mistakes.append("two alternatives have the same name")
    there_are = ", ".join(by_name)
    mistakes += [
        f"alternatives names {name!r}; there are {there_are}" for name in options.alternatives if name not in by_name
    ]
    if mistakes:
        raise OptionError(mistakes)
    return tuple(by_name[name] for name in options.alternatives or by_name)


def _note(error: Exception, note: str) -> None:
    """Add a note to an error, which may be one and the same object for many calls, or refuse it."""
    try:
        notes = getattr(error, "__notes__", ())
        if note not in notes and len(notes) < _MOST_NOTES:
            error.add_note(note)
    except Exception:  # noqa: BLE001  # the error itself matters more than its note
        with suppress(Exception):  # what a log handler raises
            _log.debug("an error takes no notes", exc_info=True)
