"""Run the CPU LoRA and the server benchmark; print their results as one last line of JSON.

    python benchmarks/run.py

Each benchmark runs in a process of its own, so that one's engine leaves nothing behind for the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = ("bench_cpu_lora.py", "bench_server.py")


def run(script: str) -> dict[str, Any]:
    """The JSON object in the last line that the benchmark prints; all else is passed through."""
    last = ""
    command = [sys.executable, str(Path(__file__).parent / script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line if line.strip() else last
    if process.returncode != 0:
        sys.exit(f"{script} failed with exit code {process.returncode}")
    try:
        result = json.loads(last)
    except ValueError:
        sys.exit(f"the last line of {script} is not JSON: {last!r}")
    if not isinstance(result, dict):
        sys.exit(f"the last line of {script} is not a JSON object")
    return result


def main() -> None:
    result: dict[str, Any] = {}
    for script in BENCHMARKS:
        result |= run(script)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
