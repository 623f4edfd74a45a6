"""Reading a pipelines document: its shape, its names, and which of its places wins.

::

    [defaults.circuit_breaker]              # what every circuit breaker starts from
    minimum_number_of_calls = 20

    [shared.storage_places]                 # one policy that several pipelines pass through
    kind = "bulkhead"

    [pipelines.storage_read]
    policies = ["timeout", "retry", "circuit_breaker", "storage_places", "attempt_timeout"]   # outermost first

    [pipelines.storage_read.attempt_timeout]
    kind = "timeout"                        # a name of its own, for a second one of a kind
    timeout_seconds = 8

    [profiles.production.defaults.circuit_breaker]
    minimum_number_of_calls = 15

The more specific place wins, and of two equally specific ones the profile's: an option's own default, ``defaults``,
``profiles.P.defaults``, ``pipelines``, ``profiles.P.pipelines``. Each key is overridden by itself; the value of a
key is never merged.

Here everything is judged that needs no policy's class; :mod:`.configuration` does the rest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import OptionError
from .registry import hint

_TABLES: Final = ("defaults", "shared", "pipelines")
_POLICIES: Final = "policies"
_KIND: Final = "kind"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and the place it was written at, for example ``defaults.retry.max_attempts``."""

    value: Any
    place: str


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """One policy as the document wants it.

    Attributes:
        name: By which the pipeline's ``policies`` name it.
        kind: What it is: ``retry``.
        place: Its table, for messages: ``pipelines.storage_read.retry``.
        full_name: Of the policy in events, metrics and errors.
        is_shared: Whether other pipelines pass through the same one.
        settings: What the document says of its options, by option.
    """

    name: str
    kind: str
    place: str
    full_name: str
    is_shared: bool
    settings: Mapping[str, Setting]


