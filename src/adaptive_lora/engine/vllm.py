"""VLLMInferenceEngine: vLLM's AsyncLLM in process. Its engine core and workers are processes of their own."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from adaptive_lora.engine import collect, lifeline, sampling
from adaptive_lora.engine.prompts import PromptEncoder
from adaptive_lora.engine.threads import in_daemon_thread
from adaptive_lora.engine.vllm_args import VLLMOptions, engine_arguments, prepare_environment
from adaptive_lora.engine.vllm_stats import SchedulerSnapshot, capture_into, gpu_memory_usage
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
from adaptive_lora.types import (
    AdapterVersion,
    Completion,
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
        self._state = "new"
        self._llm: Any = None
        self._encoder: PromptEncoder
        self._snapshot = SchedulerSnapshot()
        self._adapters: dict[str, AdapterVersion] = {}
        self._lora_ids: dict[str, int] = {}  # never shrinks: an id stands for the same weights for ever
        self._pinned: set[str] = set()
        self._in_flight: dict[str, str | None] = {}  # request id -> adapter id
        self._in_flight_changed = asyncio.Condition()
        self._aborted: set[str] = set()

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
        self.max_model_len = self._llm.model_config.max_model_len
        self._encoder = PromptEncoder(self._llm.get_tokenizer())
        self._state = "ready"

    def _construct(self) -> Any:
        prepare_environment()
        lifeline.announce()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**engine_arguments(self._options))
        return AsyncLLM.from_engine_args(arguments, stat_loggers=[capture_into(self._snapshot)])

    async def stop(self) -> None:
        if self._state != "stopped" and self._llm is not None:
            self._state = "stopped"
            if not self._llm.errored:
                self._aborted.update(self._in_flight)
                await self._llm.abort(list(self._in_flight))
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
        lora = self._lora_request(adapter_id) if adapter_id is not None else None
        if request_id in self._in_flight:
            raise InvalidRequest("a request with this id is running; ids must be unique")
        self._in_flight[request_id] = adapter_id
        try:
            ids = await self._encoder.encode(request.prompt)
            room = self.max_model_len - len(ids)
            if room < 1:
                raise PromptTooLong(
                    f"the prompt has {len(ids)} tokens; the model's context is {self.max_model_len}, "
                    "and at least one must be left for the answer"
                )
            async for chunk in self._stream(request, ids, sampling.to_vllm(request.sampling, room), lora):
                yield chunk
        finally:
            await self._ended(request_id)

    async def _ended(self, request_id: str) -> None:
        del self._in_flight[request_id]
        self._aborted.discard(request_id)
        async with self._in_flight_changed:
            self._in_flight_changed.notify_all()

    async def _stream(
        self, request: GenerateRequest, ids: list[int], parameters: Any, lora: LoRARequest | None
    ) -> AsyncIterator[TokenChunk]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        wanted_logprobs = request.sampling.logprobs
        unfinished = set(range(request.sampling.n))
        outputs = self._llm.generate(tokens_input(ids), parameters, request.request_id, lora_request=lora)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    for choice in output.outputs:
                        reason = sampling.finish_reason(choice.finish_reason)
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
            raise EngineDead("the engine's process is gone; restart the server") from error
        except (VLLMClientError, ValueError) as error:
            raise sampling.invalid(error) from error
        except AdaptiveLoraError:
            raise
        except Exception as error:
            logger.exception("request %s failed in the engine", request.request_id)
            raise EngineError("the engine failed on this request; see the server's log") from error
        if unfinished and request.request_id not in self._aborted:
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

        request_id = f"score-{uuid.uuid4().hex}"
        self._in_flight[request_id] = adapter_id
        try:
            outputs = self._llm.generate(
                tokens_input(ids + continuation), sampling.scoring(), request_id, lora_request=lora
            )
            async for output in outputs:
                scored = output.prompt_logprobs
        finally:
            await self._ended(request_id)
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
        if self._pinned and len(self._adapters) >= self._options.max_loras:
            raise Unsupported("while an adapter is pinned, no more than adapters.max_loras can be loaded")
        lora_id = self._lora_ids.setdefault(adapter.id, len(self._lora_ids) + 1)
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
        self._pinned.discard(adapter_id)
        async with self._in_flight_changed:
            await self._in_flight_changed.wait_for(lambda: adapter_id not in self._in_flight.values())
        if adapter_id not in self._adapters and self._state == "ready":  # else loaded again meanwhile
            await self._llm.remove_lora(self._lora_ids[adapter_id])

    async def pin(self, adapter_id: str) -> None:
        self._check()
        self._known(adapter_id)
        if len(self._adapters) > self._options.max_loras:
            # vLLM would pin the slot, evict a running request's adapter for want of another, and die.
            raise Unsupported(
                f"{len(self._adapters)} adapters share {self._options.max_loras} slots; "
                "raise adapters.max_loras to pin one"
            )
        await self._llm.pin_lora(self._lora_ids[adapter_id])
        self._pinned.add(adapter_id)

    async def unpin(self, adapter_id: str) -> None:
        raise NotImplementedError

    async def residency(self) -> Mapping[str, Residency]:
        raise NotImplementedError

    async def list(self) -> list[AdapterVersion]:
        self._check()
        return [self._adapters[i] for i in sorted(self._adapters)]

    async def abort(self, request_id: str) -> None:
        self._check()
        if request_id in self._in_flight:
            self._aborted.add(request_id)
            await self._llm.abort(request_id)

    async def stats(self) -> EngineStats:
        self._check()
        in_flight = len(self._in_flight)
        running = min(self._snapshot.running, in_flight)
        return EngineStats(
            running=running,
            waiting=in_flight - running,
            kv_cache_usage=self._snapshot.kv_cache_usage if in_flight else 0.0,
            gpu_memory_usage=gpu_memory_usage(self._options.tensor_parallel_size),
            loaded_adapters=len(self._adapters),
        )

    async def count_tokens(self, prompt: Prompt) -> int:
        self._check()
        return len(await self._encoder.encode(prompt))

    def _check(self) -> None:
        if self._state != "ready":
            raise EngineNotReady("the engine is not running; retry when /ready answers 200")
        if self._llm.errored:
            raise EngineDead("the engine's process is gone; restart the server")

    def _known(self, adapter_id: str) -> AdapterVersion:
        if adapter_id not in self._adapters:
            raise UnknownAdapter(f"no adapter {adapter_id!r} is loaded")
        return self._adapters[adapter_id]

    def _lora_request(self, adapter_id: str) -> LoRARequest:
        return _lora_request(self._known(adapter_id), self._lora_ids[adapter_id])


def _lora_request(adapter: AdapterVersion, lora_id: int) -> LoRARequest:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=adapter.id, lora_int_id=lora_id, lora_path=str(adapter.path))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
