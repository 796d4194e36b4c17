"""kill -9 at any moment: a backup is whole or not there, and so is what was restored; the next run goes
on."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptive_lora.adapters.registry_database import Database
from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.restore import restore
from adaptive_lora.backup.tables import check_empty
from adaptive_lora.backup.verify import verify
from adaptive_lora.errors import Conflict

from . import endless
from .conftest import LiveSite, backed_up, rows_of, site_at

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([endless.__name__])
N_KILLS = 5
LONGEST_S = 0.3
"""A backup or a restore here takes less."""


def killed(task: Callable[..., None], begun: Path, *arguments: Any) -> None:
    """Run it, and kill it some time after it has begun."""
    begun.unlink(missing_ok=True)
    process = PROCESSES.Process(target=task, args=(*arguments, begun), daemon=True)
    process.start()
    while not begun.exists():
        assert process.is_alive()
        time.sleep(0.002)
    time.sleep(random.uniform(0, LONGEST_S))
    process.kill()
    process.join()
    process.close()


def test_a_backup_that_is_killed_is_whole_or_not_there(sqlite_live: LiveSite, tmp_path: Path) -> None:
    url = f"{tmp_path}/backups"
    n_whole = set()
    for _ in range(N_KILLS):
        killed(endless.back_up, tmp_path / "begun", sqlite_live.site, url)
        repository = Repository.open(url, create=True)
        for backup_id in repository.ids():
            assert verify(repository, repository.load(backup_id)[1]).damaged == ()
            n_whole.add(backup_id)
    assert n_whole
    made = backed_up(sqlite_live.site, Repository.open(url))
    restored = site_at(tmp_path / "restored")
    restore(restored, Repository.open(url), made.backup)
    assert LiveSite(restored, tmp_path).snapshot() == sqlite_live.snapshot()


def test_a_restore_that_is_killed_leaves_nothing_or_all_and_goes_on(
    sqlite_live: LiveSite, tmp_path: Path
) -> None:
    url = f"{tmp_path}/backups"
    repository = Repository.open(url, create=True)
    made = backed_up(sqlite_live.site, repository)
    expected = sqlite_live.snapshot()
    outcomes = []
    for i in range(N_KILLS):
        folder = tmp_path / f"restored-{i}"
        killed(endless.put_back, tmp_path / "begun", url, folder)
        last = site_at(max(folder.glob("site-*"), default=folder / "site-0000"))
        if is_empty(last.database()):
            restore(last, repository, made.backup)
            outcomes.append("nothing")
        else:
            outcomes.append("all")
        assert LiveSite(last, tmp_path).snapshot() == expected
        assert rows_of(last) == expected["rows"]
    assert "nothing" in outcomes


def is_empty(database: Database) -> bool:
    try:
        check_empty(database)
    except Conflict:
        return False
    finally:
        database.close()
    return True
