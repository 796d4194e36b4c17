"""How many requests must the engine's own queue see to choose well? A simulation of that queue alone.

    python benchmarks/bench_window.py [--slots 8] [--sequences 32] [--requests 6000] ...

Somebody always waits for the window. Answers take half a turn to one and a half, a turn on average; adapters
are asked for alike ("uniform") or by Zipf's law. The last line is JSON: for each window, in multiples of
what the engine runs at once, `busy`, the share of the engine's sequences that run; and `wait_p50` and
`wait_p99`, turns from entering the window to running.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics

from _common import print_result

from adaptive_lora.engine.admission import AdmissionQueue, Ticket
from adaptive_lora.engine.factory import places_ahead

FACTORS = (1.5, 2, 3, 4, 8)
FLEETS = {"uniform 8": (8, 0.0), "uniform 16": (16, 0.0), "uniform 64": (64, 0.0), "zipf 64": (64, 1.0)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=32, help="that the engine runs at once")
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = {
        name: {f"{factor}x": simulate(args, n, skew, round(factor * args.sequences)) for factor in FACTORS}
        for name, (n, skew) in FLEETS.items()
    }
    print_result(result, seed=args.seed)


def simulate(args: argparse.Namespace, n_adapters: int, skew: float, window: int) -> dict[str, float]:
    rng = random.Random(args.seed)
    weights = [1 / (i + 1) ** skew for i in range(n_adapters)]
    ready = places_ahead(args.sequences)
    queue = AdmissionQueue(n_slots=args.slots, n_places=args.sequences + ready)
    now = busy = 0.0
    n_arrived = n_in_window = 0
    since: dict[str, float] = {}
    standing: list[Ticket] = []  # admitted, and not running yet
    running: list[tuple[float, int, Ticket]] = []
    waits: list[float] = []
    while len(waits) < args.requests:
        while n_in_window < window:
            adapter = rng.choices(range(n_adapters), weights)[0]
            queue.add(str(n_arrived), str(adapter))
            since[str(n_arrived)] = now
            n_arrived += 1
            n_in_window += 1
        while (admission := queue.next()) is not None:
            standing.append(admission.ticket)
        while standing and len(running) < args.sequences:
            ticket = standing.pop(0)
            waits.append(now - since.pop(ticket.request_id))
            heapq.heappush(running, (now + rng.uniform(0.5, 1.5), ticket.number, ticket))
        ends_at, _, ticket = heapq.heappop(running)
        busy += (ends_at - now) * (len(running) + 1)
        now = ends_at
        queue.release(ticket)
        n_in_window -= 1
    waits.sort()
    return {
        "busy": round(busy / now / args.sequences, 2),
        "wait_p50": round(statistics.median(waits), 1),
        "wait_p99": round(waits[int(0.99 * len(waits))], 1),
    }


if __name__ == "__main__":
    main()
