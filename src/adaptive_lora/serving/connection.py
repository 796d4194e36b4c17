"""What one client may cost while it is slow: how long it may take to send a head or to read an answer, and
how many may be connected.

uvicorn knows no time limit for heads, none for readers, and its `close` waits until a client has read
everything. Here the server looks at its connections once a second (`look_at`); nothing is timed for each
request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from adaptive_lora.serving.protocol import StrictProtocol

HEAD_TIMEOUT_S: Final = 10.0
"""From the connection, or the first byte of a later request, to the end of the head."""
KEEP_ALIVE_S: Final = 75
"""Between two requests (uvicorn's timer). Longer than balancers keep their connections, usually 60 s: else
they would send a request into one that is being closed."""
READ_TIMEOUT_S: Final = 30.0
"""How long a client may leave what it was sent unread, once the buffers (some 100 kB) are full or the
connection is about to close."""


class BoundedConnection(StrictProtocol):
    """One connection of a server that has at most `max_connections`.

    Past that, a new one takes the place of the one that has idled longest; if all are busy, it is refused.
    """

    def __init__(self, *arguments: Any, max_connections: int, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._max_connections = max_connections
        self._idle_since: float | None = None
        """When the last wait for a head began; None if the head is there."""
        self._unread_since: float | None = None
        """When the client stopped reading, as far as it is known."""
        self._served: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if len(self.connections) > self._max_connections:
            self._find_place()

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the request that came last, which may still wait for the one that is being served.
        served = self._served
        if served is not None and not served.response_complete:
            served.disconnected = True
            served.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        self._idle_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._idle_since = None
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    @property
    def idle_since(self) -> float | None:
        """Since when it waits for a head while no request of it is served; None if one is."""
        return self._idle_since if self.cycle is None or self.cycle.response_complete else None

    @property
    def is_kept(self) -> bool:
        """Between two requests: the last one is over, and nothing has come of a next one."""
        cycle = self.cycle
        return cycle is not None and cycle.response_complete and not cycle.more_body and not self._is_in_head

    def look(self, now: float) -> None:
        """Part with a client that takes too long."""
        is_closing = self.transport.is_closing()
        if is_closing and self._unread_since is None:
            self._unread_since = now
        if self._unread_since is not None and now - self._unread_since > READ_TIMEOUT_S:
            self.transport.abort()
        elif is_closing or self.is_kept or (idle_since := self.idle_since) is None:
            return
        elif now - idle_since > HEAD_TIMEOUT_S:
            if self._is_in_head and (self._n_head_bytes or self._n_held):
                message = f"the request's head did not arrive within {HEAD_TIMEOUT_S:g} s"
                self._answer(408, "request_timeout", message)
            else:
                self.transport.close()

    def _find_place(self) -> None:
        others = (c for c in self.connections if isinstance(c, BoundedConnection) and c is not self)
        idle = [(since, id(c), c) for c in others if (since := c.idle_since) and not c.transport.is_closing()]
        if idle:
            min(idle)[-1].transport.abort()
        else:
            message = f"{self._max_connections} connections are open and busy, which is the limit: try again"
            self._answer(503, "overloaded", message)


def look_at(connections: Iterable[object], now: float) -> None:
    """Part with all clients that take too long. `now` is on the event loop's clock."""
    for connection in list(connections):
        if isinstance(connection, BoundedConnection):
            connection.look(now)


def part_with_kept(connections: Iterable[object]) -> None:
    """Close those between two requests. Who kept one opens another for the next request, which a balancer
    leads elsewhere; on the old one it would be refused."""
    for connection in list(connections):
        if isinstance(connection, BoundedConnection) and connection.is_kept:
            connection.transport.close()
