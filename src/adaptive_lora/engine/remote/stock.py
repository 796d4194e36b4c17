"""Talking to a `vllm serve` without our plugin: its OpenAI endpoints, and `/tokenize`.

Prompts go there as token ids, so that what the model sees is what was counted. Adapters are loaded by their
path, which the worker must see under the same name, and need VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 there. It
cannot pin, cannot tell where adapters are, and forgets an unloaded adapter without freeing its memory before
others need it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import msgspec

from adaptive_lora.engine.remote import wire
from adaptive_lora.engine.remote.dialects import (
    ASK_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    SCORE_TIMEOUT_S,
    worker_failure,
)
from adaptive_lora.engine.remote.transport import Transport, WorkerFailed
from adaptive_lora.engine.sampling import FINISH_REASONS, invalid, unfit_schema
from adaptive_lora.errors import AdapterError, InvalidRequest, PromptTooLong, UnknownAdapter, Unsupported
from adaptive_lora.telemetry import tracing
from adaptive_lora.types import (
    AdapterVersion,
    DeviceMemory,
    GenerateRequest,
    Prompt,
    SamplingConfig,
    TokenChunk,
    TokenLogprob,
)

LOWEST_LOGPROB = -9999.0
"""What vLLM writes for minus infinity, which JSON does not have."""

_FAILED = (500, "Internal server error")
"""How vLLM says that one request failed in the engine, in the stream: with a JSON schema, for its grammar's
sake."""


class StockDialect:
    """`info` must be asked first: it learns the base model's name and context."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._model = ""
        self._max_model_len = 0

    async def info(self) -> wire.WorkerInfo:
        card = (await self._ask("GET", "/v1/models"))["data"][0]
        self._model, self._max_model_len = card["id"], card["max_model_len"]
        version = (await self._ask("GET", "/version"))["version"]
        return wire.WorkerInfo(
            boot_id="",
            version="",
            vllm_version=version,
            model_name=self._model,
            fingerprint=None,
            max_model_len=self._max_model_len,
            max_loras=0,
            max_cpu_loras=0,
            max_lora_rank=0,
        )

    async def stats(self) -> None:
        return None

    async def device_memory(self) -> tuple[DeviceMemory, ...]:
        raise _without_plugin("tell how much memory it uses")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        ids = await self._tokenize(request.prompt)
        room = self._max_model_len - len(ids)
        if room < 1:
            raise PromptTooLong(
                f"the prompt is too long: {len(ids)} tokens; the model's context is {self._max_model_len}, "
                "and at least one must be left for the answer"
            )
        model = request.adapter_id or self._model
        body = completion_body(model, ids, request.sampling, room, request.cache_salt)
        headers = tracing.outgoing(request.request_id)
        path = "/v1/completions"
        async with self._transport.stream(path, msgspec.json.encode(body), headers) as answer:
            if answer.status != 200:
                raise _refusal(answer.status, await answer.body())
            n_unfinished = request.sampling.n
            is_new = True
            async for events in wire.read_events(answer.pieces()):
                chunks = _read_choices(wire.before_done(events), model, len(ids), request.sampling)
                for chunk in wire.join_chunks(chunks, is_new=is_new):
                    is_new = False
                    n_unfinished -= chunk.finish_reason is not None
                    answer.is_complete = not n_unfinished
                    yield chunk
                if wire.END in events:
                    return
            raise WorkerFailed("its answer was cut")

    async def count_tokens(self, prompt: Prompt) -> int:
        return len(await self._tokenize(prompt))

    async def answer_logprobs(self, prompt: Prompt, answer: str, adapter_id: str | None) -> tuple[float, ...]:
        ids = await self._tokenize(prompt)
        continuation = (await self._ask("POST", "/tokenize", _text(answer, add_special_tokens=False)))[
            "tokens"
        ]
        if not continuation:
            raise InvalidRequest("the answer is empty")
        if len(ids) + len(continuation) >= self._max_model_len:
            raise PromptTooLong(
                f"prompt and answer have {len(ids) + len(continuation)} tokens; the model's context is "
                f"{self._max_model_len}"
            )
        model = adapter_id or self._model
        body = {
            "model": model,
            "prompt": ids + continuation,
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        answered = await self._ask("POST", "/v1/completions", body, SCORE_TIMEOUT_S)
        if answered["model"] != model:
            raise UnknownAdapter(f"the worker has no {model!r}: {answered['model']!r} answered instead")
        scored = answered["choices"][0]["prompt_logprobs"][len(ids) :]
        return tuple(entry[str(token)]["logprob"] for token, entry in zip(continuation, scored, strict=True))

    async def load(self, adapter: AdapterVersion) -> None:
        body = {"lora_name": adapter.id, "lora_path": str(adapter.path)}
        status, data = await self._call("POST", "/v1/load_lora_adapter", body, LOAD_TIMEOUT_S)
        if status == 404 and b"lora" not in data.lower():
            raise Unsupported(
                "this worker cannot load adapters: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and "
                "--enable-lora, or with our plugin"
            )
        if status == 404:
            raise UnknownAdapter(f"the worker does not find {adapter.path}: mount the same folder there")
        if status != 200 and b"already been loaded" not in data:
            if status in (401, 403):
                raise worker_failure(status)
            raise AdapterError(f"the worker refuses {adapter.id}: {_message(data)}")

    async def unload(self, adapter_id: str) -> None:
        body = {"lora_name": adapter_id}
        status, data = await self._call("POST", "/v1/unload_lora_adapter", body, LOAD_TIMEOUT_S)
        if status not in (200, 404):
            raise _refusal(status, data)

    async def pin(self, adapter_id: str) -> None:
        raise _without_plugin("pin adapters")

    async def unpin(self, adapter_id: str) -> None:
        raise _without_plugin("unpin adapters")

    async def _tokenize(self, prompt: Prompt) -> list[int]:
        """Token ids as the model will see them; conversations by the worker's own template."""
        if isinstance(prompt, str):
            body = _text(prompt)
        else:
            body = {"messages": [{"role": m.role, "content": m.content} for m in prompt]}
        try:
            ids = (await self._ask("POST", "/tokenize", body))["tokens"]
        except InvalidRequest as error:
            if isinstance(prompt, str) or "chat template" not in error.message:
                raise
            if len(prompt) != 1 or prompt[0].role != "user":
                raise Unsupported(
                    "this base model has no chat template; send one user message, or use the completions "
                    "endpoint"
                ) from error
            return await self._tokenize(prompt[0].content)
        if not ids:
            raise InvalidRequest("the prompt is empty")
        return list(ids)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = ASK_TIMEOUT_S
    ) -> dict[str, Any]:
        status, data = await self._call(method, path, body, timeout_s)
        if status != 200:
            raise _refusal(status, data)
        return _parsed(data)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> tuple[int, bytes]:
        content = None if body is None else msgspec.json.encode(body)
        return await self._transport.call(method, path, content, timeout_s=timeout_s)


