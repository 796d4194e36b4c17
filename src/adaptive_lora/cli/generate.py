"""adaptive-lora generate"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptive_lora.cli.client import authorization
from adaptive_lora.cli.common import (
    AdaptersFolder,
    AsJson,
    BaseModel,
    Config,
    EngineName,
    console,
    print_json,
    settings_from,
)
from adaptive_lora.errors import AdaptiveLoraError, EngineError, InvalidRequest

if TYPE_CHECKING:
    from adaptive_lora.settings import Settings


def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer; '-' reads it from stdin.")],
    adapter: Annotated[str, typer.Option(help="'auto', 'base', or an agent, also with version.")] = "auto",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    url: Annotated[
        str | None, typer.Option(help="Ask this running server instead of starting an engine here.")
    ] = None,
    config: Config = None,
    base_model: BaseModel = None,
    adapters: AdaptersFolder = None,
    engine: EngineName = None,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt. Starts an engine in this process (tens of seconds), or asks a server with --url."""
    text = _prompt(prompt)
    if not text.strip():
        raise InvalidRequest("the prompt is empty")
    if url is not None:
        body = {"prompt": text, "adapter": adapter, "max_tokens": max_tokens, "temperature": temperature}
        answer = _ask_server(url, body)
        if not as_json:
            sys.stdout.write(answer["text"] + "\n")
    else:
        flags = {"model.base_model": base_model, "model.engine": engine, "adapters.path": adapters}
        settings = settings_from(config, flags)
        # A person waits for one answer: vLLM's notes about its start are for those who run a server.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        answer = asyncio.run(_ask_engine(settings, text, adapter, max_tokens, temperature, show=not as_json))
    if as_json:
        print_json(answer)
    else:
        console().print(
            f"{answer['adapter']} (version {answer['version']}, confidence {answer['confidence']:.2f}), "
            f"{answer['usage']['completion_tokens']} tokens, {answer['finish_reason']}, "
            f"{answer['latency_ms'] / 1000:.1f} s",
            style="dim",
            markup=False,
        )


def _prompt(given: str) -> str:
    """What was typed, or stdin's content. Raises InvalidRequest if it is not UTF-8."""
    try:
        text = sys.stdin.read() if given == "-" else given
        text.encode()  # bytes that are no text may have become lone surrogates
    except UnicodeError as error:
        raise InvalidRequest("the prompt is not UTF-8 text") from error
    return text


def _ask_server(url: str, body: dict[str, Any]) -> dict[str, Any]:
    import httpx

    from adaptive_lora.settings import ApiSettings

    try:
        with console().status(f"waiting for {url}"):
            reply = httpx.post(
                f"{url.rstrip('/')}/generate",
                json=body,
                headers=authorization(),
                timeout=ApiSettings().timeout,
            )
        answer = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineError(f"{url} cannot be asked: {error}") from error
    except ValueError as error:
        raise EngineError(f"{url} did not answer with JSON: is it an Adaptive LoRA server?") from error
    if not isinstance(answer, dict) or reply.status_code != 200:
        failure = answer.get("error") if isinstance(answer, dict) else None
        message = failure.get("message") if isinstance(failure, dict) else None
        raise EngineError(f"{url} answered {reply.status_code}: {message or 'no reason given'}")
    return answer


async def _ask_engine(
    settings: Settings, text: str, name: str, max_tokens: int, temperature: float, *, show: bool
) -> dict[str, Any]:
    """The server's own path, without HTTP. `show` writes the text to stdout as it comes."""
    from adaptive_lora.agents.names import parse_name
    from adaptive_lora.serving.runtime import Runtime
    from adaptive_lora.serving.sampling import as_prompt
    from adaptive_lora.telemetry.metrics import Metrics
    from adaptive_lora.types import GenerateRequest, SamplingConfig

    agent_name = parse_name(name)
    runtime = Runtime(settings, Metrics())
    runtime.start()
    try:
        await _wait_until_ready(runtime)
        started = time.perf_counter()
        request_id = f"cli-{uuid.uuid4().hex}"
        prompt = as_prompt(text, raw=False)
        plan = await runtime.orchestrator.plan(prompt, agent_name, key=request_id)
        sampling = SamplingConfig(max_tokens=max_tokens, temperature=temperature)
        request = GenerateRequest(request_id, prompt, sampling, plan.adapter_id)
        pieces: list[str] = []
        n_tokens = n_prompt_tokens = 0
        finish_reason = None
        async with aclosing(runtime.orchestrator.stream(plan, request)) as chunks:
            async for chunk in chunks:
                pieces.append(chunk.text)
                n_tokens += chunk.n_tokens
                n_prompt_tokens = chunk.n_prompt_tokens
                finish_reason = chunk.finish_reason
                if show:
                    sys.stdout.write(chunk.text)
                    sys.stdout.flush()
        if show:
            sys.stdout.write("\n")
        return {
            "request_id": request_id,
            "text": "".join(pieces),
            "adapter": plan.agent,
            "version": plan.version,
            "confidence": plan.decision.confidence,
            "finish_reason": finish_reason,
            "usage": {
                "prompt_tokens": n_prompt_tokens,
                "completion_tokens": n_tokens,
                "total_tokens": n_prompt_tokens + n_tokens,
            },
            "latency_ms": (time.perf_counter() - started) * 1000,
        }
    finally:
        await runtime.stop()


async def _wait_until_ready(runtime: Any) -> None:
    """Show what the engine is doing until it serves. Raises EngineError if it never will."""
    with console().status("starting") as status:
        while runtime.phase == "starting":
            status.update(runtime.detail)
            await asyncio.sleep(0.1)
    if runtime.phase != "ready":
        raise AdaptiveLoraError(f"the engine did not start: {runtime.detail}")
