"""VLLMInferenceEngine: vLLM's AsyncLLM in process. Its engine core and workers are processes of their own."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from adaptive_lora.engine import collect, lifeline, sampling
from adaptive_lora.engine.in_flight import InFlight
from adaptive_lora.engine.prompts import PromptEncoder
from adaptive_lora.engine.salts import check_salt
from adaptive_lora.engine.threads import in_daemon_thread
from adaptive_lora.engine.vllm_args import VLLMOptions, engine_arguments, prepare_environment
from adaptive_lora.engine.vllm_stats import (
    PublishedSnapshot,
    SchedulerSnapshot,
    capture_into,
    gpu_memory_usage,
)
from adaptive_lora.errors import (
    AdapterError,
    AdaptiveLoraError,
    EngineDead,
    EngineError,
    EngineNotReady,
    InvalidRequest,
    PromptTooLong,
    RankTooLarge,
    UnknownAdapter,
    Unsupported,
)
from adaptive_lora.telemetry import tracing
from adaptive_lora.types import (
    AdapterVersion,
    Completion,
    DeviceMemory,
    EngineStats,
    GenerateRequest,
    Prompt,
    Residency,
    SamplingConfig,
    TokenChunk,
)

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

logger = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_S = 20.0
"""For vLLM's processes to end by themselves; vLLM's own 5 s end in a kill."""


class VLLMInferenceEngine:
    """The engine of production and of laptops: the same vLLM API on GPUs and CPUs.

    The keywords beyond the first three are those of `VLLMOptions`. Nothing heavy happens before `start`.
    """

    def __init__(
        self,
        model_name: str,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        **options: Any,
    ) -> None:
        self._options = VLLMOptions(model_name, tensor_parallel_size, gpu_memory_utilization, **options)
        self.model_name = model_name
        self.max_model_len = 0
        self.dtype: str | None = None
        """Of the activations, "bfloat16" and the like. Known once started."""
        self._state = "new"
        self._llm: Any = None
        self._encoder: PromptEncoder
        self._is_traced = False
        self._snapshot: SchedulerSnapshot | PublishedSnapshot = SchedulerSnapshot()
        self._adapters: dict[str, AdapterVersion] = {}
        self._lora_ids: dict[str, int] = {}  # never shrinks: an id stands for the same weights for ever
        self._new_lora_id: Callable[[str], int] = lambda adapter_id: len(self._lora_ids) + 1
        self._in_flight = InFlight(self._options.max_loras)
        self._pinning = asyncio.Lock()

    @classmethod
    def attached(
        cls, llm: Any, *, new_lora_id: Callable[[str], int], chat_template: str | None = None
    ) -> VLLMInferenceEngine:
        """An engine on an AsyncLLM that runs already, in the care of a `vllm serve`: neither start nor stop
        it.

        Its workers must have the calls of `worker_extension`. `new_lora_id` numbers an adapter as the server
        does; `chat_template` replaces the tokenizer's own.
        """
        config = llm.vllm_config
        engine = cls(
            config.model_config.model,
            tensor_parallel_size=config.parallel_config.tensor_parallel_size,
            max_loras=config.lora_config.max_loras,
            max_cpu_loras=config.lora_config.max_cpu_loras or config.lora_config.max_loras,
            max_lora_rank=config.lora_config.max_lora_rank,
        )
        engine._llm = llm
        engine._snapshot = PublishedSnapshot()
        engine._new_lora_id = new_lora_id
        engine._ready(chat_template)
        return engine

    @property
    def adapters(self) -> Mapping[str, AdapterVersion]:
        return MappingProxyType(self._adapters)

    async def start(self) -> None:
        try:
            self._llm = await in_daemon_thread(self._construct)
        except AdaptiveLoraError:
            raise
        except Exception as error:
            logger.exception("vLLM did not start")
            raise EngineError(f"vLLM did not start: {_first_line(error)}") from error
        self._ready()

    def _ready(self, chat_template: str | None = None) -> None:
        self.max_model_len = self._llm.model_config.max_model_len
        self._is_traced = self._llm.observability_config.otlp_traces_endpoint is not None
        self.dtype = str(self._llm.model_config.dtype).removeprefix("torch.")
        tokenizer = self._llm.get_tokenizer()
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        self._encoder = PromptEncoder(tokenizer)
        self._state = "ready"

    def _construct(self) -> Any:
        prepare_environment()
        lifeline.announce()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        snapshot = self._snapshot = SchedulerSnapshot()
        arguments = AsyncEngineArgs(**engine_arguments(self._options))
        return AsyncLLM.from_engine_args(arguments, stat_loggers=[capture_into(snapshot)])

    async def stop(self) -> None:
        if self._state != "stopped" and self._llm is not None:
            self._state = "stopped"
            if not self._llm.errored:
                await self._llm.abort(await self._in_flight.abort_all())
                await asyncio.sleep(0)  # lets the streams end before their source goes
            llm, self._llm = self._llm, None
            if llm.output_handler is not None:
                llm.output_handler.cancel()  # else it logs the end of its source as a dead engine
            await asyncio.to_thread(llm.shutdown, SHUTDOWN_TIMEOUT_S)
            llm.shutdown = lambda: None  # vLLM's __del__ calls it once more when Python exits, and fails
        self._state = "stopped"
        self._adapters.clear()

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        return self._generate(request)

    async def _generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self._check()
        request_id, adapter_id = request.request_id, request.adapter_id
        check_salt(request.cache_salt)
        lora = self._lora_request(adapter_id) if adapter_id is not None else None
        if request_id in self._in_flight:
            raise InvalidRequest("a request with this id is running; ids must be unique")
        self._in_flight.add(request_id, adapter_id)
        try:
            ids = await self._encoder.encode(request.prompt)
            room = self.max_model_len - len(ids)
            if room < 1:
                raise PromptTooLong(
                    f"the prompt is too long: {len(ids)} tokens; the model's context is "
                    f"{self.max_model_len}, and at least one must be left for the answer"
                )
            parameters = sampling.to_vllm(request.sampling, room)
            await self._in_flight.enter(request_id)
            if self._in_flight.is_aborted(request_id):  # it never reached vLLM
                for index in range(request.sampling.n):
                    yield TokenChunk(index, "", 0, len(ids), finish_reason="abort")
                return
            async for chunk in self._stream(request, ids, parameters, lora):
                yield chunk
        finally:
            await self._in_flight.remove(request_id)

    async def _stream(
        self, request: GenerateRequest, ids: list[int], parameters: Any, lora: LoRARequest | None
    ) -> AsyncIterator[TokenChunk]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        wanted_logprobs = request.sampling.logprobs
        is_structured = request.sampling.json_schema is not None
        unfinished = set(range(request.sampling.n))
        prompt = tokens_input(ids, cache_salt=request.cache_salt)
        outputs = self._llm.generate(
            prompt,
            parameters,
            request.request_id,
            lora_request=lora,
            trace_headers=tracing.outgoing(request.request_id) if self._is_traced else None,
        )
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    for choice in output.outputs:
                        reason = sampling.finish_reason(choice.finish_reason, structured=is_structured)
                        if reason is not None:
                            unfinished.discard(choice.index)
                        yield TokenChunk(
                            index=choice.index,
                            text=choice.text,
                            n_tokens=len(choice.token_ids),
                            n_prompt_tokens=len(ids),
                            logprobs=sampling.token_logprobs(
                                choice.token_ids, choice.logprobs, wanted_logprobs
                            ),
                            finish_reason=reason,
                        )
        except EngineDeadError as error:
            raise _dead() from error
        except (VLLMClientError, ValueError) as error:
            raise sampling.invalid(error) from error
        except AdaptiveLoraError:
            raise
        except Exception as error:
            logger.exception("request %s failed in the engine", request.request_id)
            raise EngineError("the engine failed on this request; see the server's log") from error
        if unfinished and not self._in_flight.is_aborted(request.request_id):
            raise EngineError("the engine ended a stream without finishing it; see the server's log")
        for index in sorted(unfinished):
            yield TokenChunk(index, "", 0, len(ids), finish_reason="abort")

    async def generate_batch(
        self,
        prompts: Sequence[Prompt],
        config: SamplingConfig | None = None,
        adapter_ids: Sequence[str | None] | None = None,
    ) -> list[Completion]:
        self._check()
        return await collect.complete_batch(self, prompts, config, adapter_ids)

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        self._check()
        lora = self._lora_request(adapter_id) if adapter_id is not None else None
        ids = await self._encoder.encode(prompt)
        continuation = await self._encoder.encode_answer(answer)
        if len(ids) + len(continuation) >= self.max_model_len:
            raise PromptTooLong(
                f"prompt and answer have {len(ids) + len(continuation)} tokens; the model's context is "
                f"{self.max_model_len}"
            )
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        request_id = f"score-{uuid.uuid4().hex}"
        self._in_flight.add(request_id, adapter_id)
        try:
            await self._in_flight.enter(request_id)
            self._check()
            outputs = self._llm.generate(
                tokens_input(ids + continuation), sampling.scoring(), request_id, lora_request=lora
            )
            scored = None
            async for output in outputs:
                scored = output.prompt_logprobs
        except EngineDeadError as error:
            raise _dead() from error
        finally:
            await self._in_flight.remove(request_id)
        if scored is None:
            raise EngineNotReady("the engine stopped while it read the answer")
        return tuple(scored[len(ids) + i][token].logprob for i, token in enumerate(continuation))

    async def load(self, adapter: AdapterVersion) -> None:
        self._check()
        if not self._options.enable_lora:
            raise Unsupported("this engine was started without LoRA")
        if adapter.id in self._adapters:
            return
        if adapter.rank > self._options.max_lora_rank:
            raise RankTooLarge(
                f"{adapter.id} has rank {adapter.rank}; adapters.max_lora_rank allows "
                f"{self._options.max_lora_rank}"
            )
        if adapter.id not in self._lora_ids:
            self._lora_ids[adapter.id] = self._new_lora_id(adapter.id)
        lora_id = self._lora_ids[adapter.id]
        try:
            loaded = await self._llm.add_lora(_lora_request(adapter, lora_id))
        except Exception as error:
            self._check()
            logger.warning("the engine refuses adapter %s", adapter.id, exc_info=True)
            raise AdapterError(f"the engine refuses {adapter.id}: {_first_line(error)}") from error
        if not loaded:
            raise AdapterError(f"the engine refuses {adapter.id}; see the server's log")
        self._adapters[adapter.id] = adapter

    async def unload(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        del self._adapters[adapter_id]
        await self._in_flight.drained(adapter_id)
        async with self._pinning:
            if self._state != "ready":
                return
            await self._unpin(adapter_id)
            if adapter_id not in self._adapters:  # else loaded again meanwhile
                await self._ask(self._llm.remove_lora(self._lora_ids[adapter_id]))

    async def pin(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        async with self._pinning:
            if adapter_id in self._in_flight.pinned:
                return
            await self._in_flight.pin(adapter_id)
            try:
                self._check()
                lora = self._lora_request(adapter_id)  # UnknownAdapter if it was unloaded meanwhile
                await self._ask(self._llm.add_lora(lora))  # it may be on disk alone
                await self._ask(self._llm.pin_lora(lora.lora_int_id))
            except BaseException:
                await self._in_flight.unpin(adapter_id)
                raise

    async def unpin(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        async with self._pinning:
            self._check()
            await self._unpin(adapter_id)

    async def _unpin(self, adapter_id: str) -> None:
        if adapter_id in self._in_flight.pinned:
            await self._ask(self._llm.collective_rpc("unpin_lora", args=(self._lora_ids[adapter_id],)))
            await self._in_flight.unpin(adapter_id)

    async def residency(self) -> Mapping[str, Residency]:
        self._check()
        if not self._adapters:
            return {}
        in_slots, in_host_memory = map(set, (await self._ask(self._llm.collective_rpc("lora_slots")))[0])
        return {
            adapter_id: "slot" if i in in_slots else "host" if i in in_host_memory else "disk"
            for adapter_id in self._adapters
            for i in [self._lora_ids[adapter_id]]
        }

    async def prefetch(self, adapter_id: str) -> None:
        """Begin to read the adapter's files, if it may be on disk alone. Unknown id: no-op."""
        adapter = self._adapters.get(adapter_id)
        if adapter is None or len(self._adapters) <= self._options.max_cpu_loras:
            return
        self._check()
        arguments = (self._lora_ids[adapter_id], adapter.id, str(adapter.path))
        await self._ask(self._llm.collective_rpc("prefetch_lora", args=arguments))

    async def list(self) -> list[AdapterVersion]:
        self._check()
        return [self._adapters[i] for i in sorted(self._adapters)]

    async def abort(self, request_id: str) -> None:
        self._check()
        if request_id in self._in_flight:
            await self._in_flight.abort(request_id)
            await self._llm.abort(request_id)

    async def stats(self) -> EngineStats:
        self._check()
        in_flight = len(self._in_flight)
        running = min(self._snapshot.running, in_flight)
        return EngineStats(
            running=running,
            waiting=in_flight - running,
            kv_cache_usage=self._snapshot.kv_cache_usage if in_flight else 0.0,
            gpu_memory_usage=gpu_memory_usage(self._options.n_workers),
            loaded_adapters=len(self._adapters),
            n_preemptions=self._snapshot.n_preemptions,
        )

    async def device_memory(self) -> Sequence[DeviceMemory]:
        self._check()
        answers = await self._ask(self._llm.collective_rpc("device_memory"))
        found = [
            DeviceMemory(str(rank), device, **figures)
            for rank, devices in enumerate(answers)
            for device, figures in devices.items()
        ]
        if not found:
            raise Unsupported("the engine computes on the CPU: there is no device memory")
        return found

    async def count_tokens(self, prompt: Prompt) -> int:
        self._check()
        return len(await self._encoder.encode(prompt))

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await answer
        except EngineDeadError as error:
            raise _dead() from error

    def _check(self) -> None:
        if self._state != "ready":
            raise EngineNotReady("the engine is not running; retry when /ready answers 200")
        if self._llm.errored:
            raise _dead()

    def _known(self, adapter_id: str) -> AdapterVersion:
        if adapter_id not in self._adapters:
            raise UnknownAdapter(f"no adapter {adapter_id!r} is loaded")
        return self._adapters[adapter_id]

    def _lora_request(self, adapter_id: str) -> LoRARequest:
        return _lora_request(self._known(adapter_id), self._lora_ids[adapter_id])


def _lora_request(adapter: AdapterVersion, lora_id: int) -> LoRARequest:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=adapter.id, lora_int_id=lora_id, lora_path=str(adapter.path))


def _dead() -> EngineDead:
    return EngineDead("the engine's process is gone; restart the server")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
