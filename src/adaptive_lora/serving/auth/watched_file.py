"""A file whose change is noticed, without a thread and without a look at each request."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 1.0
"""How soon a change is seen."""


class WatchedFile:
    """Knows the file as it was when it was last looked at."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`path` may begin with `~`, and need not exist."""
        self.path = path.expanduser()
        self._clock = clock
        self._looked_at = clock()
        self._seen = self._state()

    def has_changed(self) -> bool:
        """Whether it is another one than at the last look. Looks once in LOOK_EVERY_S; in between, no."""
        now = self._clock()
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        seen, self._seen = self._seen, self._state()
        return seen != self._seen

    def _state(self) -> tuple[int, ...] | None:
        """What changes when the file does; None if it is not there."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
