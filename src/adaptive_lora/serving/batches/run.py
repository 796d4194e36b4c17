"""One batch, run by this gateway from its claim to its end, or until somebody else runs it.

    validating ─▶ in_progress ─▶ finalizing ─▶ completed
        └──────────────┴─▶ cancelling ─▶ cancelled     a caller's wish, seen at the next sign of life
        └──────────────┴─▶ failed                      not a batch's input; its credential is good no more
        └──────────────┴─▶ expired                     its window has passed

Whatever the end, what was answered is in the output file, and each other request has its line in the error
file.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from adaptive_lora.batches.records import Batch, Result
from adaptive_lora.batches.run_store import Ending, LeaseLost
from adaptive_lora.batches.stores import Stores
from adaptive_lora.errors import AdaptiveLoraError, NotFound, RegistryUnavailable, Unauthenticated
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.batches.callers import Caller
from adaptive_lora.serving.batches.checkpoint import Checkpoint
from adaptive_lora.serving.batches.desk import Desk
from adaptive_lora.serving.batches.items import MAX_TRIES, Answering, TryLater
from adaptive_lora.serving.batches.lines import InputFile, Refused
from adaptive_lora.serving.batches.outcome import write_files
from adaptive_lora.serving.batches.waiting import patiently, wait_s
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.telemetry.batches import BatchMetrics

T = TypeVar("T")
_log = logging.getLogger(__name__)

SIGNS_OF_LIFE: Final = 3
"""In the time after which another gateway takes over."""
RELEASE_TIMEOUT_S: Final = 1.0


class _End(Exception):
    """The batch ends otherwise than by the answer to its last request."""

    def __init__(self, ending: Ending, errors: Sequence[Mapping[str, Any]] | None = None) -> None:
        super().__init__(ending)
        self.ending: Ending = ending
        self.errors = errors


class Run:
    """`places` are those that all batches of this gateway share."""

    def __init__(
        self,
        batch: Batch,
        holder: str,
        desk: Desk,
        runtime: Runtime,
        gate: Gate | None,
        places: asyncio.Semaphore,
    ) -> None:
        self._batch = batch
        self._holder = holder
        self._desk = desk
        self._runtime = runtime
        self._gate = gate
        self._places = places
        self._caller = Caller.from_json(batch.caller)
        self._metrics: BatchMetrics = runtime.metrics.batches
        self._checkpoint = Checkpoint(desk, batch.id, holder)
        self._look_again = asyncio.Event()

    @property
    def batch_id(self) -> str:
        return self._batch.id

    @property
    def tenant(self) -> str:
        return self._batch.tenant

    def look(self) -> None:
        """Something may have changed: look now."""
        self._look_again.set()

    async def __call__(self) -> None:
        """To its end. Cancelled, it lets go of the batch: whoever runs it next goes on from here."""
        try:
            await self._to_the_end()
        except LeaseLost:
            _log.info("another gateway runs %s", self._batch.id)
        except asyncio.CancelledError:
            await self._let_go()
            raise
        except Exception:
            # Still held: else it would be tried again at once.
            _log.exception("%s stays as it is until its time is up", self._batch.id)

    async def _to_the_end(self) -> None:
        with ExitStack() as stack:
            source: InputFile | None = None
            end = _End("completed")
            try:
                async with self._kept(self._check):
                    source = stack.enter_context(await self._open())
                    await self._answer_all(source)
            except _End as other:
                end = other
            async with self._kept(self._hold):
                await self._patiently(partial(self._finish, end, source))

    @asynccontextmanager
    async def _kept(self, check: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """While it lasts, this gateway says that it runs the batch. Raises what `check` raises, _End or
        LeaseLost, and then the block is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep(check))
                yield
                keeping.cancel()
        except ExceptionGroup as failures:
            raise _meaning(failures) from None

    async def _keep(self, check: Callable[[], Awaitable[None]]) -> None:
        takeover_s = self._desk.settings.batches.takeover
        while True:
            # While the database is away it goes on: if somebody takes the batch over, no write will succeed.
            with suppress(AdaptiveLoraError):
                await check()
            left_s = (self._batch.expires_at - self._desk.now()).total_seconds()
            pause_s = takeover_s / SIGNS_OF_LIFE
            self._look_again.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause_s, left_s) if left_s > 0 else pause_s):
                    await self._look_again.wait()

    async def _hold(self) -> None:
        until = self._desk.now() + timedelta(seconds=self._desk.settings.batches.takeover)
        self._batch = await self._desk.call(
            lambda stores: stores.runs.hold(self._batch.id, self._holder, until=until)
        )

    async def _check(self) -> None:
        """Raises _End if it should not go on."""
        await self._hold()
        if self._batch.status == "cancelling":
            raise _End("cancelled")
        if self._batch.status == "finalizing":
            return  # all is answered
        if self._desk.now() >= self._batch.expires_at:
            raise _End("expired")
        self._check_credential()

    def _check_credential(self) -> None:
        """Raises _End if it is good no more, RegistryUnavailable if that cannot be known. From memory."""
        if self._gate is None:
            return
        try:
            self._gate.check_still(self._caller.principal)
        except Unauthenticated as error:
            what = {"code": "credential_invalid", "message": error.message, "param": None, "line": None}
            raise _End("failed", [what]) from None

    async def _open(self) -> InputFile:
        """Raises _End if the file is no batch's input."""
        try:
            return await self._patiently(lambda: self._desk.call(self._open_file))
        except Refused as refusal:
            raise _End("failed", refusal.errors) from None
        except NotFound:
            message = "the content of the input file is gone"
            error = {"code": "input_file_gone", "message": message, "param": "input_file_id", "line": None}
            raise _End("failed", [error]) from None

    def _open_file(self, stores: Stores) -> InputFile:
        """Blocks. Raises Refused, and what reading the file raises."""
        settings = self._desk.settings
        size = stores.files.size_of(self._batch.input_file_id)
        return InputFile(
            stores.contents.fetch(self._batch.input_file_id, size),
            self._batch.endpoint,
            max_requests=settings.batches.max_requests,
            max_line_bytes=settings.api.max_body_bytes,
        )

    async def _answer_all(self, source: InputFile) -> None:
        await self._advance("validating", "in_progress", len(source))
        done = await self._patiently(lambda: self._desk.call(lambda stores: stores.runs.done(self._batch.id)))
        left = iter([index for index in range(len(source)) if index not in done])
        n_workers = self._desk.settings.batches.max_in_flight
        async with asyncio.TaskGroup() as group:
            for _ in range(min(n_workers, len(source) - len(done))):
                group.create_task(self._work(source, left))
        await self._advance("in_progress", "finalizing", len(source))

    async def _advance(self, before: Any, after: Any, n_requests: int) -> None:
        """Raises _End if a caller has cancelled the batch meanwhile."""
        self._batch = await self._patiently(
            lambda: self._desk.call(
                lambda stores: stores.runs.advance(
                    self._batch.id, self._holder, before, after, now=self._desk.now(), n_requests=n_requests
                )
            )
        )
        if self._batch.status == "cancelling":
            raise _End("cancelled")

    async def _work(self, source: InputFile, left: Iterator[int]) -> None:
        answering = Answering(self._runtime, self._caller, self._batch.endpoint)
        for index in left:
            result = await self._answer(answering, source, index)
            await self._patiently(partial(self._checkpoint.add, result))
            self._metrics.item("failed" if result.is_error else "completed")

    async def _answer(self, answering: Answering, source: InputFile, index: int) -> Result:
        """The answer to one request, however long that takes."""
        n_tries = n_waits = 0
        while True:
            try:
                async with self._places:
                    self._check_credential()
                    line = await self._desk.run(partial(source.read, index))
                    return await answering.answer(
                        line, index, deadline=self._deadline(), is_last_try=n_tries + 1 >= MAX_TRIES
                    )
            except TryLater as later:
                n_tries += later.counts
                seconds = wait_s(later.error, n_waits)
            except RegistryUnavailable as error:
                seconds = wait_s(error, n_waits)
            n_waits += 1
            self._metrics.item("retried")
            await asyncio.sleep(seconds)

    def _deadline(self) -> float:
        """The window's end, on the event loop's clock: what is asked for in a batch has that long."""
        left_s = (self._batch.expires_at - self._desk.now()).total_seconds()
        return asyncio.get_running_loop().time() + max(left_s, 0.0)

    async def _finish(self, end: _End, source: InputFile | None) -> None:
        await self._checkpoint.settle()
        now, batches = self._desk.now(), self._desk.settings.batches
        keep_s = min(self._batch.output_seconds or batches.retention, batches.retention)
        until = now + timedelta(seconds=batches.takeover)

        def finish(stores: Stores) -> None:
            batch = stores.runs.hold(self._batch.id, self._holder, until=until)
            with ExitStack() as stack:
                known = source
                is_input = end.ending != "failed" or batch.n_requests > 0
                if known is None and is_input:  # it ended before its file was opened
                    with suppress(AdaptiveLoraError, Refused):
                        known = stack.enter_context(self._open_file(stores))
                output, error_file = write_files(stores, batch, end.ending, known, now=now, keep_s=keep_s)
                n_requests = batch.n_requests if known is None else len(known)
            stores.runs.end(
                batch.id,
                self._holder,
                end.ending,
                now=now,
                n_requests=n_requests,
                n_failed=n_requests - batch.n_completed,
                errors=end.errors,
                output=output,
                error_file=error_file,
            )

        await self._desk.call(finish)
        self._metrics.ended(end.ending)
        _log.info("%s: %s", self._batch.id, end.ending)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        return await patiently(self._batch.id, work)

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._checkpoint.settle()
                await self._desk.call(lambda stores: stores.runs.release(self._batch.id, self._holder))
        except (AdaptiveLoraError, LeaseLost, TimeoutError):
            return  # it is taken over when its time is up


def new_holder() -> str:
    """A name for one claim; no other has it."""
    return secrets.token_hex(8)


def _meaning(failures: ExceptionGroup[Exception]) -> Exception:
    """Of what went wrong at once, what says most."""
    leaves = list(_leaves(failures))
    for kind in (LeaseLost, _End):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return failures


def _leaves(error: Exception) -> Iterator[Exception]:
    if not isinstance(error, ExceptionGroup):
        yield error
        return
    for each in error.exceptions:
        yield from _leaves(each)
