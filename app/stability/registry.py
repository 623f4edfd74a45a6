"""Which class a policy's name in a configuration stands for.

The policies of this library are known by name; others are offered by installed packages in the entry-point group
``stability.policies``::

    [project.entry-points."stability.policies"]
    slow_call_log = "slow_call_log:SlowCallLog"

Only what a configuration names is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Final

from .context import PolicyKind
from .errors import OptionError
from .options import Options, rule_of

ENTRY_POINT_GROUP: Final = "stability.policies"
"""Where installed packages offer policies."""

BUILT_IN: Final[Mapping[str, tuple[str, str]]] = MappingProxyType({
    "adaptive_limit": ("adaptive_limit", "AdaptiveLimit"),
    "bulkhead": ("bulkhead", "Bulkhead"),
    "cache": ("cache", "Cache"),
    "chaos": ("chaos", "Chaos"),
    "circuit_breaker": ("breaker", "CircuitBreaker"),
    "fallback": ("fallback", "Fallback"),
    "rate_limit": ("rate_limit", "RateLimit"),
    "retry": ("retry", "Retry"),
    "timeout": ("timeout", "Timeout"),
})  # fmt: skip
"""Module and class of each policy of this library, by its name."""

_CLOSE_ENOUGH = 0.7
_LEAST_PART = 3  # as in max, rate


def known_names(kinds: Mapping[str, type[PolicyKind]] | None = None) -> tuple[str, ...]:
    """Return every name that can stand in a configuration, sorted; nothing is imported for it.

    Args:
        kinds: Classes that the caller adds by name.
    """
    return tuple(sorted({*(kinds or {}), *BUILT_IN, *(offered.name for offered in _offered())}))


def find_kind(name: str, kinds: Mapping[str, type[PolicyKind]] | None = None) -> type[PolicyKind]:
    """Return the class behind a name: the caller's first, then this library's, then an installed package's.

    Args:
        name: As it stands in the configuration.
        kinds: Classes that the caller adds by name.

    Raises:
        OptionError: There is none, or it cannot be imported, or it is no policy; one sentence.
    """
    found: Any
    if kinds and name in kinds:
        found = kinds[name]
    elif name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        found = getattr(import_module(f".{module}", __package__), attribute)
    else:
        found = _load_offered(name, kinds)
    problem = _problem_of(found)
    if problem is not None:
        raise OptionError([f"the policy {name!r} cannot be used: {problem}"])
    kind: type[PolicyKind] = found
    return kind


def hint(text: str, candidates: Iterable[str]) -> str:
    """Return what a name may mean, for the end of a sentence: ``"; did you mean 'x'?"``.

    That is the only candidate that contains it, else the closest one; without one, all that there are.
    """
    folded = text.lower()
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    close = [candidate for candidate in by_folded if len(folded) >= _LEAST_PART and folded in candidate]
    if len(close) != 1:
        close = get_close_matches(folded, by_folded, n=1, cutoff=_CLOSE_ENOUGH)
    if close:
        return f"; did you mean {by_folded[close[0]]!r}?"
    return f"; there are {', '.join(by_folded.values())}" if by_folded else ""


def _offered(name: str | None = None) -> list[EntryPoint]:
    found = entry_points(group=ENTRY_POINT_GROUP)
    return [offered for offered in found if name is None or offered.name == name]


def _load_offered(name: str, kinds: Mapping[str, type[PolicyKind]] | None) -> Any:
    offers = {offered.value: offered for offered in _offered(name)}
    if not offers:
        raise OptionError([f"there is no policy {name!r}{hint(name, known_names(kinds))}"])
    if len(offers) > 1:
        raise OptionError([f"the policy {name!r} is offered more than once: {', '.join(sorted(offers))}"])
    (offered,) = offers.values()
    try:
        return offered.load()
    except Exception as error:
        sentence = f"the policy {name!r} ({offered.value}) cannot be imported: {type(error).__name__}: {error}"
        raise OptionError([sentence]) from error


def _problem_of(found: Any) -> str | None:
    """Return why something is no :class:`PolicyKind`, None when it is one."""
    options = getattr(found, "Options", None)
    if not isinstance(found, type) or not all(callable(getattr(found, name, None)) for name in ("build", "execute")):
        return "it is no class with build and execute"
    if not (isinstance(options, type) and issubclass(options, Options) and is_dataclass(options)):
        return "its Options is no dataclass made from stability.Options"
    undeclared = [declared.name for declared in fields(options) if not _is_declared(declared)]
    return f"{', '.join(undeclared)} in its Options is not declared with option()" if undeclared else None


def _is_declared(declared: Field[Any]) -> bool:
    try:
        rule_of(declared)
    except KeyError:
        return False
    return True
