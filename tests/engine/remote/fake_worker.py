"""A worker for tests: our endpoints over a FakeEngine, on a real socket, with faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.engine.remote.wire import WorkerInfo
from adaptive_lora.errors import UnknownAdapter
from adaptive_lora.settings import WorkersSettings
from adaptive_lora.types import AdapterVersion
from adaptive_lora.worker.access import KeyRequired
from adaptive_lora.worker.endpoints import Endpoints

KEY = "a key for tests"
QUICK = {
    "api_key": KEY,
    "refresh_interval": 0.05,
    "canary_interval": 0.2,
    "canary_timeout": 0.5,
    "first_token_timeout": 0.5,
    "chunk_timeout": 0.5,
    "start_timeout": 30.0,
}


def adapter(name: str, rank: int = 8) -> AdapterVersion:
    return AdapterVersion(name, "0123456789ab", Path("/nowhere"), rank, "", (), 0)


def settings(*workers: FakeWorker, **changes: object) -> WorkersSettings:
    return WorkersSettings.model_validate(QUICK | {"urls": [w.url for w in workers]} | changes)


class FakeWorker:
    """`files` are the adapters that it can get. `fault` may change at any time:

    freeze          answers nothing at all, as a stopped process
    hang            accepts requests for tokens and never answers, while all else is well
    error           answers 500 to them
    cut             sends `n_chunks` chunks, then drops the connection
    stall           sends `n_chunks` chunks, then nothing
    slow            answers after `delay_s`
    """

    def __init__(
        self,
        files: Sequence[AdapterVersion] = (),
        tls: tuple[Path, Path] | None = None,
        port: int = 0,
        **engine_options: object,
    ) -> None:
        self.files = {adapter.id: adapter for adapter in files}
        self.keys = [KEY]
        """That it demands, from its next start on."""
        self.fault: str | None = None
        self.n_chunks = 2
        self.delay_s = 0.2
        self.n_generations = 0
        self.fingerprint: str | None = "f" * 64
        self.text_fingerprint: str | None = "e" * 64
        self.loads: list[str] = []
        """That were begun."""
        self.loaded: list[str] = []
        self.may_load = asyncio.Event()
        """Until it is set again, loads take for ever."""
        self.may_load.set()
        self.connections: set[tuple[str, int]] = set()
        """That requests for tokens came on."""
        self._engine_options = {"max_model_len": 256, "max_loras": 2, "delay_s": 0.001} | engine_options
        self._socket = _bound(port)
        self.port = self._socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._tls = {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]} if tls else {}
        self._server: uvicorn.Server | None = None

    async def start(self) -> None:
        """A new process, as it were: nothing is loaded."""
        self.engine = FakeEngine(**self._engine_options)
        await self.engine.start()
        self.boot_id = uuid.uuid4().hex
        info = WorkerInfo(
            boot_id=self.boot_id,
            version="0",
            vllm_version="0",
            model_name="fake",
            fingerprint=self.fingerprint,
            max_model_len=self.engine.max_model_len,
            max_loras=2,
            max_cpu_loras=8,
            max_lora_rank=64,
            text_fingerprint=self.text_fingerprint,
        )
        app = FastAPI()
        endpoints = Endpoints(self.engine, info, self._find, on_loaded=lambda a: self.loaded.append(a.id))
        app.include_router(endpoints.router())
        app.add_middleware(KeyRequired, keys=self.keys)
        if self._socket.fileno() < 0:
            self._socket = _bound(self.port)
        config = uvicorn.Config(
            self._faulty(app), log_level="critical", lifespan="off", timeout_keep_alive=60, **self._tls
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)

    async def kill(self) -> None:
        """As kill -9: connections break, the port is closed."""
        if self._server is None:
            return
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        self._server.force_exit = self._server.should_exit = True
        await self._task
        self._server = None
        self._socket.close()
        await self.engine.stop()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def _find(self, adapter_id: str) -> AdapterVersion:
        if adapter_id not in self.files:
            raise UnknownAdapter(f"{adapter_id} is not here")
        self.loads.append(adapter_id)
        await self.may_load.wait()
        return self.files[adapter_id]

    def _faulty(self, app):
        async def answer(scope, receive, send):
            if self.fault == "freeze":
                await asyncio.sleep(3600)
            if scope["type"] != "http" or not scope["path"].endswith("/generate"):
                await app(scope, receive, send)
                return
            self.n_generations += 1
            self.connections.add(scope["client"])
            if self.fault == "hang":
                await asyncio.sleep(3600)
            if self.fault == "error":
                await send({"type": "http.response.start", "status": 500, "headers": []})
                await send({"type": "http.response.body", "body": b"Internal Server Error"})
                return
            if self.fault == "slow":
                await asyncio.sleep(self.delay_s)
            n_sent = 0

            async def faulty_send(message):
                nonlocal n_sent
                if message["type"] == "http.response.body" and message.get("body"):
                    if self.fault in ("cut", "stall") and n_sent >= self.n_chunks:
                        if self.fault == "stall":
                            await asyncio.sleep(3600)
                        raise ConnectionError("cut")
                    n_sent += 1
                await send(message)

            with contextlib.suppress(ConnectionError):
                await app(scope, receive, faulty_send)

        return answer


def _bound(port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off where the socket says that it speaks TCP.
    bound = socket.socket(proto=socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


@asynccontextmanager
async def running(*workers: FakeWorker) -> AsyncIterator[None]:
    for worker in workers:
        await worker.start()
    try:
        yield
    finally:
        for worker in workers:
            await worker.kill()


async def until(holds: Callable[[], object]) -> None:
    """Wait until it does; fails after a minute, which is no measure of anything."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
