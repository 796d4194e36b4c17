"""Several processes and one registry: no change is lost, none is half made, whoever dies."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_database import Database

from . import registry_writers
from .registry_state import BY, add, check_consistent, whole_history
from .registry_writers import N_STEPS, version_of

Task = Callable[[str, int], str]

# Each process is forked from a fresh one that has imported what it needs, and holds no connection of ours.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([registry_writers.__name__])
N_PROCESSES = 4
NUMBERS = range(1, N_PROCESSES + 1)


def work(task: Task, url: str, number: int, begin: Any, results: Any) -> None:
    begin.wait()
    results.put((number, task(url, number)))


@contextmanager
def processes(task: Task, url: str, numbers: Sequence[int]) -> Iterator[tuple[list[BaseProcess], Any]]:
    """One for each number, started together; and what they return, as pairs of number and result."""
    begin, results = PROCESSES.Barrier(len(numbers)), PROCESSES.SimpleQueue()
    started = [PROCESSES.Process(target=work, args=(task, url, n, begin, results)) for n in numbers]
    for process in started:
        process.start()
    try:
        yield started, results
    finally:
        for process in started:
            process.kill()
            process.join()
            process.close()
        results.close()


def run(task: Task, url: str) -> dict[int, str]:
    """What each process returns, by its number."""
    with processes(task, url, NUMBERS) as (started, results):
        for process in started:
            process.join()
        assert [process.exitcode for process in started] == [0] * N_PROCESSES
        return dict(results.get() for _ in NUMBERS)


def test_all_may_open_a_new_database_at_once(database_url: str) -> None:
    run(registry_writers.open_it, database_url)
    registry = Registry.open(database_url)
    snapshot = check_consistent(registry)
    assert (snapshot.revision, len(snapshot.versions)) == (N_PROCESSES, N_PROCESSES)
    registry.close()


def test_a_new_file_is_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite refuses all but one of those who change a file to a write-ahead log, and waits for none."""
    n_openers = 8
    together = threading.Barrier(n_openers)

    def open_it(path: Path) -> None:
        database = Database(f"sqlite:///{path}", timeout_s=30)
        together.wait()
        try:
            with database.transaction(change=True) as connection:
                connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x INTEGER)")
        finally:
            database.close()

    with ThreadPoolExecutor(n_openers) as pool:
        for i in range(40):
            list(pool.map(open_it, [tmp_path / f"{i}.db"] * n_openers))


def test_no_update_is_lost(registry: Registry, database_url: str) -> None:
    last = N_PROCESSES * N_STEPS
    add(registry, *map(version_of, range(last + 1)), name="count")
    registry.point("count", "prod", version_of(0), **BY)
    before = registry.revision()
    run(registry_writers.count, database_url)
    assert registry.snapshot().alias("count", "prod").version == version_of(last)
    assert registry.revision() == before + last
    moves = [entry for entry in whole_history(registry) if entry.why == "count"]
    assert [(e.before, e.after) for e in moves] == [(version_of(i), version_of(i + 1)) for i in range(last)]
    for number in NUMBERS:
        assert sum(entry.who == f"process {number}" for entry in moves) == N_STEPS
    check_consistent(registry)


def test_one_wins(registry: Registry, database_url: str) -> None:
    add(registry, *map(version_of, NUMBERS))
    outcomes = run(registry_writers.compete, database_url)
    (winner,) = (number for number, outcome in outcomes.items() if outcome == "won")
    assert registry.snapshot().alias("code", "prod").version == version_of(winner)
    (entry,) = (entry for entry in whole_history(registry) if entry.alias == "prod")
    assert entry.who == f"process {winner}"


def test_rollouts_side_by_side(registry: Registry, database_url: str) -> None:
    run(registry_writers.roll_out, database_url)
    snapshot = check_consistent(registry)
    added = [entry for entry in whole_history(registry) if entry.action == "add"]
    assert len(added) == 2 * N_PROCESSES * N_STEPS
    for number in NUMBERS:
        mine = {record.version for record in snapshot.versions_of(f"own-{number}")}
        assert snapshot.alias(f"own-{number}", "prod").version in mine


def test_a_killed_writer_leaves_whole_changes(registry: Registry, database_url: str) -> None:
    chance = random.Random(0)
    n_rounds = 8
    for round_ in range(n_rounds):
        numbers = [2 * round_ + 1, 2 * round_ + 2]
        with processes(registry_writers.roll_out_until_killed, database_url, numbers) as (writers, _):
            begun = registry.revision()
            while registry.revision() < begun + 10:
                assert all(writer.is_alive() for writer in writers)
            time.sleep(chance.random() * 0.05)
            for writer in writers:
                writer.kill()  # SIGKILL
        add(registry, version_of(round_), name="after")
    assert len(check_consistent(registry).versions_of("after")) == n_rounds
