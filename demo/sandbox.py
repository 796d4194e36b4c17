"""Runs functions that a model wrote, for the demo's evaluation alone: no network, no files, little of
anything else.

Every answer gets a process of its own in new user, mount, PID, network, IPC and UTS namespaces, inside
an empty
read-only file system, without privileges and with limits on CPU time, memory, processes and output.
Where the kernel
does not allow that, SandboxUnavailable is raised: nothing ever runs outside.

The arguments go in, the return values come out as JSON on a pipe, and are compared here: the child
never sees an
expected value, so that there is nothing to print that would count as passed but the right answers.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

WALL_TIME_S = 5.0
MAX_OUTPUT_BYTES = 64_000
_CHILD = Path(__file__).with_name("sandbox_child.py")

Job = tuple[str, str | None, list[list[Any]]]


class SandboxUnavailable(RuntimeError):
    """This machine offers no way to confine a process, so nothing was run."""


def execute(source: str, function: str | None, arguments: Sequence[Sequence[Any]]) -> list[Any] | None:
    """The function's return value for each list of arguments; None if anything at all went wrong.

    `function` None means the last function that `source` defines. A call that raised yields a value
    that equals
    nothing. Raises SandboxUnavailable before anything runs where the process cannot be confined.
    """
    token = secrets.token_hex(16)
    job = json.dumps({"source": source, "function": function, "arguments": arguments, "token": token})
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        try:
            process.communicate(job.encode(), timeout=WALL_TIME_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 77:
            raise SandboxUnavailable(
                "cannot confine a process here: run as root or allow unprivileged user namespaces "
                "(sysctl kernel.unprivileged_userns_clone=1, or no restriction by AppArmor)"
            )
        out.seek(0)
        return _parse(out.read(MAX_OUTPUT_BYTES + 1), token, len(arguments))


def _parse(output: bytes, token: str, n: int) -> list[Any] | None:
    """The results in the child's output, which is hostile until shown otherwise."""
    if len(output) > MAX_OUTPUT_BYTES:
        return None
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or answer.get("token") != token:
        return None
    results = answer.get("results")
    return results if isinstance(results, list) and len(results) == n else None


def passes(source: str, function: str | None, tests: list[list[Any]]) -> bool:
    """Whether the function returns what every test expects. A tuple counts as a list, as JSON has no
    tuples.
    """
    results = execute(source, function, [arguments for arguments, _ in tests])
    return (
        results is not None
        and bool(tests)
        and all(_same(got, expected) for got, (_, expected) in zip(results, tests, strict=True))
    )


def _same(got: Any, expected: Any) -> bool:
    if isinstance(got, bool) or isinstance(expected, bool):
        return got is expected
    if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
        return abs(got - expected) <= 1e-9 * max(1.0, abs(expected))
    if isinstance(got, list) and isinstance(expected, (list, tuple)):
        return len(got) == len(expected) and all(_same(g, e) for g, e in zip(got, expected, strict=True))
    if isinstance(got, dict) and isinstance(expected, dict):
        expected = {str(k): v for k, v in expected.items()}
        return got.keys() == expected.keys() and all(_same(v, expected[k]) for k, v in got.items())
    return type(got) is type(expected) and bool(got == expected)


@cache
def available() -> bool:
    """Whether this machine can confine a process."""
    try:
        return execute("def f():\n    return 1", None, [[]]) == [1]
    except SandboxUnavailable:
        return False


def run_all(jobs: Sequence[Job]) -> list[bool]:
    """`passes` for each job, a few at a time."""
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda job: passes(*job), jobs))
