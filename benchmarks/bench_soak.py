"""Does anything pile up? A real server under load for half an hour, with clients that are not nice.

    python benchmarks/bench_soak.py [--minutes 30] [--engine vllm|fake] [--share 0.8]

The demo fleet, with authentication, limits, logs and metrics on. First its capacity, in a closed loop; then
requests at random moments (Poisson) at a share of it: whole and streamed answers of three APIs, batches,
clients that go away, read slowly or not at all, send their headers or bodies slowly or never to the end, and
send what is no request. In the end nobody asks any more, and

    stuck       requests that did not end before their deadline: none
    silent      streams that ended without a word; `internal` 500s; `broken` answers: none
    leaked      what the server's own gauges say is still inside: nothing
    places      as many requests at once as gateway and limits allow: all are answered, so none had been lost
    memory      of the server and of the engine's processes: flat, less than 5 % over the last half

The last line is JSON; the exit code is 1 if any of it does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from _common import print_result
from soak.clients import AGENTS
from soak.load import Load, clients_of
from soak.raw import RawClients
from soak.server import MAX_CONCURRENT, TIMEOUT_S, Memory, Server, serving

CAPACITY_S = 30.0
N_CLIENTS = 32
SETTLE_S = 90.0
MAX_GROWTH = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--engine", choices=("vllm", "fake"), default="vllm")
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), args.engine) as server:
        result = asyncio.run(soak(server, args))
        result["log"] = server.log_counts()
    print_result({"soak": result}, seed=args.seed)
    return 0 if result["ok"] else 1


async def soak(server: Server, args: argparse.Namespace) -> dict[str, Any]:
    memory = Memory(server.process.pid)
    raw = RawClients(server.port, server.token)
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        server.url, connector=connector, headers=server.headers, timeout=timeout
    ) as session:
        clients = clients_of(session, AGENTS if args.engine == "vllm" else AGENTS[:1], raw)
        capacity = await Load(clients, random.Random(args.seed)).closed_loop(CAPACITY_S, N_CLIENTS)
        rate = args.share * capacity
        note(f"capacity {capacity:.1f} requests/s; {args.minutes:g} minutes at {rate:.1f}")
        load = Load(clients, random.Random(args.seed + 1))
        watching = asyncio.create_task(memory.watch(every_s=max(1.0, args.minutes * 60 / 500)))
        await load.open_loop(args.minutes * 60, rate)
        watching.cancel()
        leaked = await until_empty(server)
        n_answered = await fill(session)
    figures = memory.report()
    never = {kind: load.count(kind) for kind in ("stuck", "silent", "internal", "broken")}
    grown = [figures[name]["growth_of_last_half"] for name in ("server", "engine")]
    return {
        "minutes": args.minutes,
        "engine": args.engine,
        "capacity_per_s": round(capacity, 2),
        "rate_per_s": round(rate, 2),
        "requests": sum(sum(counts.values()) for counts in load.ends.values()),
        **never,
        "leaked": leaked,
        "places": {"of": MAX_CONCURRENT, "answered": n_answered},
        "memory": figures,
        "ends": {kind: dict(counts) for kind, counts in sorted(load.ends.items())},
        "ok": not any(never.values())
        and not any(leaked.values())
        and n_answered == MAX_CONCURRENT
        and max(grown) < MAX_GROWTH,
    }


async def until_empty(server: Server) -> dict[str, float]:
    """What the gauges say when nobody has asked for anything for a while; at once if it is nothing."""
    gauges: dict[str, float] = {}
    for _ in range(int(SETTLE_S)):
        gauges = await asyncio.to_thread(server.gauges)
        if not any(gauges.values()):
            break
        await asyncio.sleep(1)
    return gauges


async def fill(session: aiohttp.ClientSession) -> int:
    """How many are answered of as many requests at once as may be in flight."""

    async def ask(i: int) -> bool:
        body = {"prompt": f"fill {i}", "adapter": "base", "max_tokens": 4}
        async with session.post("/generate", json=body) as answer:
            await answer.read()
            return answer.status == 200

    async with asyncio.timeout(2 * TIMEOUT_S):
        return sum(await asyncio.gather(*(ask(i) for i in range(MAX_CONCURRENT))))


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