@dataclass(slots=True)
class Plan:
    """The document as it holds in one profile.

    Attributes:
        pipelines: The policies of each pipeline, outermost first.
        profiles: The profiles that have tables.
        shared: The names of the policies that pipelines may share.
        default_kinds: The places of ``[defaults.KIND]`` tables by kind.
        mistakes: Everything that is wrong with shape and names, one sentence each.
        cautions: What works and is probably not meant.
    """

    pipelines: dict[str, tuple[PolicyPlan, ...]] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    default_kinds: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Tables:
    """Tables of options by owner and name: the owner is ``defaults``, ``shared`` or a pipeline's name."""

    settings: dict[tuple[str, str], dict[str, Setting]] = field(default_factory=dict)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    policies: dict[str, Setting] = field(default_factory=dict)
    mentioned: dict[str, set[str]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OptionError: It is missing, cannot be read, or is no TOML; one sentence, after the path and a colon.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        mistake = "the file is missing"
    except tomllib.TOMLDecodeError as error:
        mistake = f"no valid TOML: {error}"
    except (OSError, UnicodeDecodeError):
        mistake = "cannot be read as a UTF-8 text file"
    raise OptionError([f"{path}: {mistake}"])


def plan_document(
    document: Mapping[str, Any],
    *,
    profile: str | None,
    profiles: Collection[str] | None,
    names: Collection[str] | None,
) -> Plan:
    """Say what a document wants, with everything that is wrong with its shape and its names.

    Args:
        document: As :mod:`tomllib` gives it.
        profile: Whose overrides hold; None for nobody's.
        profiles: The profiles that may stand there; None for any, and the chosen one must when others do.
        names: The pipelines that must stand there, and no others; None for any.
    """
    plan = Plan()
    reader = _Reader(plan, document, profile)
    reader.read_profile_names(profiles)
    reader.read_tables()
    reader.judge_names(names)
    for name in reader.pipelines:
        plan.pipelines[name] = tuple(reader.plan_pipeline(name))
    reader.judge_leftovers()
    return plan


class _Reader:
    """Goes through a document once; every mistake ends in the plan."""

    def __init__(self, plan: Plan, document: Mapping[str, Any], profile: str | None) -> None:
        self._plan = plan
        self._document = document
        self._profile = profile
        self._tables = _Tables()
        self._used_kinds: set[str] = set()
        self._profiles = dict(self._children("profiles", document))
        self.pipelines = list(dict(self._children("pipelines", document)))
        self._shared = list(dict(self._children("shared", document)))
        plan.profiles, plan.shared = tuple(self._profiles), tuple(self._shared)

    def read_profile_names(self, known: Collection[str] | None) -> None:
        for name in self._profiles:
            if known is not None and name not in known:
                self._wrong(f"profiles.{name}", f"is no profile{hint(name, known)}")
        chosen = self._profile
        if chosen is None or chosen in self._profiles:
            return
        if known is not None and chosen not in known:
            self._wrong(f"profiles.{chosen}", f"is no profile{hint(chosen, known)}")
        elif known is None and self._profiles:
            self._wrong(f"profiles.{chosen}", f"is missing{hint(chosen, self._profiles)}")

    def read_tables(self) -> None:
        self._read_layer("", {key: value for key, value in self._document.items() if key != "profiles"}, base=True)
        for name, tables in self._profiles.items():
            if not self._is_table(tables, f"profiles.{name}"):
                continue
            if name == self._profile:
                self._read_layer(f"profiles.{name}.", tables, base=False)
            else:
                self._mention(tables)

    def judge_names(self, names: Collection[str] | None) -> None:
        for name in self.pipelines:
            if names is not None and name not in names:
                self._wrong(f"pipelines.{name}", f"is no pipeline of this program{hint(name, names)}")
            if name in self._shared:
                self._wrong(f"shared.{name}", "has the name of a pipeline; both would go by it in logs and metrics")
        for name in names or ():
            if name not in self.pipelines:
                self._wrong(f"pipelines.{name}", "is missing")

    def plan_pipeline(self, name: str) -> Iterator[PolicyPlan]:
        place = f"pipelines.{name}"
        given = self._tables.policies.get(name)
        if given is None and name in self._tables.read:
            self._wrong(place, 'needs policies = ["…", …], outermost first; [] lets all calls pass')
        if given is None:
            return
        wanted = given.value
        if not isinstance(wanted, list) or not all(isinstance(policy, str) for policy in wanted):
            self._wrong(given.place, "must be a list of names")
            return
        for policy in dict.fromkeys(wanted):
            if wanted.count(policy) > 1:
                self._wrong(given.place, f"has {policy!r} twice; name the second one and give it a kind")
            yield self._plan_policy(name, policy)

    def judge_leftovers(self) -> None:
        """Say which tables hold for no policy. What another profile uses is no mistake in this one."""
        mentioned = self._tables.mentioned
        everywhere = {policy for policies in mentioned.values() for policy in policies} | self._used_kinds
        for (owner, name), place in self._tables.places.items():
            if owner == "defaults":
                self._plan.default_kinds[name] = place
            if owner in {"defaults", "shared"}:
                if name not in everywhere:
                    self._plan.cautions.append(f"{place}: no pipeline has such a policy")
            elif owner in mentioned and name not in mentioned[owner]:
                self._wrong(place, f"is not among the policies of {owner}{hint(name, sorted(mentioned[owner]))}")

    def _plan_policy(self, pipeline: str, name: str) -> PolicyPlan:
        is_shared = name in self._shared
        owner = "shared" if is_shared else pipeline
        if is_shared and (pipeline, name) in self._tables.settings:
            self._wrong(self._tables.places[pipeline, name], f"is shared; its options stand in [shared.{name}]")
        own = dict(self._tables.settings.get((owner, name), {}))
        chosen = own.pop(_KIND, None)
        kind = name
        if chosen is not None and isinstance(chosen.value, str):
            kind = chosen.value
        elif chosen is not None:
            self._wrong(chosen.place, "must be the name of a policy")
        self._used_kinds.add(kind)
        return PolicyPlan(
            name=name,
            kind=kind,
            place=f"shared.{name}" if is_shared else f"pipelines.{pipeline}.{name}",
            full_name=name if is_shared else pipeline if name == kind else f"{pipeline}.{name}",
            is_shared=is_shared,
            settings={**self._tables.settings.get(("defaults", kind), {}), **own},
        )

    def _read_layer(self, prefix: str, layer: Mapping[str, Any], *, base: bool) -> None:
        for key in layer:
            if key not in _TABLES:
                known = (*_TABLES, "profiles") if base else _TABLES
                self._wrong(f"{prefix}{key}", f"is nothing that can stand here{hint(key, known)}")
        for owner in ("defaults", "shared"):
            for name, table in self._children(owner, layer, prefix):
                if owner == "shared" and name not in self._shared:
                    self._wrong(
                        f"{prefix}shared.{name}", f"is not shared without a profile{hint(name, self._shared)}"
                    )
                elif self._is_table(table, f"{prefix}{owner}.{name}"):
                    self._take(owner, name, table, f"{prefix}{owner}.{name}")
        for name, table in self._children("pipelines", layer, prefix):
            place = f"{prefix}pipelines.{name}"
            if name not in self.pipelines:
                self._wrong(place, f"changes a pipeline that does not exist{hint(name, self.pipelines)}")
            elif self._is_table(table, place):
                self._read_pipeline(name, table, place)

    def _read_pipeline(self, name: str, table: Mapping[str, Any], place: str) -> None:
        self._tables.read.add(name)
        for key, value in table.items():
            if key == _POLICIES:
                self._tables.policies[name] = Setting(value, f"{place}.{key}")
                self._mention_policies(name, value)
            elif isinstance(value, Mapping):
                self._take(name, key, value, f"{place}.{key}")
            else:
                self._wrong(f"{place}.{key}", f"must be a table of options{hint(key, [_POLICIES])}")

    def _take(self, owner: str, name: str, table: Mapping[str, Any], place: str) -> None:
        taken = self._tables.settings.setdefault((owner, name), {})
        self._tables.places.setdefault((owner, name), place)
        for option, value in table.items():
            taken[option] = Setting(value, f"{place}.{option}")

    def _mention(self, layer: Mapping[str, Any]) -> None:
        """Note which policies another profile gives to pipelines."""
        pipelines = layer.get("pipelines")
        for name, table in pipelines.items() if isinstance(pipelines, Mapping) else ():
            if isinstance(table, Mapping):
                self._mention_policies(name, table.get(_POLICIES))

    def _mention_policies(self, pipeline: str, policies: Any) -> None:
        if isinstance(policies, list):
            mentioned = self._tables.mentioned.setdefault(pipeline, set())
            mentioned.update(policy for policy in policies if isinstance(policy, str))

    def _children(self, key: str, layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        children = layer.get(key, {})
        if isinstance(children, Mapping):
            yield from children.items()
        else:
            self._wrong(f"{prefix}{key}", "must be a table")

    def _is_table(self, value: Any, place: str) -> bool:
        if isinstance(value, Mapping):
            return True
        self._wrong(place, "must be a table")
        return False

    def _wrong(self, place: str, sentence: str) -> None:
        mistake = f"{place} {sentence}"
        if mistake not in self._plan.mistakes:
            self._plan.mistakes.append(mistake)
