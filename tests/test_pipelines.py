"""The product's own pipelines: every profile can run, and mistakes are told with those of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.pipelines import NAMES, load_configuration, load_pipelines
from app.settings import PROFILES, ChaosSettings, Settings, StabilitySettings
from app.settings_edge import ServerSettings
from app.stability import Classification, InjectedFaultError
from app.stability.breaker import CircuitBreaker
from app.stability.bulkhead import Bulkhead
from app.stability.retry import Retry

ENVIRON = {
    "development": {},
    "test": {},
    "production": {
        "PHOTO_API_SERVER__ALLOWED_HOSTS": "photos.example.org",
        "PHOTO_API_AUTH__KEY_RING_FILE": "/etc/photo-api/keys.json",
    },
}
OF_FEW_CALLS = {"swift_auth", "cdn", "redis"}
SMALLEST = "".join(f"[pipelines.{name}]\npolicies = []\n" for name in NAMES)


@dataclass(frozen=True)
class Folders:
    """A working folder and a config folder with empty profiles and the smallest pipelines."""

    work: Path
    config: Path

    def write(self, text: str) -> None:
        (self.config / "stability.toml").write_text(text, encoding="utf-8")

    def mistakes(self, **environ: str) -> tuple[tuple[str, ...], str | None]:
        with pytest.raises(ConfigurationError) as caught:
            load_configuration(environ, working_folder=self.work, config_folder=self.config)
        return caught.value.mistakes, caught.value.profile


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "work", tmp_path / "config")
    made.work.mkdir()
    made.config.mkdir()
    for profile in PROFILES:
        lame_duck = "[server]\ndrain_lame_duck_seconds = 20\n" if profile == "production" else ""
        (made.config / f"{profile}.toml").write_text(lame_duck, encoding="utf-8")
    made.write(SMALLEST)
    return made


@pytest.mark.parametrize("profile", PROFILES)
def test_the_shipped_pipelines_are_right_in_every_profile_and_no_order_is_foolish(
    tmp_path: Path, profile: str
) -> None:
    environ = {"PHOTO_API_PROFILE": profile, **ENVIRON[profile]}

    configuration = load_configuration(environ, working_folder=tmp_path)

    assert tuple(configuration.pipelines) == NAMES
    assert configuration.cautions == ()
    assert configuration.loaded.settings.profile == profile


@pytest.mark.parametrize(
    ("profile", "calls", "rate"), [("development", 20, 0.5), ("test", 20, 0.5), ("production", 15, 0.2)]
)
def test_breakers_open_after_as_many_failures_as_the_profile_says(profile: str, calls: int, rate: float) -> None:
    breakers = load_pipelines(Settings(profile=profile)).find_all(CircuitBreaker)

    assert sorted(breakers) == sorted(set(NAMES) - {"database_read", "database_write"})  # these share "database"
    for breaker in (breakers[name] for name in breakers.keys() - OF_FEW_CALLS):
        assert (breaker.options.minimum_number_of_calls, breaker.options.failure_rate_threshold) == (calls, rate)


@pytest.mark.parametrize("profile", PROFILES)
def test_breakers_of_few_calls_open_after_few_failures_in_every_profile(profile: str) -> None:
    breakers = load_pipelines(Settings(profile=profile)).find_all(CircuitBreaker)

    for breaker in (breakers[name] for name in OF_FEW_CALLS):
        assert breaker.options.minimum_number_of_calls <= 5
        assert breaker.options.failure_rate_threshold == 0.5
        assert breaker.options.wait_duration_in_open_state_seconds == 5


def test_storage_is_tried_three_times_with_waits_from_one_to_ten_seconds_in_production() -> None:
    retries = load_pipelines(Settings(profile="production")).find_all(Retry)

    for name in ("storage_read", "storage_write", "storage_delete"):
        options = retries[name].options
        assert (options.max_attempts, options.base_seconds, options.cap_seconds) == (3, 1, 10)


def test_no_bulkhead_refuses_a_call_of_a_server_with_the_default_number_of_threads() -> None:
    bulkheads = load_pipelines(Settings()).find_all(Bulkhead)
    threads_of_a_worker = ServerSettings().threads + 2  # maintenance and health

    assert sorted(bulkheads) == sorted([*NAMES[:4], "cdn_token"])
    assert min(bulkhead.options.max_concurrent_calls for bulkhead in bulkheads.values()) >= threads_of_a_worker


def test_what_is_a_failure_is_told_to_the_pipeline_by_name() -> None:
    calls = []

    def judge(error: Exception) -> bool:
        calls.append(error)
        return True

    pipelines = load_pipelines(
        Settings(profile="test"), classifications={"events": Classification(failures=(), ignored_when=judge)}
    )

    with pytest.raises(ZeroDivisionError):
        pipelines["events"].call(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        pipelines["database"].call(divmod, 1, 0)
    assert len(calls) == 1


def test_a_deadline_that_leaves_no_time_for_the_retries_is_refused() -> None:
    settings = Settings(profile="production", server=ServerSettings(request_deadline_seconds=2))

    with pytest.raises(ConfigurationError) as caught:
        load_pipelines(settings)

    assert caught.value.mistakes[0] == (
        "config/stability.toml: pipelines.storage_read: retry may take 3 s of waiting between attempts, more than "
        "the deadline (2 s)"
    )


def test_a_shorter_deadline_alone_needs_no_other_file() -> None:
    assert load_pipelines(Settings(server=ServerSettings(request_deadline_seconds=5)))


@pytest.mark.parametrize("policies", ['["retry"]', '["circuit_breaker", "bulkhead"]'])
def test_nothing_but_a_breaker_can_stand_around_every_use_of_the_database(folders: Folders, policies: str) -> None:
    folders.write(
        SMALLEST.replace("[pipelines.database]\npolicies = []", f"[pipelines.database]\npolicies = {policies}")
    )

    mistakes, _ = folders.mistakes()

    assert len(mistakes) == 1
    assert "pipelines.database.policies may hold" in mistakes[0]


def test_a_mistake_of_another_profile_is_refused_in_this_one(folders: Folders) -> None:
    retry = SMALLEST.replace("policies = []", 'policies = ["retry"]', 1)
    folders.write(retry + "[profiles.test]\nfoo = 1\n[profiles.production.defaults.retry]\nmax_attempts = 0\n")

    mistakes, profile = folders.mistakes()

    assert profile == "development"
    assert [mistake.removeprefix("config/stability.toml: ") for mistake in mistakes] == [
        "profiles.test.foo is nothing that can stand here; there are defaults, shared, pipelines",
        "profiles.production.defaults.retry.max_attempts must be ≥ 1, ≤ 100",
    ]


def test_the_database_has_its_breaker_alone_in_every_profile(folders: Folders) -> None:
    folders.write(SMALLEST + '[profiles.production.pipelines.database]\npolicies = ["retry"]\n')

    mistakes, profile = folders.mistakes()

    assert profile == "development"
    assert len(mistakes) == 1
    assert mistakes[0].startswith(
        "config/stability.toml: in profile production: pipelines.database.policies may hold"
    )


def test_the_deadline_of_one_profile_is_not_asked_of_another(folders: Folders) -> None:
    policies = '[pipelines.events]\npolicies = ["retry"]\n'
    slow = "[profiles.production.defaults.retry]\nbase_seconds = 10\n"
    folders.write(SMALLEST.replace("[pipelines.events]\npolicies = []\n", policies) + slow)
    settings = Settings(server=ServerSettings(request_deadline_seconds=5))

    assert load_pipelines(settings, config_folder=folders.config)


def test_mistakes_of_settings_and_pipelines_are_told_together(folders: Folders) -> None:
    folders.write(SMALLEST.replace("policies = []", 'policies = ["retri"]', 1))

    mistakes, profile = folders.mistakes(PHOTO_API_SERVER__THREADS="many")

    assert profile == "development"
    assert [mistake.split(": ")[0] for mistake in mistakes] == [
        "PHOTO_API_SERVER__THREADS (environment)",
        "config/stability.toml",
    ]
    assert mistakes[1].startswith("config/stability.toml: pipelines.storage_read.retri: there is no policy")


def test_mistakes_of_the_settings_alone_are_told(folders: Folders) -> None:
    mistakes, profile = folders.mistakes(PHOTO_API_PROFILE="prduction")

    assert profile is None
    assert len(mistakes) == 1


def test_a_profile_that_this_product_does_not_have_is_refused(folders: Folders) -> None:
    folders.write(SMALLEST + "[profiles.staging]\n")

    assert "config/stability.toml: profiles.staging is no profile" in folders.mistakes()[0][0]


def test_a_missing_file_is_a_mistake(folders: Folders) -> None:
    (folders.config / "stability.toml").unlink()

    assert folders.mistakes()[0] == ("config/stability.toml: the file is missing",)


def test_another_file_is_named_by_its_setting_and_starts_in_the_working_folder(folders: Folders) -> None:
    folders.write("nothing = 1")
    variable = "PHOTO_API_STABILITY__PIPELINES_FILE"

    missing = folders.mistakes(**{variable: "mine.toml"})[0]
    (folders.work / "mine.toml").write_text(SMALLEST, encoding="utf-8")
    found = load_configuration({variable: "mine.toml"}, working_folder=folders.work, config_folder=folders.config)

    assert missing == (f"{variable}: the file is missing",)
    assert found.loaded.settings.stability == StabilitySettings(pipelines_file=folders.work / "mine.toml")
    assert tuple(found.pipelines) == NAMES


@pytest.mark.parametrize("is_enabled", [True, False])
def test_chaos_in_a_file_acts_only_where_the_settings_allow_it(folders: Folders, is_enabled: bool) -> None:
    table = "[pipelines.events]\npolicies = "
    chaos = f'{table}["chaos"]\n[pipelines.events.chaos]\nfault_rate = 1.0\n'
    folders.write(SMALLEST.replace(f"{table}[]\n", chaos))
    settings = Settings(chaos=ChaosSettings(enabled=is_enabled))

    pipeline = load_pipelines(settings, config_folder=folders.config)["events"]

    if is_enabled:
        with pytest.raises(InjectedFaultError):
            pipeline.call(int)
    else:
        assert pipeline.call(int) == 0


@pytest.mark.parametrize(
    ("profile", "threads", "warned"), [("production", 24, True), ("production", 25, False), ("test", 1, False)]
)
def test_production_warns_when_there_are_fewer_threads_than_requests_at_work(
    folders: Folders, profile: str, threads: int, *, warned: bool
) -> None:
    environ = {
        "PHOTO_API_PROFILE": profile,
        "PHOTO_API_SERVER__WORKERS": "2",
        "PHOTO_API_SERVER__THREADS": str(threads),
        "PHOTO_API_SERVER__MAX_CONCURRENT": "50",
        **ENVIRON[profile],
    }

    cautions = load_configuration(environ, working_folder=folders.work, config_folder=folders.config).cautions

    assert [caution.split(" ")[0] for caution in cautions] == (["PHOTO_API_SERVER__THREADS"] if warned else [])
