"""Follows when the site was last backed up. The audit log tells, wherever the backup ran."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from adaptive_lora.access.store import AccessStore
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.serving.batches.desk import Desk
from adaptive_lora.telemetry.backup import BackupGauge

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 60.0


class BackupWatch:
    """Keeps `gauge` up to date, from the database that `desk` has open."""

    def __init__(self, desk: Desk, gauge: BackupGauge) -> None:
        self._desk = desk
        self._gauge = gauge
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Before the desk is closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                self._gauge.last_success = await self._desk.call(
                    lambda stores: AccessStore(stores.database).last("backup.make")
                )
            except AdaptiveLoraError as error:
                _log.debug("when the last backup was made is not known: %s", error.message)
            await asyncio.sleep(LOOK_EVERY_S)
