"""Options of policies: frozen dataclasses whose fields know their unit, range and meaning.

::

    @dataclass(frozen=True, kw_only=True)
    class BulkheadOptions(Options):
        max_concurrent_calls: int = option(25, "Calls at work at once", low=1, high=10_000)

A value outside its range, of the wrong type, or in contradiction to another one is refused when the options are
made, with all mistakes in one :class:`.errors.OptionError`. Configuration files and the documentation read the
same fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final

from .errors import OptionError

_RULE: Final = "stability_rule"


@dataclass(frozen=True, slots=True)
class OptionRule:
    """What may stand in an option.

    Attributes:
        meaning: One line.
        unit: ``"seconds"``, ``"bytes"``, ``"calls"``; ``""`` for a ratio or a name.
        low: The smallest number; None where there is none.
        high: The largest number; None where there is none.
        above: The number that must be exceeded (a ratio is above 0); None where there is none.
        choices: The words that may stand there; empty for anything.
        judge: A rule of its own: returns what is wrong with a value, or None. Values that it is happy with are not
            judged further, and code may give values (functions) that no file can.
    """

    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    judge: Callable[[Any], str | None] | None = None

    @property
    def allowed(self) -> str:
        """The range in words, ``""`` when anything may stand there."""
        if self.choices:
            return " or ".join(self.choices)
        lower = f"> {self.above:g}" if self.above is not None else ""
        if self.low is not None:
            lower = f"≥ {self.low:g}"
        upper = "" if self.high is None else f"≤ {self.high:g}"
        return ", ".join(bound for bound in (lower, upper) if bound)


def option(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    judge: Callable[[Any], str | None] | None = None,
) -> Any:
    """Declare one field of an :class:`Options` class; see :class:`OptionRule` for the arguments."""
    rule = OptionRule(meaning, unit, low, high, above, choices, judge)
    return field(default=default, metadata={_RULE: rule})


def rule_of(declared: Field[Any]) -> OptionRule:
    """Return the rule of a field that :func:`option` declared."""
    rule = declared.metadata[_RULE]
    assert isinstance(rule, OptionRule)  # noqa: S101  # option() put it there
    return rule


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options: judges itself when it is made.

    Raises:
        OptionError: With every mistake.
    """

    def __post_init__(self) -> None:
        mistakes = [*self._mistakes_of_fields()]
        # Rules between fields can only be asked when each field makes sense by itself.
        mistakes = mistakes or list(self.contradictions())
        if mistakes:
            raise OptionError(mistakes)

    def contradictions(self) -> Iterator[str]:
        """Yield a sentence for each pair of options that cannot both be; for subclasses to say more."""
        yield from ()

    def cautions(self) -> Iterator[str]:
        """Yield a sentence for each option that works but is probably not meant; for subclasses to say more."""
        yield from ()

    def _mistakes_of_fields(self) -> Iterator[str]:
        for declared in fields(self):
            found = _mistake(getattr(self, declared.name), declared.default, rule_of(declared))
            if found is not None:
                yield f"{declared.name} {found}"


def _mistake(value: Any, default: Any, rule: OptionRule) -> str | None:
    if rule.judge is not None:
        return rule.judge(value)
    if rule.choices:
        return None if value in rule.choices else f"must be one of {', '.join(rule.choices)}"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(default, int | float):
        return _number_mistake(value, rule, whole=isinstance(default, int))
    if isinstance(default, str):
        return None if isinstance(value, str) else "must be a text"
    return None


def _number_mistake(value: Any, rule: OptionRule, *, whole: bool) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return "must be a whole number" if whole else "must be a number"
    # A whole number of any length is finite; math.isfinite() would first make a float of it.
    if isinstance(value, float) and not math.isfinite(value) and value != rule.high:
        return "must be finite"
    is_inside = (
        (rule.low is None or value >= rule.low)
        and (rule.high is None or value <= rule.high)
        and (rule.above is None or value > rule.above)
    )
    return None if is_inside else f"must be {rule.allowed}"
