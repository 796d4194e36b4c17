"""A machine within this one: network, mounts and processes of its own, gone with the process that made it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.processes import children

ADDRESS = "192.168.77.2"

SET_UP = f"""
set -eu
umount /sys/fs/cgroup/unified 2>/dev/null || true    # a hybrid of both versions is taken for version 2
for folder in /run /var/log; do mount -t tmpfs tmpfs $folder; done
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip address add {ADDRESS}/32 dev lo
echo up
read -r _ || true    # until whoever started it is gone
"""


class Machine:
    """Runs programs; each has a log in `folder`."""

    def __init__(self, init: int, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._enter = ["nsenter", f"--target={init}", "--net", "--mount", "--pid", "--"]
        self._environ = dict(environ)
        self._servers: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str, given: str | None = None, timeout_s: float = 600) -> str:
        """What it printed. Raises AssertionError with what it said if it fails."""
        run = subprocess.run(
            [*self._enter, *command],
            input=given,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert run.returncode == 0, f"{' '.join(command)}: {run.stdout}{run.stderr}"
        return run.stdout

    def start(self, *command: str, until: Callable[[], object], timeout_s: float = 60) -> None:
        """A server, which is ready when `until` no longer raises."""
        log = self.folder / f"{Path(command[0]).name}.log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                [*self._enter, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._environ
            )
        self._servers.append(server)
        end = time.monotonic() + timeout_s
        while True:
            try:
                until()
                return
            except AssertionError:
                said = log.read_text(errors="replace")[-2000:]
                if server.poll() is not None or time.monotonic() > end:
                    raise AssertionError(f"{command[0]} is not ready: {said}") from None
                time.sleep(0.5)

    def wait(self) -> None:
        """Until its servers have ended, which they do with it."""
        for server in self._servers:
            server.wait()


@contextmanager
def machine(folder: Path, environ: Mapping[str, str]) -> Iterator[Machine]:
    """Until the block ends, or this process. Needs root."""
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        [*unshare, "bash", "-c", SET_UP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        (init,) = children(holder.pid)
        made = Machine(init, folder, environ)
        try:
            yield made
        finally:
            holder.communicate("stop\n")
            made.wait()
