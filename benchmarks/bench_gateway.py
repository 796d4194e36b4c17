"""What a gateway costs: ours, with all that it does, beside LiteLLM's proxy and the least that a proxy does.

    python benchmarks/bench_gateway.py [--only ours ours_auto ...] [--memory-requests 100000]

Each gateway has one core; the upstream, which answers at once with fixed tokens, and the clients another.
Ours has authentication, limits, JSON logs and metrics on, and its upstream is a worker; once a request names
its adapter, once the router decides (`ours_auto`), once limits are kept in Redis (`ours_redis`). LiteLLM is
installed into build/litellm if it is not there, and has its master key; `bare` is FastAPI and aiohttp alone.

Whole answers come from the upstream at once, so that from two clients on the gateway is what is waited for.
Of a stream, a token comes every `--pace-ms`: each is an event of its own for everybody in between. The last
line is JSON:

    cpu_ms_per_request  of the gateway's process and its children, in user and kernel, at concurrency 8
    cpu_ms_per_chunk    of a stream: what one token more costs
    cpu_ms_as_generated of ours: a whole answer whose tokens the worker sends one by one, as a real one does
    added_ms            by concurrency: latency through the gateway, less that without one (percentile by
                        percentile); of streams until the first token, and until the end
    rss_mb              after `memory.n_requests`; `memory.growth` is that of their second half, as a ratio
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from _common import free_port, print_result
from gateway import contenders
from gateway.contenders import Gateway
from gateway.load import Timing, closed_loop, request_bytes

from adaptive_lora.adapters.manifest import read_manifest

N_TOKENS = 16
N_TOKENS_MORE = 64
"""Of the streams whose chunks are counted."""
CONCURRENCY = (1, 8, 32)
NAMES = ("ours", "ours_auto", "ours_redis", "litellm", "bare")
GATEWAY_CORE, LOAD_CORE = 0, 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--requests", type=int, default=3000, help="for each figure; LiteLLM gets a third")
    parser.add_argument("--memory-requests", type=int, default=100_000, help="of each but LiteLLM and auto")
    parser.add_argument("--slow-memory-requests", type=int, default=10_000, help="of LiteLLM and auto")
    parser.add_argument("--pace-ms", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_url = stack.enter_context(contenders.upstream(free_port(), LOAD_CORE, folder))
        bench = Bench(upstream_url, args.pace_ms / 1000, prompts(args.seed))
        direct = bench.measure(Gateway(upstream_url, "", "bench", os.getpid()), args.requests)
        result: dict[str, Any] = {"upstream_alone": figures(direct, None)}
        for name in args.only:
            slow = name in ("litellm", "ours_auto")
            with start(name, upstream_url, folder) as gateway:
                note(f"{name}: {gateway.url}")
                bench.warm_up(gateway)
                measured = bench.measure(gateway, args.requests // 3 if name == "litellm" else args.requests)
                memory = bench.fill(gateway, args.slow_memory_requests if slow else args.memory_requests)
            result[name] = figures(measured, direct) | memory
            if name.startswith("ours"):
                result[name]["cpu_ms_as_generated"] = round(measured.cpu_ms_as_generated, 3)
            note(json.dumps(result[name]))
    if "litellm" in result:
        result["litellm"]["version"] = contenders.install_litellm()
        if "ours" in result:
            result["ours_to_litellm"] = ratios(result["ours"], result["litellm"])
    os.sched_setaffinity(0, cores)
    print_result(result, seed=args.seed)


def start(name: str, upstream_url: str, folder: Path) -> AbstractContextManager[Gateway]:
    where = (upstream_url, free_port(), GATEWAY_CORE, folder)
    match name:
        case "ours":
            return contenders.ours(*where, model="code")
        case "ours_auto":
            return contenders.ours(*where, model="auto")
        case "ours_redis":
            return with_redis(folder, partial(contenders.ours, *where, model="code"))
        case "litellm":
            contenders.install_litellm()
            return contenders.litellm(*where)
        case _:
            return contenders.bare(*where)


@contextmanager
def with_redis(folder: Path, start: Callable[..., AbstractContextManager[Gateway]]) -> Iterator[Gateway]:
    """Redis on the core of the upstream."""
    if shutil.which("redis-server") is None:
        raise SystemExit("ours_redis needs redis-server")
    port = free_port()
    command = ["taskset", "-c", str(LOAD_CORE), "redis-server", "--port", str(port)]
    redis = subprocess.Popen(
        [*command, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    try:
        with start(redis_url=f"redis://127.0.0.1:{port}/0") as gateway:
            yield gateway
    finally:
        redis.terminate()
        redis.wait()


def prompts(seed: int) -> Iterator[str]:
    """All different, 1 to 64 words of the demo fleet's examples."""
    rng = random.Random(seed)
    folders = (contenders.ROOT / "demo" / "fleet" / "adapters").iterdir()
    texts = [text for folder in sorted(folders) for text in read_manifest(folder).examples]
    words = [word for text in texts for word in text.split()]
    n = 0
    while True:
        n += 1
        yield f"{' '.join(rng.choices(words, k=rng.randint(1, 64)))} {n}"


@dataclass(slots=True)
class Measured:
    """One gateway's figures. Timings are by whether streamed, and by concurrency."""

    whole: dict[int, list[Timing]] = field(default_factory=dict)
    streamed: dict[int, list[Timing]] = field(default_factory=dict)
    cpu_ms_whole: float = 0.0
    cpu_ms_streamed: float = 0.0
    cpu_ms_per_chunk: float = 0.0
    cpu_ms_as_generated: float = 0.0


