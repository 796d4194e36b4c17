"""Do limits hold? Several gateway processes with one Redis, and tenants who ask for more than they may.

    python benchmarks/bench_limits.py [--gateways 4] [--tenants 10] [--minutes 2] [--per-minute 120] ...

Each tenant asks for `--times` its limit, at random moments (Poisson), of the gateways in turn. Then one more
tenant spends its month's tokens, with many requests in flight at all gateways. The engine is the fake one:
what counts is who was admitted. The last line is JSON:

    accepted_ratio       per tenant, accepted requests over rate * time + burst: the least and the most
    refusal_ms           until the client had a refusal, on a machine that runs everything here
    checks_without_redis how often a gateway fell back to its part of the limits: then Redis did not answer
                         within 5 s, and a tenant may have had more than one process would have allowed it
    budget_spent_ratio   tokens that were used, over the budget; never above 1
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import jwt
from _common import free_port, print_result

SECRET = secrets.token_urlsafe(48)
BODY = {"prompt": "hello", "max_tokens": 1, "adapter": "base"}
BUDGET = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--per-minute", type=int, default=120)
    parser.add_argument("--burst", type=int, default=20)
    parser.add_argument("--times", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis_url = stack.enter_context(redis_server(folder))
        urls = [stack.enter_context(gateway(folder, redis_url, args)) for _ in range(args.gateways)]
        result = asyncio.run(measure(urls, args))
    print_result(result, seed=args.seed)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def gateway(folder: Path, redis_url: str, args: argparse.Namespace) -> Iterator[str]:
    port = free_port()
    config = folder / f"{port}.yaml"
    config.write_text(
        f"api: {{port: {port}}}\n"
        f"auth: {{enabled: true, jwt_secret: {SECRET}}}\n"
        "model: {engine: fake, base_model: fake-base}\n"
        f"storage: {{path: {folder / str(port)}}}\n"
        f"redis: {{url: '{redis_url}', timeout: 5}}\n"
        f"rate_limiting: {{enabled: true, requests_per_minute: {args.per_minute}, burst_size: {args.burst},\n"
        f"  replicas: {args.gateways},\n"
        f"  tiers: {{monthly: {{requests_per_minute: null, tokens_per_month: {BUDGET}}}}}}}\n"
        "monitoring: {log_level: ERROR}\n"
    )
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        url = f"http://127.0.0.1:{port}"
        while not is_ready(url):
            if process.poll() is not None:
                raise SystemExit("a gateway did not start")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


async def measure(urls: Sequence[str], args: argparse.Namespace) -> dict[str, object]:
    rng = random.Random(args.seed)
    results = await asyncio.gather(*(insist(urls, f"tenant-{i}", rng, args) for i in range(args.tenants)))
    ratios = [n_accepted / allowed for n_accepted, allowed, _ in results]
    refusals_ms = sorted(ms for _, _, waits in results for ms in waits)
    spent, largest = await spend(urls, args)
    n_alone = await checks_without_redis(urls)
    return {
        "gateways": args.gateways,
        "tenants": args.tenants,
        "seconds": args.minutes * 60,
        "allowed_each": round(results[0][1], 1),
        "accepted": [n for n, _, _ in results],
        "accepted_ratio": {"least": round(min(ratios), 4), "most": round(max(ratios), 4)},
        "refused": len(refusals_ms),
        "refusal_ms": {
            "p50": round(statistics.median(refusals_ms), 2),
            "p99": round(refusals_ms[int(0.99 * len(refusals_ms))], 2),
        },
        "checks_without_redis": n_alone,
        "budget": BUDGET,
        "budget_spent": spent,
        "budget_spent_ratio": round(spent / BUDGET, 4),
        "largest_request_tokens": largest,
    }


async def insist(
    urls: Sequence[str], tenant: str, rng: random.Random, args: argparse.Namespace
) -> tuple[int, float, list[float]]:
    """Accepted requests of one tenant, how many were allowed, and how long each refusal took, in ms."""
    n_accepted = 0
    refusals_ms: list[float] = []
    async with clients(urls, tenant, "default") as those:

        async def ask(client: httpx.AsyncClient) -> None:
            nonlocal n_accepted
            started = time.perf_counter()
            answer = await client.post("/generate", json=BODY)
            if answer.status_code == 200:
                n_accepted += 1
            elif answer.status_code == 429:
                refusals_ms.append((time.perf_counter() - started) * 1000)
            else:
                raise SystemExit(answer.text)

        interval_s = 60 / (args.per_minute * args.times)
        started = time.monotonic()
        at_s = 0.0
        async with asyncio.TaskGroup() as group:
            for client in itertools.cycle(those):
                await asyncio.sleep(max(0.0, started + at_s - time.monotonic()))
                if at_s > args.minutes * 60:
                    break
                group.create_task(ask(client))
                at_s += rng.expovariate(1 / interval_s)
        elapsed_s = time.monotonic() - started
    return n_accepted, args.per_minute * elapsed_s / 60 + args.burst, refusals_ms


async def spend(urls: Sequence[str], args: argparse.Namespace) -> tuple[int, int]:
    """Tokens that one tenant could use of its budget, with 32 requests in flight, until each size is refused;
    and the most that one request may have reserved."""
    rng = random.Random(args.seed)
    used = 0
    async with clients(urls, "spender", "monthly") as those:

        async def worker(client: httpx.AsyncClient) -> None:
            nonlocal used
            largest = 200
            while largest >= 1:
                n = rng.randint(1, largest)
                answer = await client.post("/generate", json={**BODY, "max_tokens": n})
                if answer.status_code == 200:
                    used += sum(answer.json()["usage"][key] for key in ("prompt_tokens", "completion_tokens"))
                else:
                    largest = min(largest, n) // 2

        await asyncio.gather(*(worker(client) for client in those * (32 // len(those))))
    return used, 200 + 10


async def checks_without_redis(urls: Sequence[str]) -> int:
    async with clients(urls, "operator", "default") as those:
        pages = [(await client.get("/metrics")).text for client in those]
    found = [re.search(r'rate_limit_checks_total{where="own"} (\d+)', page) for page in pages]
    return sum(int(match[1]) for match in found if match)


@asynccontextmanager
async def clients(urls: Sequence[str], tenant: str, tier: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    claims = {
        "sub": tenant, "tenant": tenant, "tier": tier, "scope": "generate metrics", "iss": "adaptive-lora",
        "aud": "adaptive-lora", "exp": time.time() + 86_400,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}
    those = [httpx.AsyncClient(base_url=url, headers=headers, timeout=60) for url in urls]
    try:
        yield those
    finally:
        for client in those:
            await client.aclose()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
