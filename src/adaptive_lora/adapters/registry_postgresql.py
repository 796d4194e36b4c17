"""A connection to PostgreSQL that gives up on a server which accepts what is sent and never answers.

The server's own timeouts do not help against a server that hangs, TCP's not against a machine that still
acknowledges packets.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.waiting import Ready


class _InTimeConnection(psycopg.Connection[Any]):
    answer_timeout_s: float = 30.0

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Every wait for the server goes through here."""
        return super().wait(self._in_time(gen), *args, **kwargs)

    def _in_time(self, waiting: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """What `waiting` yields and returns; it is asked to look every 0.1 s whether something has come."""
        deadline = time.monotonic() + self.answer_timeout_s
        try:
            wanted = next(waiting)
            while True:
                ready = yield wanted
                if ready == Ready.NONE and time.monotonic() > deadline:
                    self.pgconn.finish()  # what it was in the middle of is lost, and so is the connection
                    raise psycopg.OperationalError(f"no answer within {self.answer_timeout_s:g} s")
                wanted = waiting.send(ready)
        except StopIteration as end:
            return end.value


def connect_in_time(timeout_s: float, *positional: Any, **named: Any) -> psycopg.Connection[Any]:
    """As `psycopg.connect`; then the server has `timeout_s` for each answer; else OperationalError."""
    connection = _InTimeConnection.connect(*positional, **named)
    connection.answer_timeout_s = timeout_s
    return connection
