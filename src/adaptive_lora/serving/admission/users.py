"""Which adapters are asked for by requests that wait or run, for those who would unload them."""

from __future__ import annotations

import asyncio


class Users:
    """Counts the requests of each adapter. For one event loop."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}
        self._nobody: dict[str, asyncio.Event] = {}  # of adapters that somebody wants to unload

    def join(self, adapter_id: str) -> None:
        self._n[adapter_id] = self._n.get(adapter_id, 0) + 1

    def leave(self, adapter_id: str) -> None:
        self._n[adapter_id] -= 1
        if not self._n[adapter_id]:
            del self._n[adapter_id]
            if (nobody := self._nobody.pop(adapter_id, None)) is not None:
                nobody.set()

    async def gone(self, adapter_id: str) -> None:
        """Until no request asks for the adapter."""
        while adapter_id in self._n:
            await self._nobody.setdefault(adapter_id, asyncio.Event()).wait()
