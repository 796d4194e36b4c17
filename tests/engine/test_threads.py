"""Work in daemon threads: its result, its error, and an end that nobody waits for."""

import subprocess
import sys

import pytest

from adaptive_lora.engine.threads import in_daemon_thread


async def test_the_result_comes_back() -> None:
    assert await in_daemon_thread(lambda: 6 * 7) == 42


async def test_the_error_comes_back() -> None:
    def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await in_daemon_thread(fail)


def test_neither_the_loop_nor_the_interpreter_waits_for_it() -> None:
    code = """
import asyncio, time
from adaptive_lora.engine.threads import in_daemon_thread

async def main():
    asyncio.create_task(in_daemon_thread(lambda: time.sleep(600)))
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
