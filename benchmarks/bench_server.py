"""Throughput of the whole server against the bare engine inside it, and against `vllm serve`.

    python benchmarks/bench_server.py [--adapters 8] [--requests 64] [--repeats 3]

One model of 83 M parameters with random weights, adapters of rank 16 on all seven linear layers; 32
clients in a closed loop, each request 256 tokens in and 64 out, spread over the adapters in turn. Four
systems with the same engine arguments, in processes of their own:

    engine        VLLMInferenceEngine, asked in its own process: no HTTP, no router
    auto          our server; `model: auto`, so that each request is routed; metrics and logs on
    named         our server; the adapter is named
    vllm_serve    vLLM's own server with our CPU plugin loaded; the adapter is named

Each agent has a vocabulary of its own, so the router has something to go by, and the adapters' load is the
same in all four. The load generator is another process, for the servers; streamed and whole answers are
measured apart. In each repeat all systems measure one after the other and medians are reported; a system that
does not measure is stopped (SIGSTOP). The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _common import add_dtype_option, free_port, make_bench_adapters, make_bench_model, print_result

CONCURRENCY, TOKENS_IN, TOKENS_OUT, RANK = 32, 256, 64, 16
KV_CACHE_BYTES = 1 << 30
MAX_MODEL_LEN = 512
N_EXAMPLES = 40
VOCABULARY = 8192


@dataclass(frozen=True)
class Work:
    """One request: its prompt, and the adapter that it is for."""

    prompt: str
    adapter: str


def make_work(n: int, n_adapters: int, *, seed: int, n_tokens: int = TOKENS_IN) -> list[Work]:
    """`n` prompts of `n_tokens` tokens each; those of one adapter draw from a share of the words of their
    own."""
    rng = random.Random(seed)
    share = (VOCABULARY - 3) // n_adapters
    work = []
    for i in range(n):
        adapter = i % n_adapters
        words = range(3 + adapter * share, 3 + (adapter + 1) * share)
        work.append(Work(" ".join(f"w{rng.choice(words)}" for _ in range(n_tokens)), f"adapter-{adapter}"))
    return work


async def closed_loop(work: Sequence[Work], ask: Any) -> tuple[float, list[Any]]:
    """Seconds that CONCURRENCY clients take for all of it, each asking again as soon as it is answered."""
    waiting = list(reversed(work))
    answers: list[Any] = []

    async def client() -> None:
        while waiting:
            answers.append(await ask(waiting.pop()))

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(client())
    return time.perf_counter() - start, answers


# The children: each measures once per line on its standard input and answers with one line of JSON.


async def serve_engine(folder: Path, n_adapters: int, n_requests: int, dtype: str, seed: int) -> None:
    from adaptive_lora.engine.collect import collect
    from adaptive_lora.engine.factory import build_engine
    from adaptive_lora.serving.loading import describe_base, load_catalog
    from adaptive_lora.settings import Settings
    from adaptive_lora.types import GenerateRequest, SamplingConfig

    settings = Settings.model_validate(settings_of(folder, n_adapters, dtype, seed))
    engine = build_engine(settings.model, settings.adapters, settings.inference)
    await engine.start()
    catalog = load_catalog(settings, describe_base(settings))
    ids = {version.name: version.id for version in catalog.versions}
    for version in catalog.versions:
        await engine.load(version)
    sampling = SamplingConfig(max_tokens=TOKENS_OUT, ignore_eos=True)
    n_asked = 0

    async def ask(work: Work) -> str:
        nonlocal n_asked
        n_asked += 1
        request = GenerateRequest(f"r{n_asked}", work.prompt, sampling, ids[work.adapter])
        (completion,) = await collect(engine.generate(request))
        if completion.usage.completion_tokens != TOKENS_OUT:
            raise RuntimeError("a request ended early")
        return work.adapter

    await closed_loop(make_work(CONCURRENCY, n_adapters, seed=-1), ask)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        work = make_work(n_requests, n_adapters, seed=json.loads(line)["seed"])
        elapsed_s, _ = await closed_loop(work, ask)
        answer(elapsed_s, n_requests, as_meant=1.0)
    await engine.stop()


async def generate_load(url: str, n_adapters: int, n_requests: int) -> None:
    """The load generator. Each line names the mode: `auto` or not, streamed or not."""
    import aiohttp

    async def ask(session: aiohttp.ClientSession, work: Work, *, auto: bool, stream: bool) -> bool:
        body = {
            "model": "auto" if auto else work.adapter,
            "prompt": work.prompt,
            "max_tokens": TOKENS_OUT,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        async with session.post(f"{url}/v1/completions", json=body) as response:
            content = await response.read()
            if response.status != 200:
                raise RuntimeError(content.decode())
        if stream:
            if not content.rstrip().endswith(b"data: [DONE]"):
                raise RuntimeError("a stream broke")
            agent = json.loads(content[6 : content.index(b"\n")])["model"]
        else:
            reply = json.loads(content)
            agent = reply["model"]
            if reply["usage"]["completion_tokens"] != TOKENS_OUT:
                raise RuntimeError("a request ended early")
        return bool(agent == work.adapter)

    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = json.loads(line)
        n = task.get("n", n_requests)
        work = make_work(n, n_adapters, seed=task["seed"])
        # New connections for each task: a server that was stopped meanwhile closes the old ones on waking.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            asks = partial(ask, session, auto=task["auto"], stream=task["stream"])
            elapsed_s, right = await closed_loop(work, asks)
        answer(elapsed_s, n, as_meant=sum(right) / n)


def answer(elapsed_s: float, n_requests: int, *, as_meant: float) -> None:
    rate = n_requests * TOKENS_OUT / elapsed_s
    print("result " + json.dumps({"tokens_per_s": rate, "as_meant": as_meant}), flush=True)


class Process:
    """A child in a process group of its own, paused whenever it has nothing to measure."""

    def __init__(self, command: list[str], *, ready: str | None = None, log: Path | None = None) -> None:
        self._log = log
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log.open("w") if log else subprocess.PIPE,
            stderr=subprocess.STDOUT if log else None,
            text=True,
            start_new_session=True,
        )
        if ready:
            self.read(ready)

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def ask(self, task: dict[str, Any]) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        figures: dict[str, float] = json.loads(self.read("result"))
        return figures

    def read(self, word: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        raise RuntimeError(f"{self.process.args} ended")

    def wait_until_up(self, url: str) -> None:
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(self._log.read_text()[-4000:] if self._log else "a server ended")
            try:
                with urllib.request.urlopen(url) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.2)

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def settings_of(folder: Path, n_adapters: int, dtype: str, seed: int) -> dict[str, Any]:
    return {
        "model": {
            "base_model": str(folder / "model"),
            "dtype": dtype,
            "max_model_len": MAX_MODEL_LEN,
            "kv_cache_bytes": KV_CACHE_BYTES,
            "seed": seed,
        },
        "adapters": {
            "path": str(folder / "adapters"),
            "max_loras": n_adapters,
            "max_cpu_loras": n_adapters,
            "max_lora_rank": RANK,
        },
        "inference": {"max_batch_size": CONCURRENCY},
        "router": {"min_confidence": 0.0},
    }


def our_server(folder: Path, n_adapters: int, dtype: str, seed: int, port: int) -> list[str]:
    settings = settings_of(folder, n_adapters, dtype, seed) | {"api": {"port": port}}
    config = folder / "serving.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    return [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]


def vllm_server(folder: Path, n_adapters: int, dtype: str, seed: int, port: int) -> list[str]:
    modules = [f"adapter-{i}={folder}/adapters/adapter-{i}" for i in range(n_adapters)]
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")),
        *("--host", "127.0.0.1", "--port", str(port), "--seed", str(seed), "--dtype", dtype),
        *("--max-model-len", str(MAX_MODEL_LEN), "--kv-cache-memory-bytes", str(KV_CACHE_BYTES)),
        *("--max-num-seqs", str(CONCURRENCY), "--enable-lora", "--max-lora-rank", str(RANK)),
        *("--max-loras", str(n_adapters), "--max-cpu-loras", str(n_adapters)),
        *("--disable-uvicorn-access-log", "--lora-modules", *modules),
    ]


def prepare(folder: Path, n_adapters: int, seed: int) -> None:
    from adaptive_lora.adapters.manifest import base_fingerprint, write_manifest

    base = make_bench_model(folder / "model", seed=seed)
    for index, path in enumerate(make_bench_adapters(folder / "adapters", n_adapters, RANK, base=base)):
        examples = make_work(n_adapters * N_EXAMPLES, n_adapters, seed=seed + 1, n_tokens=32)[
            index::n_adapters
        ]
        write_manifest(
            path,
            name=path.name,
            description="random weights",
            examples=[work.prompt for work in examples],
            base_model=str(base),
            base_fingerprint=base_fingerprint(base),
        )


def bench(
    n_adapters: int, n_requests: int, repeats: int, dtype: str, seed: int, streams: Sequence[bool]
) -> dict[str, Any]:
    samples: dict[bool, dict[str, list[float]]] = {
        stream: {name: [] for name in ("engine", "auto", "named", "vllm_serve")} for stream in streams
    }
    routed: list[float] = []
    processes: list[Process] = []

    def start(*arguments: Any, **keywords: Any) -> Process:
        processes.append(Process(*arguments, **keywords))
        return processes[-1]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, n_adapters, seed)
        own = [sys.executable, __file__, "--adapters", str(n_adapters), "--requests", str(n_requests)]
        try:
            note("starting the engine")
            engine = start(
                [*own, "--dtype", dtype, "--seed", str(seed), "--engine", str(folder)], ready="ready"
            )
            engine.pause()
            servers: dict[str, tuple[Process, Process]] = {}
            for kind, command in (("ours", our_server), ("vllm", vllm_server)):
                note(f"starting the server: {kind}")
                port = free_port()
                url = f"http://127.0.0.1:{port}"
                server = start(command(folder, n_adapters, dtype, seed, port), log=folder / f"{kind}.log")
                server.wait_until_up(url + ("/ready" if kind == "ours" else "/health"))
                load = start([*own, "--load", url], ready="ready")
                load.ask({"seed": -1, "n": CONCURRENCY, "auto": kind == "ours", "stream": False})
                server.pause()
                load.pause()
                servers[kind] = (server, load)
            for repeat in range(repeats):
                for stream in streams:
                    figures = {}
                    task = {"seed": seed + 100 * repeat + stream, "stream": stream}
                    engine.go_on()
                    figures["engine"] = engine.ask(task)
                    engine.pause()
                    for name, kind in (("auto", "ours"), ("vllm_serve", "vllm"), ("named", "ours")):
                        server, load = servers[kind]
                        server.go_on()
                        load.go_on()
                        # Other prompts for each, or the prefix cache would answer the second of ours.
                        mine = {
                            **task,
                            "seed": task["seed"] + 10_000 * (name == "named"),
                            "auto": name == "auto",
                        }
                        figures[name] = load.ask(mine)
                        load.pause()
                        server.pause()
                    routed.append(figures["auto"]["as_meant"])
                    for name, figure in figures.items():
                        samples[stream][name].append(figure["tokens_per_s"])
                    note(f"repeat {repeat}, stream {stream}: {figures}")
        finally:
            for process in processes:
                process.close()
    return summarise(samples, routed)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def summarise(samples: dict[bool, dict[str, list[float]]], routed: list[float]) -> dict[str, Any]:
    """Medians, and medians of the ratios within each repeat; the headline is the worse of streamed and
    whole."""

    def ratio(of: str, to: str) -> float:
        return round(
            min(
                statistics.median(a / b for a, b in zip(rates[of], rates[to], strict=True))
                for rates in samples.values()
            ),
            3,
        )

    return {
        "ratio_to_engine": ratio("auto", "engine"),
        "ratio_to_vllm_serve": ratio("auto", "vllm_serve"),
        "named_ratio_to_engine": ratio("named", "engine"),
        "named_ratio_to_vllm_serve": ratio("named", "vllm_serve"),
        "tokens_per_s": {
            "streamed" if stream else "whole": {
                name: round(statistics.median(r), 1) for name, r in rates.items()
            }
            for stream, rates in samples.items()
        },
        "routed_as_meant": round(statistics.mean(routed), 4),
        "repeats": len(routed) // len(samples),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="whole answers only, not streamed")
    add_dtype_option(parser)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        asyncio.run(serve_engine(args.engine, args.adapters, args.requests, args.dtype, args.seed))
    elif args.load:
        asyncio.run(generate_load(args.load, args.adapters, args.requests))
    else:
        streams = (False,) if args.quick else (False, True)
        figures = bench(args.adapters, args.requests, args.repeats, args.dtype, args.seed, streams)
        print_result({"server": figures | {"dtype": args.dtype}}, seed=args.seed)


if __name__ == "__main__":
    main()
