"""How urgent a generation is."""

from __future__ import annotations

from typing import Final, Literal

Priority = Literal["interactive", "batch"]
"""Somebody waits for it; or it takes what those requests leave free, and waits for as long as it must."""

PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "batch")
"""The more urgent first."""
