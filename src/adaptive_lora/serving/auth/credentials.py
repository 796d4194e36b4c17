"""What this process knows of API keys and revocations: the store's listing, read again when it changes.

    every POLL_INTERVAL_S    one cheap query; on another revision, the whole listing
    store away               the last listing serves for MAX_AGE_S, then RegistryUnavailable
    once a minute            when keys were last used is written down

So a key that is minted or revoked anywhere is known everywhere within POLL_INTERVAL_S and the time of a
query, and no request waits for the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from adaptive_lora.access.records import ApiKey, Listing
from adaptive_lora.errors import AdaptiveLoraError, RegistryUnavailable

if TYPE_CHECKING:
    from adaptive_lora.access.store import AccessStore

_log = logging.getLogger(__name__)

POLL_INTERVAL_S: Final = 1.0
MAX_AGE_S: Final = 300.0
WRITE_USED_EVERY_S: Final = 60.0


class Credentials:
    """All methods but `refresh` answer from memory, and are called from one event loop."""

    def __init__(
        self,
        open_store: Callable[[], AccessStore],
        *,
        poll_interval_s: float = POLL_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`open_store` blocks, and is tried until it succeeds."""
        self._open_store = open_store
        self._poll_interval_s = poll_interval_s
        self._clock = clock
        self._store: AccessStore | None = None
        self._listing: Listing | None = None
        self._known_at = clock()
        self._is_known = asyncio.Event()
        self._used: dict[str, datetime] = {}
        self._wrote_used_at = clock()
        self._is_away = False
        self._task: asyncio.Task[None] | None = None
        self._one_look = asyncio.Lock()

    def start(self) -> None:
        """Begin to follow the store, in the background of the running event loop."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._store is not None:
            try:
                await asyncio.to_thread(self._store.used, self._used)
            except AdaptiveLoraError as error:
                _log.warning("when keys were last used is lost: %s", error.message)
            await asyncio.to_thread(self._store.close)

    @property
    def store(self) -> AccessStore:
        """For changes. Raises RegistryUnavailable until it has been opened."""
        if self._store is None:
            raise RegistryUnavailable("the store of API keys has not been opened yet: try again")
        return self._store

    def key(self, key_id: str) -> ApiKey | None:
        """A key that is not revoked; it may have expired. Raises RegistryUnavailable."""
        return self._current().keys.get(key_id)

    def is_revoked(self, tenant: str, jti: str) -> bool:
        """Whether a token is. Raises RegistryUnavailable."""
        return (tenant, jti) in self._current().revoked_tokens

    def check(self) -> None:
        """Raises RegistryUnavailable if it is not known who is revoked."""
        self._current()

    def note_use(self, key: ApiKey) -> None:
        if key.id not in self._used:
            self._used[key.id] = datetime.now(UTC)

    async def refresh(self) -> None:
        """Look at the store now. Raises RegistryUnavailable if it is away."""
        async with self._one_look:
            self._listing = await asyncio.to_thread(self._read, self._listing)
            self._known_at = self._clock()
            self._is_known.set()

    async def known(self) -> None:
        """Wait for the first look at the store: until then nobody can be recognised."""
        await self._is_known.wait()

    def _current(self) -> Listing:
        if self._listing is None:
            raise RegistryUnavailable("credentials cannot be checked yet: try again")
        if self._clock() - self._known_at > MAX_AGE_S:
            raise RegistryUnavailable(
                f"credentials cannot be checked: the registry has been away for {MAX_AGE_S:g} s; try again"
            )
        return self._listing

    def _read(self, known: Listing | None) -> Listing:
        """The present listing; `known` itself if it is. Blocks."""
        if self._store is None:
            self._store = self._open_store()
        if known is not None and self._store.revision() == known.revision:
            return known
        return self._store.listing()

    async def _follow(self) -> None:
        while True:
            try:
                await self.refresh()
                await self._write_used()
            except AdaptiveLoraError as error:
                if not self._is_away:
                    _log.error("credentials are checked with what is known: %s", error.message)
                self._is_away = True
            except Exception:  # a table or a right that is gone: it may come back, and this must notice
                if not self._is_away:
                    _log.exception("credentials are checked with what is known")
                self._is_away = True
            else:
                if self._is_away:
                    _log.info("the store of credentials is back")
                self._is_away = False
            await asyncio.sleep(self._poll_interval_s)

    async def _write_used(self) -> None:
        if not self._used or self._clock() - self._wrote_used_at < WRITE_USED_EVERY_S:
            return
        used, self._used = self._used, {}
        self._wrote_used_at = self._clock()
        try:
            await asyncio.to_thread(self.store.used, used)
        except Exception:
            self._used = used | self._used
            raise