class Bench:
    def __init__(self, upstream_url: str, pace_s: float, prompts: Iterator[str]) -> None:
        self._upstream_url = upstream_url
        self._pace_s = pace_s
        self._prompts = prompts

    def warm_up(self, gateway: Gateway) -> None:
        self._ask(gateway, 200, 8)
        self._ask(gateway, 50, 8, stream=True)

    def measure(self, gateway: Gateway, n_requests: int) -> Measured:
        measured = Measured()
        for concurrency in CONCURRENCY:
            n = n_requests if concurrency > 1 else n_requests // 3
            timings, cpu_ms = self._ask(gateway, n, concurrency)
            measured.whole[concurrency] = timings
            if concurrency == 8:
                measured.cpu_ms_whole = cpu_ms
        self._set_pace(self._pace_s)
        for concurrency in CONCURRENCY:
            n = n_requests // 3 if concurrency > 1 else 100
            timings, cpu_ms = self._ask(gateway, n, concurrency, stream=True)
            measured.streamed[concurrency] = timings
            if concurrency == 8:
                measured.cpu_ms_streamed = cpu_ms
        _, measured.cpu_ms_as_generated = self._ask(gateway, n_requests // 3, 8)
        _, more_ms = self._ask(gateway, n_requests // 10, 8, stream=True, n_tokens=N_TOKENS_MORE)
        measured.cpu_ms_per_chunk = (more_ms - measured.cpu_ms_streamed) / (N_TOKENS_MORE - N_TOKENS)
        self._set_pace(0)
        return measured

    def fill(self, gateway: Gateway, n_requests: int) -> dict[str, Any]:
        """Memory, while many requests are served: whole and streamed."""
        sizes_mb = [gateway.rss_mb()]
        for step in range(10):
            self._ask(gateway, n_requests // 10, 8, stream=step % 5 == 4)
            sizes_mb.append(gateway.rss_mb())
        return {
            "rss_mb": round(sizes_mb[-1], 1),
            "memory": {
                "n_requests": n_requests,
                "rss_mb": [round(size, 1) for size in sizes_mb],
                "growth": round(sizes_mb[-1] / sizes_mb[5] - 1, 4),
            },
        }

    def _ask(
        self, gateway: Gateway, n: int, concurrency: int, *, stream: bool = False, n_tokens: int = N_TOKENS
    ) -> tuple[list[Timing], float]:
        """Timings, and the gateway's CPU time a request in ms."""
        requests = [self._request(gateway, stream, n_tokens) for _ in range(n)]
        expected = b"data: [DONE]" if stream else b" lorem" * n_tokens
        before = gateway.cpu_s()
        timings = uvloop.run(closed_loop(gateway.url, requests, concurrency=concurrency, expected=expected))
        return timings, (gateway.cpu_s() - before) * 1000 / n

    def _request(self, gateway: Gateway, stream: bool, n_tokens: int) -> bytes:
        body = {
            "model": gateway.model,
            "messages": [{"role": "user", "content": next(self._prompts)}],
            "max_tokens": n_tokens,
            "stream": stream,
        }
        return request_bytes(gateway.url, gateway.key, body)

    def _set_pace(self, seconds: float) -> None:
        request = urllib.request.Request(
            f"{self._upstream_url}/pace", data=str(seconds).encode(), method="PUT"
        )
        urllib.request.urlopen(request).close()


def figures(measured: Measured, direct: Measured | None) -> dict[str, Any]:
    """`direct` is what the same takes without a gateway; without it, latencies are as they are."""

    def added(kind: str, moment: str) -> dict[str, dict[str, float]]:
        return {
            f"c{concurrency}": {
                f"p{q}": round(
                    percentile(timings, moment, q)
                    - (percentile(getattr(direct, kind)[concurrency], moment, q) if direct else 0.0),
                    3,
                )
                for q in (50, 99)
            }
            for concurrency, timings in getattr(measured, kind).items()
        }

    prefix = "added" if direct else "latency"
    result: dict[str, Any] = {
        f"{prefix}_ms": added("whole", "end"),
        "stream": {
            f"{prefix}_first_ms": added("streamed", "first"),
            f"{prefix}_ms": added("streamed", "end"),
        },
    }
    if direct is None:
        return result
    stream_cpu = {
        "cpu_ms_per_request": round(measured.cpu_ms_streamed, 3),
        "cpu_ms_per_chunk": round(measured.cpu_ms_per_chunk, 4),
    }
    result["stream"] = stream_cpu | result["stream"]
    return {"cpu_ms_per_request": round(measured.cpu_ms_whole, 3), **result}


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    return {
        "cpu_times_less": round(theirs["cpu_ms_per_request"] / ours["cpu_ms_per_request"], 1),
        "stream_cpu_times_less": round(
            theirs["stream"]["cpu_ms_per_request"] / ours["stream"]["cpu_ms_per_request"], 1
        ),
        "added_p99_c8": round(ours["added_ms"]["c8"]["p99"] / theirs["added_ms"]["c8"]["p99"], 3),
    }


def percentile(timings: Sequence[Timing], moment: str, q: int) -> float:
    return float(np.percentile([getattr(timing, moment) for timing in timings], q))


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