def completion_body(
    model: str, ids: list[int], sampling: SamplingConfig, room: int, cache_salt: str | None = None
) -> dict[str, Any]:
    """A streamed request to /v1/completions. Every parameter is given: a model's generation_config must not
    fill in what we leave out."""
    max_tokens = min(sampling.max_tokens, room)
    body: dict[str, Any] = {
        "model": model,
        "prompt": ids,
        "stream": True,
        "return_token_ids": True,
        "n": sampling.n,
        "max_tokens": max_tokens,
        "min_tokens": min(sampling.min_tokens, max_tokens) if max_tokens == room else sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "logprobs": sampling.logprobs,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "ignore_eos": sampling.ignore_eos,
    }
    if sampling.json_schema is not None:
        body["structured_outputs"] = {"json": dict(sampling.json_schema) or {"type": "object"}}
    if cache_salt is not None:
        body["cache_salt"] = cache_salt
    return body


def _read_choices(
    events: list[bytes], model: str, n_prompt_tokens: int, sampling: SamplingConfig
) -> Iterator[TokenChunk]:
    """Raises the error that is one of the events, and UnknownAdapter if another model answers."""
    for data in events:
        event = _parsed(data)
        if "error" in event:
            status = event["error"].get("code", 500)
            if sampling.json_schema is not None and (status, _message(data)) == _FAILED:
                raise unfit_schema()
            raise _refusal(status, data)
        if event["model"] != model:
            # With VLLM_SKIP_MODEL_NAME_VALIDATION the base answers for whoever is unknown.
            raise UnknownAdapter(f"the worker has no {model!r}: {event['model']!r} answered instead")
        for choice in event["choices"]:
            yield read_choice(choice, n_prompt_tokens, sampling.logprobs)


def read_choice(choice: Mapping[str, Any], n_prompt_tokens: int, n_logprobs: int | None) -> TokenChunk:
    reason = choice.get("finish_reason")
    if reason is not None and reason not in FINISH_REASONS:
        raise WorkerFailed("it failed to finish the request")
    logprobs = None
    if n_logprobs is not None and choice.get("logprobs") is not None:
        given = choice["logprobs"]
        logprobs = tuple(
            TokenLogprob(token, _floor(logprob), _alternatives(top, n_logprobs))
            for token, logprob, top in zip(
                given["tokens"], given["token_logprobs"], given["top_logprobs"], strict=True
            )
        )
    return TokenChunk(
        index=choice["index"],
        text=choice["text"],
        n_tokens=len(choice.get("token_ids") or ()),
        n_prompt_tokens=n_prompt_tokens,
        logprobs=logprobs,
        finish_reason=None if reason is None else FINISH_REASONS[reason],
    )


def _alternatives(top: Mapping[str, float] | None, n: int) -> tuple[tuple[str, float], ...]:
    """vLLM adds the sampled token to the `n` likeliest. Two tokens of the same text are one key here."""
    ranked = sorted((top or {}).items(), key=lambda entry: -entry[1])[:n]
    return tuple((token, _floor(logprob)) for token, logprob in ranked)


def _floor(logprob: float) -> float:
    return -math.inf if logprob <= LOWEST_LOGPROB else logprob


def _text(text: str, **options: Any) -> dict[str, Any]:
    return {"prompt": text, **options}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(data)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise WorkerFailed("it answers with what is no JSON object")
    return content


def _message(data: bytes) -> str:
    try:
        content = msgspec.json.decode(data)
        return str(content["error"]["message"]).splitlines()[0][:300]
    except (ValueError, TypeError, KeyError, IndexError):
        return "it does not say why"


def _refusal(status: int, data: bytes) -> Exception:
    """vLLM's error as ours: 400 is the request's fault, 404 an unknown model, the rest the worker's."""
    match status:
        case 400 | 422:
            return invalid(_message(data))
        case 404 if b"does not exist" in data:
            return UnknownAdapter(f"the worker has no such adapter: {_message(data)}")
        case 503:
            return WorkerFailed("its queue is full", blameless=True)
        case _:
            return worker_failure(status)


def _without_plugin(what: str) -> Unsupported:
    return Unsupported(f"a stock vLLM server cannot {what}: start the worker with our plugin (VLLM_PLUGINS)")
