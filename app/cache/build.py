"""The tiers of a cache as the settings want them, and what keeps them true."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from app.cache.announcements import Announcer, StampSource
from app.cache.tiers import ENTRY_BYTES_MAX, BriefMemory, Codec, TierRefusedError
from app.settings_delivery import CacheSettings, RedisSettings
from app.stability import SYSTEM_CLOCK, Clock, GuardedTier, Pipeline, Tier

if TYPE_CHECKING:
    from app.cache.listener import ChangeListener
    from app.cache.redis_tier import RedisTier

UNHEARD_SECONDS: Final = 30.0
"""How long memory is believed at most while nobody tells of other instances' changes."""

PING_TIMEOUT_SECONDS: Final = 0.5
"""How long health waits for Redis."""


class TierSet:
    """Memory, and Redis where there is one. Thread-safe; :meth:`close` once.

    Args:
        redis: Where Redis is, if anywhere.
        cache: How long what is believed.
        stamps: Of this host.
        codec: Of the cache's values.
        pipeline: What calls of Redis run through.
        size_of: Says how many bytes a value takes in memory.
        max_connections: Of Redis.
        clock: The monotonic clock.

    Attributes:
        tiers: Fastest first, for one cache; none when nothing is to be remembered.
        announcer: Tells the others of changes.
        fresh_seconds: How long an entry of the slowest tier is fresh.
        redis: What calls Redis, past its pipeline; None without it.
    """

    def __init__(
        self,
        redis: RedisSettings,
        cache: CacheSettings,
        stamps: StampSource,
        codec: Codec,
        pipeline: Pipeline,
        *,
        size_of: Callable[[Any], int],
        max_connections: int = 32,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._memory_seconds = cache.memory_seconds
        self._listener: ChangeListener | None = None
        self.redis: RedisTier | None = None
        self.tiers: list[Tier] = []
        self.fresh_seconds = min(cache.memory_seconds, UNHEARD_SECONDS)
        if cache.memory_seconds > 0:
            memory = BriefMemory(
                cache.max_entries,
                self._believed_seconds,
                max_entry_bytes=ENTRY_BYTES_MAX,
                size_of=size_of,
                clock=clock,
            )
            self.tiers.append(memory)
        url = None if redis.url is None else redis.url.get_secret_value()
        if url is None:
            self.announcer = Announcer(stamps, None, pipeline)
            return
        from app.cache.listener import TIMEOUT_SECONDS, ChangeListener  # noqa: PLC0415  # loads redis where it is used
        from app.cache.redis_tier import RedisTier, connect  # noqa: PLC0415  # loads redis where it is used

        client = connect(url, timeout_seconds=redis.timeout_seconds, max_connections=max_connections)
        self.redis = RedisTier(client, codec, stale_seconds=cache.stale_seconds, clock=clock)
        self.tiers.append(GuardedTier(self.redis, pipeline))
        self.fresh_seconds = cache.redis_seconds
        self.announcer = Announcer(stamps, self.redis, pipeline)
        self._listener = ChangeListener(
            lambda: connect(url, timeout_seconds=TIMEOUT_SECONDS, max_connections=2), self.announcer, self.redis.token
        )
        self._listener.start()

    @property
    def hears(self) -> bool:
        """Whether it is told of other instances' changes now."""
        return self._listener is not None and self._listener.is_connected

    def close(self) -> None:
        """Stop listening, and close the connections."""
        if self._listener is not None:
            self._listener.close()
        if self.redis is not None:
            self.redis.close()

    def _believed_seconds(self) -> float:
        return self._memory_seconds if self.hears else min(self._memory_seconds, UNHEARD_SECONDS)


def why_down(error: Exception) -> str:
    """Return what health says of Redis when its sign of life has failed."""
    return str(error) if isinstance(error, TierRefusedError) else "Redis does not answer"


def open_ping(redis: RedisSettings) -> Callable[[], None] | None:
    """Return what asks Redis for a sign of life by a connection of its own, past its pipeline; None without Redis."""
    if redis.url is None:
        return None
    from app.cache.redis_tier import connect, ping  # noqa: PLC0415  # loads redis where it is used

    client = connect(redis.url.get_secret_value(), timeout_seconds=PING_TIMEOUT_SECONDS, max_connections=1)
    return lambda: ping(client)
