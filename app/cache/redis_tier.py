"""Redis as a tier that all instances share.

Under each name stands one string: an entry as JSON, or the stone of one that has changed::

    !c<token>    is changing: nothing is written over it until it ends by itself
    !s<token>    has changed: whoever has seen this stone may write over it

An entry is written only over exactly what its writer saw before it asked the database (a script of three lines
compares and writes), so that one who is late finds another token and writes nothing. Stones live for a minute, and no
fetch that takes half as long is written at all.

What comes back is judged: bytes beyond 64 KiB are not even fetched; another type than a string, no end to its life,
or content that is not this name's is counted as an error of the tier and covered with a stone.

No call waits longer than its time-out, no call is made twice. There is no pickle.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.cache.tiers import (
    ENTRY_BYTES_MAX,
    Codec,
    PoisonedEntryError,
    TierDownError,
    TierRefusedError,
    shared_name,
)
from app.stability import SYSTEM_CLOCK, Clock
from app.stability.cache_tiers import Entry

PREFIX: Final = "photo-api:1:"
"""Before all names in Redis; the number is that of the entries' form."""

CHANNEL: Final = f"{PREFIX}changed"
"""Where changes are told: a JSON object with ``from`` (a process) and ``names``."""

_STONE_SECONDS = 60
_FETCH_SECONDS = 30.0
_PUT = """
local now = redis.call('GET', KEYS[1])
if now == false then now = '' end
if now ~= ARGV[1] or string.sub(now, 1, 2) == '!c' then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
ResultT = TypeVar("ResultT")


def connect(url: str, *, timeout_seconds: float, max_connections: int) -> redis.Redis:
    """Return a client that tries each call once and gives it so much time; it connects with its first call.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with the password in it.
        timeout_seconds: For connecting, for sending and for each piece of an answer.
        max_connections: Who needs one more fails at once.
    """
    pool = redis.ConnectionPool.from_url(
        url,
        max_connections=max_connections,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        health_check_interval=0,
        protocol=2,
    )
    return redis.Redis.from_pool(pool)


def ping(client: redis.Redis) -> None:
    """Make one round trip.

    Raises:
        TierDownError: Redis does not answer, or refuses.
    """
    _asked(client.ping)


def refusal_of(error: Exception) -> str | None:
    """Return what Redis refuses and where to mend it, in words of ours; None when it does not answer.

    Args:
        error: What its library raised; what the server wrote is not repeated.
    """
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthenticationWrongNumberOfArgsError):
        what = "the user or the password"
    elif isinstance(error, redis.exceptions.NoPermissionError):
        what = "the rights of the user"
    elif isinstance(error, redis.ResponseError):
        what = "the number of the database" if "DB index" in str(error) else "which server it is"
    else:
        return None
    return f"Redis answers and refuses ({type(error).__name__}); check {what} in PHOTO_API_REDIS__URL"


class RedisTier:
    """A tier of caches in Redis, of one process. Thread-safe.

    Args:
        client: See :func:`connect`.
        codec: Turns values into bytes and back.
        stale_seconds: How long the cache keeps an entry beyond its freshness.
        clock: The monotonic clock.

    Attributes:
        token: Names this process in what it tells.
    """

    name = "redis"

    def __init__(
        self, client: redis.Redis, codec: Codec, *, stale_seconds: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.token = secrets.token_hex(8)
        self._client = client
        self._codec = codec
        self._stale_seconds = stale_seconds
        self._monotonic = clock.monotonic
        self._put_script = client.register_script(_PUT)
        self._thread = threading.local()

    def get(self, key: str) -> Entry | None:
        """Return what is kept for a key, and remember for :meth:`put` what stands there.

        Raises:
            TierDownError: Redis does not answer.
            PoisonedEntryError: What stands there is not ours.
        """
        name = shared_name(key)
        self._thread.seen = None
        if name is None:
            return None
        began = self._monotonic()
        place = PREFIX + name
        try:
            raw, left = _asked(lambda: self._look(place))
            if raw[:1] in {b"", b"!"}:
                self._thread.seen = (key, raw, began)
                return None
            value = self._judged(name, raw, left)
        except PoisonedEntryError:
            self._cover(key, place, began)
            raise
        self._thread.seen = (key, raw, began)
        return Entry(key, value, left / 1000 - self._stale_seconds)

    def _look(self, place: str) -> tuple[bytes, int]:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.getrange(place, 0, ENTRY_BYTES_MAX)
        pipeline.pttl(place)
        raw, left = pipeline.execute()
        if not isinstance(raw, bytes) or not isinstance(left, int):
            raise PoisonedEntryError("not the answer to what was asked")
        return raw, left

    def _judged(self, name: str, raw: bytes, left: int) -> object:
        if len(raw) > ENTRY_BYTES_MAX or left < 0:
            raise PoisonedEntryError("too large, or without an end")
        return self._codec.decode(name, raw)

    def _cover(self, key: str, place: str, began: float) -> None:
        stone = _stone("s")
        _asked(lambda: self._client.set(place, stone, ex=_STONE_SECONDS))
        self._thread.seen = (key, stone, began)

    def put(self, key: str, entry: Entry, keep_seconds: float) -> None:
        """Keep an entry if nothing has changed since this thread got its key; else nothing happens.

        Raises:
            TierDownError: Redis does not answer.
        """
        name = shared_name(key)
        seen, self._thread.seen = getattr(self._thread, "seen", None), None
        if name is None or seen is None or seen[0] != key or self._monotonic() - seen[2] > _FETCH_SECONDS:
            return
        raw = self._codec.encode(entry.value)
        if len(raw) <= ENTRY_BYTES_MAX:
            arguments = [seen[1], raw, max(1, int(keep_seconds * 1000))]
            _asked(lambda: self._put_script(keys=[PREFIX + name], args=arguments))

    def remove(self, key: str) -> None:
        """Forget an entry that this thread has found here; a stone stays.

        Raises:
            TierDownError: Redis does not answer.
        """
        name = shared_name(key)
        seen, self._thread.seen = getattr(self._thread, "seen", None), None
        if name is not None and seen is not None and seen[0] == key and seen[1][:1] not in {b"", b"!"}:
            arguments = [seen[1], _stone("s"), _STONE_SECONDS * 1000]
            _asked(lambda: self._put_script(keys=[PREFIX + name], args=arguments))

    def begin(self, names: Sequence[str]) -> None:
        """Let nobody write under some names until they are settled; for a minute, when they never are.

        Raises:
            TierDownError: Redis does not answer.
        """
        _asked(lambda: self._cover_all(names, "c"))

    def settle(self, names: Sequence[str]) -> None:
        """Forget what was under some names, and tell all instances.

        Raises:
            TierDownError: Redis does not answer.
        """
        message = json.dumps({"from": self.token, "names": list(names)})
        _asked(lambda: self._cover_all(names, "s", message))

    def _cover_all(self, names: Sequence[str], kind: str, message: str | None = None) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.set(PREFIX + name, _stone(kind), ex=_STONE_SECONDS)
        if message is not None:
            pipeline.publish(CHANNEL, message)
        pipeline.execute()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


def _stone(kind: str) -> bytes:
    return f"!{kind}{secrets.token_hex(8)}".encode()


def _asked(call: Callable[[], ResultT]) -> ResultT:
    try:
        return call()
    except redis.exceptions.ResponseError as error:
        # Of a type that is not ours, or of a server that takes no writes: this call came to nothing, Redis is alive.
        if "WRONGTYPE" in str(error):
            raise PoisonedEntryError("of another type") from error
        raise TierRefusedError(refusal_of(error)) from error
    except (redis.exceptions.RedisError, OSError) as error:
        refusal = refusal_of(error)
        if refusal is not None:
            raise TierRefusedError(refusal) from None
        raise TierDownError(type(error).__name__) from None
