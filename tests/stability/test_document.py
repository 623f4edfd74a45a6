"""The shape of a pipelines document: what is no table, no list, no name is refused, and told with its place."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.stability import OptionError
from app.stability.document import Plan, PolicyPlan, Setting, plan_document, read_document

PIPELINE = '[pipelines.read]\npolicies = ["retry"]\n'


def plan(text: str, profile: str | None = None, profiles: Collection[str] | None = None) -> Plan:
    return plan_document(tomllib.loads(text), profile=profile, profiles=profiles, names=None)


def test_a_plan_knows_where_each_value_was_written() -> None:
    text = PIPELINE + "[defaults.retry]\na = 1\nb = 1\n[pipelines.read.retry]\nb = 2\n"
    text += "[profiles.production.defaults.retry]\na = 3\nb = 3\n"

    found = plan(text, "production")

    assert found.mistakes == found.cautions == []
    assert found.pipelines["read"] == (
        PolicyPlan(
            name="retry",
            kind="retry",
            place="pipelines.read.retry",
            full_name="read",
            is_shared=False,
            settings={
                "a": Setting(3, "profiles.production.defaults.retry.a"),
                "b": Setting(2, "pipelines.read.retry.b"),
            },
        ),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pipeline = {}", "pipeline is nothing that can stand here; did you mean 'pipelines'?"),
        ("profile = {}", "profile is nothing that can stand here; did you mean 'profiles'?"),
        ("pipelines = 1", "pipelines must be a table"),
        ("defaults = 1", "defaults must be a table"),
        ("shared = []", "shared must be a table"),
        ("profiles = 1", "profiles must be a table"),
        ("[pipelines]\nread = 1", "pipelines.read must be a table"),
        ("[defaults]\nretry = 1", "defaults.retry must be a table"),
        ("[shared]\nplaces = 1", "shared.places must be a table"),
        ("[profiles]\nproduction = 1", "profiles.production must be a table"),
        ("[profiles]\ntest = 1", "profiles.test must be a table"),
        ("[profiles.prodution]", "profiles.prodution is no profile; did you mean 'production'?"),
        (
            "[profiles.production]\npipeline = 1",
            "profiles.production.pipeline is nothing that can stand here; did you mean 'pipelines'?",
        ),
        (
            "[profiles.production]\nprofile = 1",
            "profiles.production.profile is nothing that can stand here; there are defaults, shared, pipelines",
        ),
        ("[profiles.production]\ndefaults = 1", "profiles.production.defaults must be a table"),
        ("[profiles.production]\npipelines = 1", "profiles.production.pipelines must be a table"),
        (
            PIPELINE + "[profiles.production.pipelines.raed]\npolicies = []",
            "profiles.production.pipelines.raed changes a pipeline that does not exist; did you mean 'read'?",
        ),
        (
            PIPELINE + "[shared.places]\n[profiles.production.shared.place]",
            "profiles.production.shared.place is not shared without a profile; did you mean 'places'?",
        ),
        ("[pipelines.read]", 'pipelines.read needs policies = ["…", …], outermost first; [] lets all calls pass'),
        ("[pipelines.read]\npolicies = 'retry'", "pipelines.read.policies must be a list of names"),
        ("[pipelines.read]\npolicies = [1]", "pipelines.read.policies must be a list of names"),
        (
            "[pipelines.read]\npolicies = ['retry', 'retry']",
            "pipelines.read.policies has 'retry' twice; name the second one and give it a kind",
        ),
        (
            "[pipelines.read]\npolicies = []\npolicy = 1",
            "pipelines.read.policy must be a table of options; did you mean 'policies'?",
        ),
        (
            PIPELINE + "[pipelines.read.rety]\na = 1",
            "pipelines.read.rety is not among the policies of read; did you mean 'retry'?",
        ),
        ("[pipelines.read]\npolicies = []\n[pipelines.read.retry]", "pipelines.read.retry is not among the policies"),
        (PIPELINE + "[pipelines.read.retry]\nkind = 1", "pipelines.read.retry.kind must be the name of a policy"),
        (
            PIPELINE + "[pipelines.read.retry]\na = 1\n[shared.retry]",
            "pipelines.read.retry is shared; its options stand in [shared.retry]",
        ),
        (
            PIPELINE + "[shared.read]",
            "shared.read has the name of a pipeline; both would go by it in logs and metrics",
        ),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(text: str, says: str) -> None:
    found = plan(text, "production", ("production", "test"))

    assert len(found.mistakes) == 1
    assert found.mistakes[0].startswith(says)


def test_a_profile_that_is_no_table_hides_no_mistake_of_the_next() -> None:
    found = plan("[profiles]\ntest = 1\n[profiles.production]\nshared = 1", "production")

    assert found.mistakes == ["profiles.test must be a table", "profiles.production.shared must be a table"]


def test_what_another_profile_uses_is_no_mistake_in_this_one() -> None:
    text = """
    [defaults.chaos]
    rate = 0.1
    [shared.places]
    [pipelines.read]
    policies = ["retry"]
    [pipelines.read.cache]
    [profiles.development.pipelines.read]
    policies = ["cache", "places", "chaos"]
    """

    both = ("production", "development")

    found = {profile: plan(text, profile, both) for profile in both}

    assert found["production"].mistakes == found["production"].cautions == []
    assert [policy.name for policy in found["production"].pipelines["read"]] == ["retry"]
    assert found["development"].mistakes == found["development"].cautions == []
    assert [policy.name for policy in found["development"].pipelines["read"]] == ["cache", "places", "chaos"]


@pytest.mark.parametrize(
    ("profiles", "says"),
    [
        (None, ["profiles.production is missing; did you mean 'prodution'?"]),
        (("prodution", "test"), ["profiles.production is no profile; did you mean 'prodution'?"]),
        (("prodution", "production"), []),
    ],
)
def test_the_chosen_profile_is_one_of_the_document_or_of_the_program(
    profiles: Collection[str] | None, says: list[str]
) -> None:
    text = PIPELINE + "[profiles.prodution]\n"

    assert plan(text, "production", profiles).mistakes == says
    assert plan(text, "prodution", profiles).mistakes == []


def test_a_document_without_profiles_holds_in_every_one() -> None:
    assert plan(PIPELINE, "production").mistakes == []
    assert plan(PIPELINE, "staging", ()).mistakes == ["profiles.staging is no profile"]


def test_a_plan_names_profiles_and_shared_policies() -> None:
    found = plan(PIPELINE + "[shared.places]\n[profiles.test]\n[profiles.production]\n")

    assert (found.profiles, found.shared) == (("test", "production"), ("places",))


def test_a_profile_that_is_not_chosen_is_not_judged_further() -> None:
    text = (
        PIPELINE + "[profiles.test]\npipelines = 1\n[profiles.production.pipelines]\nread = 1\nwrite = {policies=1}\n"
    )

    assert plan(text).mistakes == []


def test_defaults_of_a_kind_hold_for_policies_with_names_of_their_own() -> None:
    found = plan(PIPELINE + '[pipelines.read.retry]\nkind = "patience"\n[defaults.patience]\na = 1\n')

    assert found.cautions == found.mistakes == []
    assert found.pipelines["read"][0].settings == {"a": Setting(1, "defaults.patience.a")}


def test_tables_that_nothing_uses_are_told() -> None:
    found = plan(PIPELINE + "[defaults.cache]\n[shared.places]\n")

    assert found.cautions == [
        "defaults.cache: no pipeline has such a policy",
        "shared.places: no pipeline has such a policy",
    ]
    assert found.default_kinds == {"cache": "defaults.cache"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = ", "no valid TOML: Invalid value"),
        (b"\xff", "cannot be read as a UTF-8 text file"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "pipelines.toml").write_bytes(content)

    with pytest.raises(OptionError, match=says) as caught:
        read_document(tmp_path / "pipelines.toml")

    assert str(caught.value).startswith(f"{tmp_path / 'pipelines.toml'}: {says}")


def test_a_file_is_read_or_missing(tmp_path: Path) -> None:
    (tmp_path / "pipelines.toml").write_text(PIPELINE, encoding="utf-8")

    with pytest.raises(OptionError, match="is missing") as caught:
        read_document(tmp_path / "gone.toml")

    assert caught.value.mistakes == (f"{tmp_path / 'gone.toml'}: the file is missing",)
    assert read_document(tmp_path / "pipelines.toml") == {"pipelines": {"read": {"policies": ["retry"]}}}


NAMES = st.sampled_from(["defaults", "shared", "pipelines", "profiles", "read", "retry", "policies", "kind", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(NAMES, max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # deep documents take a while to draw
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from([None, "read", "x"]))
def test_no_document_is_too_odd_to_be_judged(document: dict[str, object], profile: str | None) -> None:
    found = plan_document(document, profile=profile, profiles=("x",), names=("read",))

    assert all(isinstance(mistake, str) for mistake in found.mistakes)
    assert len(set(found.mistakes)) == len(found.mistakes)
