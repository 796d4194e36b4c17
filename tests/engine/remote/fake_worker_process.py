"""A `FakeWorker` as a process of its own, which can be killed and started again on the same port.

python -m tests.engine.remote.fake_worker_process PORT SECONDS_PER_TOKEN
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time

from tests.engine.remote.fake_worker import FakeWorker


class FakeWorkerProcess:
    """Ends with this process."""

    def __init__(self, *, token_s: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._token_s = token_s
        self.start()

    def start(self) -> None:
        command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", __spec__.name]
        self._process = subprocess.Popen([*command, str(self.port), str(self._token_s)])
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, "the worker did not start"
            time.sleep(0.05)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


async def serve(port: int, token_s: float) -> None:
    await FakeWorker(port=port, delay_s=token_s).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
