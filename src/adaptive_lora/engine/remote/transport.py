"""HTTP to one worker: what a connection can do wrong, as one exception."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from urllib.parse import urlsplit

import aiohttp

from adaptive_lora.engine.remote.discovery import Address
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.secret_files import SecretFile
from adaptive_lora.settings import WorkersSettings

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 2.0
"""Shorter than the 5 s after which vLLM's server closes an idle connection: else some requests would meet
it."""
END_TIMEOUT_S = 1.0
"""For what comes after the last token of an answer."""
MAX_BODY_BYTES = 64 << 20
MAX_CONTROL_CONNECTIONS = 16
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_UNLIMITED = aiohttp.ClientTimeout(None, sock_connect=CONNECT_TIMEOUT_S)


Key = Callable[[], str | None]
"""What workers demand at the moment."""


def worker_key(settings: WorkersSettings) -> Key:
    """One for the whole pool. Raises SettingsError for a file that has no key."""
    if settings.api_key_file is not None:
        file = SecretFile(settings.api_key_file, "workers.api_key_file")
        return lambda: file.value
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return lambda: key


class WorkerFailed(Exception):
    """The worker did not do what a healthy one does. Stays inside this package.

    `error`: what the worker itself said, if it said something. `refused`: there is no process. `blameless`:
    it is healthy and has too much to do.
    """

    def __init__(
        self,
        reason: str,
        error: AdaptiveLoraError | None = None,
        *,
        refused: bool = False,
        blameless: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error
        self.refused = refused
        self.blameless = blameless


class Answer:
    """A worker's answer while it is read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.is_complete = False
        """Set by the reader that has all it wants: then the connection is used again."""
        self._response = response

    def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it arrives."""
        return self._response.content.iter_any()

    async def body(self) -> bytes:
        """All of it, as far as anybody should send one. Raises WorkerFailed for more."""
        body = b""
        async for piece in self.pieces():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise WorkerFailed("it answers without end")
        return body


class Transport:
    """Connections to one worker. Health checks have some of their own: they must not queue behind
    requests."""

    def __init__(self, address: Address, settings: WorkersSettings, key: Key) -> None:
        self.url = address.url
        self._host = address.host
        self._headers = {"accept-encoding": "identity"}
        self._key = key
        if address.host:
            self._headers["host"] = f"{address.host}:{urlsplit(address.url).port}"
        self._verification = _verification(settings) if address.url.startswith("https:") else False
        self._requests = asyncio.Semaphore(settings.max_connections)
        self._control = asyncio.Semaphore(MAX_CONTROL_CONNECTIONS)
        self._opened: aiohttp.ClientSession | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def call(
        self, method: str, path: str, content: bytes | None = None, *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Status and body. Raises WorkerFailed if there is no answer within `timeout_s`."""
        limits = aiohttp.ClientTimeout(timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        async with _place(self._control), self._sent(method, path, content, {}, limits) as answer:
            return answer.status, await answer.body()

    @asynccontextmanager
    async def stream(
        self, path: str, content: bytes, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[Answer]:
        """POST and read the answer as it comes; leaving closes the connection, which aborts the request
        there, unless the answer is complete.

        Reading has no time limit of its own. Raises WorkerFailed, also while the body is read.
        """
        async with _place(self._requests), self._sent("POST", path, content, headers, _UNLIMITED) as answer:
            yield answer

    async def close(self) -> None:
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._opened is not None:
            await self._opened.close()

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[Answer]:
        if content is not None:
            headers = {"content-type": "application/json", **headers}
        if (api_key := self._key()) is not None:
            headers = {"authorization": f"Bearer {api_key}", **headers}
        try:
            response = await self._session.request(
                method,
                self.url + path,
                data=content,
                headers=headers,
                timeout=limits,
                allow_redirects=False,
                server_hostname=self._host,
            )
            answer = Answer(response)
            try:
                yield answer
            finally:
                self._leave(answer, response)
        except aiohttp.ClientError as error:
            raise _failed(error) from error
        except TimeoutError as error:
            raise WorkerFailed("it does not answer in time") from error

    def _leave(self, answer: Answer, response: aiohttp.ClientResponse) -> None:
        """A connection whose answer has been read is free already; of one that has its last token the end is
        awaited, by nobody's request; any other is closed."""
        if not answer.is_complete or response.connection is None:
            response.close()
            return
        ending = asyncio.create_task(_read_to_the_end(response))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    @property
    def _session(self) -> aiohttp.ClientSession:
        """Opened late: it belongs to the event loop that runs."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEEPALIVE_S, ssl=self._verification
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # no proxy between us and our workers, no .netrc
            )
        return self._opened


async def _read_to_the_end(response: aiohttp.ClientResponse) -> None:
    """What is left is a few bytes; a worker that does not send them is not asked on this connection again."""
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            async for _ in response.content.iter_any():
                pass
    except (TimeoutError, aiohttp.ClientError):
        pass
    finally:
        response.close()


@asynccontextmanager
async def _place(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of a limited number of connections. Raises WorkerFailed if none becomes free in time."""
    if places.locked():
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await places.acquire()
        except TimeoutError:
            raise WorkerFailed(
                "all connections to it are in use (workers.max_connections)", blameless=True
            ) from None
    else:
        await places.acquire()
    try:
        yield
    finally:
        places.release()


def _verification(settings: WorkersSettings) -> ssl.SSLContext | bool:
    if not settings.tls_verify:
        return False
    return ssl.create_default_context(cafile=settings.ca_file)


def _failed(error: aiohttp.ClientError) -> WorkerFailed:
    match error:
        case aiohttp.ClientConnectorError():
            return WorkerFailed("it cannot be connected to", refused=True)
        case aiohttp.ConnectionTimeoutError():
            return WorkerFailed("it does not accept connections", refused=True)
        case aiohttp.ServerTimeoutError():
            return WorkerFailed("it does not answer in time")
        case _:
            return WorkerFailed("the connection broke")
