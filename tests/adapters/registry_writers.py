"""What processes do that use one registry at once. Each task is called in a process of its own."""

from __future__ import annotations

import itertools
import multiprocessing

from adaptive_lora.adapters.records import PROD
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.errors import Conflict, UnknownAdapter

from .registry_state import new_version

N_STEPS = 12
TIMEOUT_S = 60.0


def open_it(url: str, number: int) -> str:
    """Open a database that nobody has opened before, and leave a mark."""
    registry = Registry.open(url, timeout_s=TIMEOUT_S)
    registry.add(new_version(version_of(number)), who=f"process {number}", why="open")
    return "opened"


def count(url: str, number: int) -> str:
    """Move `prod` from version n to n + 1, `N_STEPS` times: if somebody else was faster, look again."""
    registry = Registry.open(url, timeout_s=TIMEOUT_S)
    n_steps = 0
    while n_steps < N_STEPS:
        now = registry.snapshot().alias("count", PROD).version
        following = version_of(int(now, 16) + 1)
        try:
            registry.point("count", PROD, following, expected=now, who=f"process {number}", why="count")
            n_steps += 1
        except Conflict:
            continue
    return "counted"


def compete(url: str, number: int) -> str:
    """All expect the same, once: who wins?"""
    registry = Registry.open(url, timeout_s=TIMEOUT_S)
    try:
        registry.point("code", PROD, version_of(number), expected=None, who=f"process {number}", why="mine")
    except Conflict:
        return "lost"
    return "won"


def roll_out(url: str, number: int) -> str:
    registry = Registry.open(url, timeout_s=TIMEOUT_S)
    for step in range(N_STEPS):
        _roll_out_one(registry, number, step)
    return "rolled out"


def roll_out_until_killed(url: str, number: int) -> str:
    registry = Registry.open(url, timeout_s=TIMEOUT_S)
    parent = multiprocessing.parent_process()
    for step in itertools.count():
        _roll_out_one(registry, number, step)
        if parent is None or not parent.is_alive():
            break
    return "abandoned"


def _roll_out_one(registry: Registry, number: int, step: int) -> None:
    """Add, canary, promote, roll back, retire: under a name of its own, and under one that all share."""
    by = {"who": f"process {number}", "why": "roll out"}
    version = version_of(number * 1_000_000 + step)
    for name in (f"own-{number}", "shared"):
        registry.add(new_version(version, name=name), **by)
        registry.declare(name, version, loaded=True, **by)
        for change, arguments, options in (
            (registry.point, (name, PROD, version), {"expected": None}),
            (registry.point, (name, "canary", version), {"share": 0.2}),
            (registry.promote, (name,), {}),
            (registry.rollback, (name,), {}),
            (registry.retire, (name, version), {}),
            (registry.delete, (name, version), {}),
        ):
            try:
                change(*arguments, **options, **by)
            except (Conflict, UnknownAdapter):
                continue  # others were faster, or it is still in use


def version_of(number: int) -> str:
    return f"{number:012x}"
