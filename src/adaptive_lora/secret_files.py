"""Secrets in files, which whoever rotates them replaces while we run. A change is noticed without a thread,
and without a look at each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from adaptive_lora.errors import SettingsError

_log = logging.getLogger(__name__)

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


class SecretFile:
    """One secret, alone in its file."""

    def __init__(self, path: Path, key: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`key` is the settings' key, for messages. Raises SettingsError for a file that has no secret."""
        self._key = key
        self._file = WatchedFile(path, clock=clock)
        self._value = self.read()

    def read(self) -> str:
        """What the file has now. Raises SettingsError, without the content."""
        path = self._file.path
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SettingsError(f"{self._key} {path} cannot be read: {reason}") from error
        if not text or not text.isprintable():
            raise SettingsError(f"{self._key} {path} must hold the secret, on one line, and nothing else")
        return text

    @property
    def value(self) -> str:
        """What the file had when it was last looked at, LOOK_EVERY_S ago at most. A file that cannot be used
        leaves the secret that was there, and says so in the log, once."""
        if self._file.has_changed():
            try:
                self._value = self.read()
            except SettingsError as error:
                _log.error("the secret stays as it was: %s", error.message)
            else:
                _log.info("%s is read again", self._key)
        return self._value
