"""The one connection to the Redis that gateways share, behind a circuit breaker. Limits and cache use it,
each with a policy of its own for `RedisUnavailable`.

closed ──a failure or a timeout──▶ open ──a probe succeeds──▶ closed

While it is open no command is tried: callers are refused at once, and a task in the background probes, at
intervals that grow. So a Redis that hangs costs the requests of that moment one timeout, and later ones
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Connection, ConnectionPool, SSLConnection
from redis.asyncio import Redis as Client
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, RedisError

from adaptive_lora.errors import RedisUnavailable, SettingsError
from adaptive_lora.secret_files import SecretFile
from adaptive_lora.settings import RedisSettings
from adaptive_lora.telemetry.redis import RedisMetrics

_log = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX: Final = "adaptive-lora:"
"""Of every key, so that a user of an ACL may be confined to it."""

MAX_CONNECTIONS: Final = 64
FIRST_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 2.0
STEADY_S: Final = 10.0
"""Closed for this long, the breaker forgets how long its last pause was."""


class Redis:
    """Build it inside the event loop that uses it; `close` it there."""

    def __init__(self, settings: RedisSettings, metrics: RedisMetrics | None = None) -> None:
        """Connects to nothing yet. Raises SettingsError for settings that no connection can be made from."""
        self.timeout_s = settings.timeout
        self._metrics = metrics or RedisMetrics()
        self._metrics.closed()
        self._sentinel, self._pool = _connect(settings)
        self._client = Client(connection_pool=self._pool)
        self._is_open = False
        self._pause_s = 0.0
        self._closed_at = -STEADY_S
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether commands are tried."""
        return not self._is_open

    async def call(self, command: Callable[[Client], Awaitable[T]]) -> T:
        """What `command` returns, of a redis-py client that answers in bytes. At most `timeout_s` pass.

            value = await redis.call(lambda client: client.get(PREFIX + "cache:..."))

        Raises RedisUnavailable: at once while the breaker is open; else when the command fails, or takes too
        long, and may then have been carried out or not. Only for commands that read or write a little.
        """
        if self._is_open:
            raise RedisUnavailable("Redis does not answer, and is not asked for a moment")
        try:
            async with asyncio.timeout(self.timeout_s):
                return await command(self._client)
        except TimeoutError:
            self._failed("timeout", f"no answer within {self.timeout_s * 1000:g} ms")
        except (RedisError, OSError) as error:
            self._failed("error", _words(error))
        raise RedisUnavailable("Redis does not answer")

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        self._is_open = True
        await self._client.aclose()
        await self._pool.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    def _failed(self, kind: str, reason: str) -> None:
        self._metrics.failed(kind)
        if self._is_open:  # a command that was on its way when another one failed
            return
        self._is_open = True
        self._metrics.opened()
        if time.monotonic() - self._closed_at >= STEADY_S:
            self._pause_s = 0.0
        _log.warning("Redis is away (%s): not asked until it answers again", reason)
        self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Close the breaker when Redis takes a write: a replica or a full disk is no better than silence."""
        while True:
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), MAX_PAUSE_S)
            await asyncio.sleep(self._pause_s * random.uniform(0.75, 1.0))
            try:
                await self._pool.disconnect(inuse_connections=False)  # what is idle may lead to a dead server
                async with asyncio.timeout(self._probe_timeout_s):
                    await self._client.set(PREFIX + "probe", 1, px=1_000)
                break
            except (RedisError, OSError):  # TimeoutError is an OSError
                continue
        self._is_open = False
        self._closed_at = time.monotonic()
        self._metrics.closed()
        _log.info("Redis answers again")

    @property
    def _probe_timeout_s(self) -> float:
        """Longer with Sentinels, each of which may have to be waited for."""
        return self.timeout_s * (2 + len(self._sentinel.sentinels) if self._sentinel else 1)


class _PasswordInFile(CredentialProvider):
    """Asked for each new connection; those that are there stay as they are."""

    def __init__(self, user: str | None, password: SecretFile) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self._password.read()
        except SettingsError as error:
            raise AuthenticationError(error.message) from None
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def _connect(settings: RedisSettings) -> tuple[Sentinel | None, ConnectionPool]:
    """A pool of connections to the URL's host, or to the primary that the Sentinels know by that name.

    Time limits are `Redis.call`'s: one timer for a command, whatever it has to do first. Sentinels have their
    own, so that a dead one leaves time to ask the next.
    """
    if settings.url is None:
        raise ValueError("there is no redis.url to connect to")
    server: dict[str, Any] = dict(parse_url(settings.url.get_secret_value()))
    is_encrypted = server.pop("connection_class", None) is SSLConnection
    each: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "driver_info": None}
    if is_encrypted and settings.ca_file is not None:
        if not settings.ca_file.is_file():
            raise SettingsError(f"redis.ca_file: there is no file {settings.ca_file}")
        each["ssl_ca_certs"] = str(settings.ca_file)
    if settings.password_file is not None:
        file = SecretFile(settings.password_file, "redis.password_file")
        server["credential_provider"] = _PasswordInFile(server.pop("username", None), file)
    unlimited: dict[str, Any] = {
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "max_connections": MAX_CONNECTIONS,
    }
    if not settings.sentinels:
        kind = SSLConnection if is_encrypted else Connection
        pool = BlockingConnectionPool(connection_class=kind, timeout=None, **server, **each, **unlimited)
        return None, pool
    limited = {"socket_timeout": settings.timeout, "socket_connect_timeout": settings.timeout}
    nodes = [(host, int(port)) for host, _, port in (node.rpartition(":") for node in settings.sentinels)]
    sentinel = Sentinel(nodes, sentinel_kwargs={"ssl": is_encrypted, **each, **limited})  # type: ignore[no-untyped-call]
    name = server.pop("host")
    server.pop("port", None)
    return sentinel, SentinelConnectionPool(  # type: ignore[no-untyped-call]
        name, sentinel, ssl=is_encrypted, **server, **each, **unlimited
    )


def _words(error: Exception) -> str:
    """An error of a driver in one line, without addresses or keys."""
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
