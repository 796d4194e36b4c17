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
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from adaptive_lora.batches.records import Batch
from adaptive_lora.batches.run_store import Ending, LeaseLost
from adaptive_lora.batches.stores import Stores
from adaptive_lora.errors import AdaptiveLoraError, NotFound, RateLimited, StorageError, Unauthenticated
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.batches.callers import Caller
from adaptive_lora.serving.batches.checkpoint import Checkpoint
from adaptive_lora.serving.batches.desk import Desk
from adaptive_lora.serving.batches.items import MAX_TRIES, Answering, TryLater
from adaptive_lora.serving.batches.lines import InputFile, Refused
from adaptive_lora.serving.batches.outcome import write_files
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.telemetry.batches import BatchMetrics

T = TypeVar("T")
_log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.5
MAX_WAIT_S: Final = 30.0
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
            try:
                await check()
            except Unauthenticated as error:
                what = {"code": "credential_invalid", "message": error.message, "param": None, "line": None}
                raise _End("failed", [what]) from None
            except AdaptiveLoraError:
                pass  # the database is away: if somebody takes the batch over meanwhile, it will say so
            left_s = (self._batch.expires_at - self._desk.now()).total_seconds()
            wait_s = takeover_s / SIGNS_OF_LIFE
            self._look_again.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, left_s) if left_s > 0 else wait_s):
                    await self._look_again.wait()

    async def _hold(self) -> None:
        until = self._desk.now() + timedelta(seconds=self._desk.settings.batches.takeover)
        self._batch = await self._desk.call(
            lambda stores: stores.runs.hold(self._batch.id, self._holder, until=until)
        )

    async def _check(self) -> None:
        """Raises _End if it should not go on; Unauthenticated, if for its credential."""
        await self._hold()
        if self._batch.status == "cancelling":
            raise _End("cancelled")
        if self._batch.status == "finalizing":
            return  # all is answered
        if self._desk.now() >= self._batch.expires_at:
            raise _End("expired")
        if self._gate is not None:
            self._gate.check_still(self._caller.principal)

    async def _open(self) -> InputFile:
        """Raises _End if the file is no batch's input."""
        batch, settings = self._batch, self._desk.settings

        def open_file(stores: Stores) -> InputFile:
            size = stores.files.size_of(batch.input_file_id)
            path = stores.contents.fetch(batch.input_file_id, size)
            return InputFile(
                path,
                batch.endpoint,
                max_requests=settings.batches.max_requests,
                max_line_bytes=settings.api.max_body_bytes,
            )

        try:
            return await self._patiently(lambda: self._desk.call(open_file))
        except Refused as refusal:
            raise _End("failed", refusal.errors) from None
        except NotFound:
            message = "the content of the input file is gone"
            error = {"code": "input_file_gone", "message": message, "param": "input_file_id", "line": None}
            raise _End("failed", [error]) from None

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
            n_tries = n_waits = 0
            while True:
                wait_s = None
                async with self._places:
                    line = await self._desk.run(partial(source.read, index))
                    try:
                        result = await answering.answer(
                            line, index, deadline=self._deadline(), is_last_try=n_tries + 1 >= MAX_TRIES
                        )
                    except TryLater as later:
                        n_tries += later.counts
                        wait_s = _wait_s(later.error, n_waits)
                if wait_s is None:
                    break
                n_waits += 1
                self._metrics.item("retried")
                await asyncio.sleep(wait_s)
            await self._patiently(partial(self._checkpoint.add, result))
            self._metrics.item("failed" if result.is_error else "completed")

    def _deadline(self) -> float:
        """The window's end, on the event loop's clock: what is asked for in a batch has that long."""
        left_s = (self._batch.expires_at - self._desk.now()).total_seconds()
        return asyncio.get_running_loop().time() + max(left_s, 0.0)

    async def _finish(self, end: _End, source: InputFile | None) -> None:
        await self._checkpoint.settle()
        now, batches = self._desk.now(), self._desk.settings.batches
        keep_s = min(self._batch.output_seconds or batches.retention, batches.retention)

        def finish(stores: Stores) -> None:
            output, error_file, n_unanswered = write_files(
                stores, self._batch, end.ending, source, now=now, keep_s=keep_s
            )
            stores.runs.end(
                self._batch.id,
                self._holder,
                end.ending,
                now=now,
                n_unanswered=n_unanswered,
                errors=end.errors,
                output=output,
                error_file=error_file,
            )

        await self._desk.call(finish)
        self._metrics.ended(end.ending)
        _log.info("%s: %s", self._batch.id, end.ending)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """`work`, again and again while database or storage are away or full."""
        n_waits = 0
        while True:
            try:
                return await work()
            except AdaptiveLoraError as error:
                if not error.retryable and not isinstance(error, StorageError):
                    raise
                if n_waits == 0:
                    _log.warning("%s waits: %s", self._batch.id, error.message)
                wait_s = _wait_s(error, n_waits)
            n_waits += 1
            await asyncio.sleep(wait_s)

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


def _wait_s(error: AdaptiveLoraError, n_waits: int) -> float:
    """Longer each time, and never at the same moment as others."""
    wait_s = float(min(FIRST_WAIT_S * 2 ** min(n_waits, 10), MAX_WAIT_S))
    if isinstance(error, RateLimited):
        wait_s = max(wait_s / 4, min(error.retry_after_s, MAX_WAIT_S))
    return wait_s * random.uniform(0.8, 1.2)
