"""Which keys have a test of their effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])
TESTED: set[str] = set()


def key(*names: str) -> Callable[[Test], Test]:
    """Declares which keys a test is about."""
    TESTED.update(names)
    return lambda test: test
