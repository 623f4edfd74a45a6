"""From a document to pipelines: what wins, what is refused, and that every mistake is told at once."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.stability import Classification, EventBus, OptionError, PolicyContext
from app.stability.configuration import build_pipelines
from app.stability.pipelines import Pipelines
from tests.fakes.clocks import HandClock
from tests.fakes.policies import (
    KINDS,
    Again,
    AgainOptions,
    Fuse,
    FuseOptions,
    Places,
    PlacesOptions,
    Recorder,
    Wait,
    WaitOptions,
)

ROOT = Path(__file__).resolve().parents[2]
TOO_LONG = "attempt_timeout (31 s) must not exceed timeout (30 s), which ends the call before"
OWN_NAME = '(a name of its own needs kind = "…" in [pipelines.read.retri])'
READ = '[pipelines.read]\npolicies = ["timeout", "retry", "circuit_breaker", "bulkhead"]\n'
DEVELOPMENT_AND_PRODUCTION = """
[defaults.circuit_breaker]
minimum_number_of_calls = 20
[pipelines.read]
policies = ["retry", "circuit_breaker"]
[pipelines.write]
policies = ["retry", "circuit_breaker"]
[pipelines.write.circuit_breaker]
minimum_number_of_calls = 40
[profiles.production.defaults.circuit_breaker]
minimum_number_of_calls = 15
[profiles.production.pipelines.read.retry]
base_seconds = 1
"""


def build(text: str, **arguments: Any) -> Pipelines:
    return build_pipelines(tomllib.loads(text), **{"kinds": KINDS, **arguments})


def mistakes(text: str, **arguments: Any) -> tuple[str, ...]:
    with pytest.raises(OptionError) as caught:
        build(text, **arguments)
    return caught.value.mistakes


def test_policies_are_linked_in_the_order_of_the_document() -> None:
    pipelines = build(READ)

    assert [type(policy) for policy in pipelines["read"].policies] == [Wait, Again, Fuse, Places]
    assert pipelines["read"].call(len, "four") == 4
    assert [policy.calls for policy in pipelines["read"].policies if isinstance(policy, Recorder)] == [1, 1, 1, 1]
    assert pipelines.cautions == ()


def test_each_pipeline_has_the_name_by_which_it_is_found() -> None:
    pipelines = build(DEVELOPMENT_AND_PRODUCTION)

    assert {name: pipeline.name for name, pipeline in pipelines.items()} == {"read": "read", "write": "write"}


def test_a_profile_that_the_program_does_not_know_is_refused() -> None:
    found = mistakes(DEVELOPMENT_AND_PRODUCTION, profile="development", profiles=("development", "staging"))

    assert len(found) == 1
    assert "profiles.production" in found[0]


def test_a_kind_of_the_program_s_own_may_have_defaults() -> None:
    document = '[defaults.again]\nmax_attempts = 2\n[pipelines.read]\npolicies = ["again"]\n'

    pipelines = build(document, kinds={"again": Again})

    assert pipelines.find_all(Again)["read"].options == AgainOptions(max_attempts=2)


def test_the_cautions_of_every_pipeline_are_told() -> None:
    twice = 'policies = ["circuit_breaker", "retry"]\n'

    pipelines = build(f"[pipelines.read]\n{twice}[pipelines.write]\n{twice}")

    assert [caution.split(":")[0] for caution in pipelines.cautions] == ["pipelines.read", "pipelines.write"]


def test_an_empty_list_of_policies_lets_calls_pass() -> None:
    assert build("[pipelines.read]\npolicies = []\n")["read"].policies == ()


@pytest.mark.parametrize(
    ("profile", "read", "write", "wait"),
    [(None, 20, 40, 0.5), ("development", 20, 40, 0.5), ("production", 15, 40, 1)],
)
def test_the_more_specific_place_wins_and_a_profile_among_equals(
    profile: str | None, read: int, write: int, wait: float
) -> None:
    pipelines = build(DEVELOPMENT_AND_PRODUCTION, profile=profile, profiles=("development", "production"))

    fuses, retries = pipelines.find_all(Fuse), pipelines.find_all(Again)
    assert fuses["read"].options == FuseOptions(minimum_number_of_calls=read)
    assert fuses["write"].options == FuseOptions(minimum_number_of_calls=write)
    assert retries["read"].options == AgainOptions(base_seconds=wait)
    assert retries["write"].options == AgainOptions()


def test_each_policy_gets_the_surroundings_of_its_pipeline() -> None:
    clock, bus, seldom = HandClock(), EventBus(), Classification(failures=(OSError,))
    document = READ + '[pipelines.write]\npolicies = ["retry"]\n'

    pipelines = build(document, context=PolicyContext("", clock=clock, bus=bus), classifications={"read": seldom})

    read, write = pipelines.find_all(Again)["read"].context, pipelines.find_all(Again)["write"].context
    assert (read.name, read.clock, read.bus, read.classification) == ("read", clock, bus, seldom)
    assert (write.name, write.clock, write.bus) == ("write", clock, bus)
    assert write.classification == PolicyContext("").classification


def test_a_second_policy_of_a_kind_has_a_name_of_its_own_and_the_defaults_of_its_kind() -> None:
    document = """
    [defaults.timeout]
    timeout_seconds = 20
    [pipelines.read]
    policies = ["timeout", "attempt_timeout"]
    [pipelines.read.attempt_timeout]
    kind = "timeout"
    """

    waits = build(document).find_all(Wait)

    assert {name: wait.options for name, wait in waits.items()} == {
        "read": WaitOptions(timeout_seconds=20),
        "read.attempt_timeout": WaitOptions(timeout_seconds=20),
    }


def test_a_shared_policy_is_one_for_all_its_pipelines() -> None:
    classification = Classification(failures=(OSError,))
    document = """
    [defaults.bulkhead]
    max_concurrent_calls = 7
    [shared.places]
    kind = "bulkhead"
    [pipelines.read]
    policies = ["places"]
    [pipelines.write]
    policies = ["retry", "places"]
    """

    pipelines = build(document, classifications={"places": classification, "read": Classification()})

    (places,) = pipelines.find_all(Places).values()
    assert pipelines["read"].policies[-1] is pipelines["write"].policies[-1] is places
    assert (places.context.name, places.context.classification) == ("places", classification)
    assert places.options == PlacesOptions(max_concurrent_calls=7)


def test_values_of_a_document_cannot_be_changed_afterwards() -> None:
    document = tomllib.loads(
        '[pipelines.read]\npolicies = ["retry"]\n[pipelines.read.retry]\nstatuses = [500, 503]\n'
    )
    retry = build_pipelines(document, kinds=KINDS).find_all(Again)["read"]

    document["pipelines"]["read"]["retry"]["statuses"].append(200)

    assert retry.options == AgainOptions(statuses=(500, 503))


def test_the_example_of_the_documentation_is_right_in_code_and_file() -> None:
    text = (ROOT / "docs/stability/configuration.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)

    pipelines = build(example, profile="production", profiles=("production",), names=("inventory", "payments"))

    assert pipelines.cautions == ()
    assert pipelines.find_all(Fuse)["inventory"].options == FuseOptions(minimum_number_of_calls=15)
    assert pipelines["payments"].policies == pipelines["inventory"].policies[3:4]
    assert sorted(pipelines.find_all(Wait)) == ["inventory", "inventory.attempt_timeout"]


def test_every_mistake_is_told_at_once_with_its_place() -> None:
    document = """
    [defaults.retry]
    max_attempt = 3
    [pipelines.read]
    policies = ["timeout", "retri", "circuit_breaker"]
    [pipelines.read.timeout]
    timeout_seconds = 0
    [pipelines.write]
    policies = ["retry"]
    [pipelines.write.retry]
    jitter = "sometimes"
    max_attempts = 2.5
    [pipelines.list]
    policies = ["retry"]
    [pipelines.list.retry]
    base_seconds = 20
    """

    found = mistakes(document)

    assert found == (
        "pipelines.read.timeout.timeout_seconds must be > 0, ≤ 3600",
        "pipelines.read.retri: there is no policy 'retri'; did you mean 'retry'? " + OWN_NAME,
        "defaults.retry.max_attempt is no option of retry; did you mean 'max_attempts'?",
        "pipelines.write.retry.max_attempts must be a whole number",
        "pipelines.write.retry.jitter must be one of full, none",
        "pipelines.list.retry: base_seconds must not exceed cap_seconds",
    )


def test_a_mistake_in_a_common_place_is_told_once() -> None:
    document = DEVELOPMENT_AND_PRODUCTION.replace("= 20", "= 0")

    assert mistakes(document) == ("defaults.circuit_breaker.minimum_number_of_calls must be ≥ 1, ≤ 1000",)


@pytest.mark.parametrize("profile", [None, "development", "production"])
def test_a_mistake_of_a_profile_is_told_in_every_profile(profile: str | None) -> None:
    document = DEVELOPMENT_AND_PRODUCTION.replace("= 15", "= 0")

    found = mistakes(document, profile=profile, profiles=("development", "production"))

    assert found == ("profiles.production.defaults.circuit_breaker.minimum_number_of_calls must be ≥ 1, ≤ 1000",)


def test_a_profile_that_is_not_in_force_is_judged_in_full() -> None:
    document = (
        READ
        + """
    [profiles.test]
    foo = 1
    [profiles.test.defaults.retry]
    max_attempt = 2
    [profiles.production.defaults.rety]
    [profiles.production.pipelines.read]
    policies = ["timeout", "retri", "attempt_timeout"]
    [profiles.production.pipelines.read.attempt_timeout]
    kind = "timeout"
    timeout_seconds = 31
    [profiles.staging.pipelines.read.retry]
    base_seconds = 30
    """
    )

    found = mistakes(document)

    assert found == (
        "profiles.test.foo is nothing that can stand here; there are defaults, shared, pipelines",
        "profiles.test.defaults.retry.max_attempt is no option of retry; did you mean 'max_attempts'?",
        "profiles.production.defaults.rety is for no policy; did you mean 'retry'?",
        "in profile production: pipelines.read.retri: there is no policy 'retri'; did you mean 'retry'? " + OWN_NAME,
        f"in profile production: pipelines.read: {TOO_LONG}",
        "in profile staging: pipelines.read.retry: base_seconds must not exceed cap_seconds",
    )


def test_a_mistake_that_every_profile_has_is_told_once_and_without_one() -> None:
    document = READ + "[pipelines.read.retry]\nbase_seconds = 30\n[profiles.test]\n[profiles.production]\n"

    assert mistakes(document) == ("pipelines.read.retry: base_seconds must not exceed cap_seconds",)


def test_the_deadline_from_outside_is_that_of_the_profile_in_force() -> None:
    document = READ + "[profiles.production.defaults.retry]\nbase_seconds = 10\n"

    assert build(document, deadline_seconds=5)
    assert mistakes(document, deadline_seconds=5, profile="production") == (
        "pipelines.read: retry may take 20 s of waiting between attempts, more than the deadline (5 s)",
    )


def test_a_misspelt_profile_is_refused_with_the_one_that_is_meant() -> None:
    document = DEVELOPMENT_AND_PRODUCTION.replace("profiles.production", "profiles.prodution")

    assert mistakes(document, profile="production") == ("profiles.production is missing; did you mean 'prodution'?",)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, pytest.param(10**400, id="no-float"), True, "28"])
def test_a_deadline_is_a_finite_number_above_0(seconds: Any) -> None:
    assert mistakes(READ, deadline_seconds=seconds) == ("deadline_seconds must be a finite number above 0",)


def test_a_profile_is_a_text() -> None:
    assert mistakes(READ, profile=5, deadline_seconds=0) == (
        "profile must be a text",
        "deadline_seconds must be a finite number above 0",
    )


def test_a_classification_is_for_a_pipeline_or_a_shared_policy() -> None:
    document = READ + '[shared.places]\nkind = "bulkhead"\n'
    known = dict.fromkeys(("read", "places"), Classification())

    assert build(document, classifications=known)
    assert mistakes(document, classifications={**known, "raed": Classification()}) == (
        "classifications: 'raed' is no pipeline and no shared policy; did you mean 'read'?",
    )
    assert mistakes(document, names=("read", "write"), classifications={"write": Classification()}) == (
        "pipelines.write is missing",
    )


def test_a_policy_that_cannot_be_built_is_a_mistake_of_the_document() -> None:
    found = mistakes('[pipelines.read]\npolicies = ["unbuildable", "demanding"]\n')

    assert found == (
        "pipelines.read.unbuildable: cannot be built: ConnectionError: no such network",
        "pipelines.read.demanding: needs a function",
        "pipelines.read.demanding: and a key",
    )


def test_defaults_of_no_policy_are_refused() -> None:
    found = mistakes(READ + "[defaults.circuit_braker]\nminimum_number_of_calls = 1\n")

    assert found == ("defaults.circuit_braker is for no policy; did you mean 'circuit_breaker'?",)


def test_times_that_cannot_be_are_refused_by_name() -> None:
    document = (
        '[pipelines.read]\npolicies = ["bulkhead", "timeout"]\n[pipelines.read.timeout]\ntimeout_seconds = 29\n'
    )

    found = mistakes(document, deadline_seconds=28)

    assert found == (
        "pipelines.read: timeout (29 s) must not exceed the deadline (28 s), which ends the call before",
    )


def test_what_is_probably_not_meant_is_said_and_works() -> None:
    document = """
    [defaults.retry]
    jitter = "none"
    [pipelines.read]
    policies = ["bulkhead", "retry"]
    """

    pipelines = build(document)

    assert pipelines["read"].call(int, "7") == 7
    assert pipelines.cautions == (
        "pipelines.read: bulkhead stands outside retry: a place is held while the retry waits; put the retry outside",
        "pipelines.read.retry: without jitter all clients come back at once",
    )


@dataclass(frozen=True)
class _Odd:
    """A document with one mistake of names."""

    text: str
    says: str


@pytest.mark.parametrize(
    "odd",
    [
        _Odd("[pipelines.read]\npolicies = ['retry']\n", "pipelines.write is missing"),
        _Odd(
            "[pipelines.read]\npolicies = []\n[pipelines.wriet]\npolicies = []\n",
            "pipelines.wriet is no pipeline of this program; did you mean 'write'?",
        ),
    ],
)
def test_the_pipelines_of_the_program_and_of_the_document_are_the_same(odd: _Odd) -> None:
    assert odd.says in mistakes(odd.text, names=("read", "write"))
