"""Forgetting old backups, and the contents that none of the others hold."""

from __future__ import annotations

import logging

from adaptive_lora.adapters.transfer import in_parallel
from adaptive_lora.backup.repository import Repository

_log = logging.getLogger(__name__)

_JOBS = 8


def keep_newest(repository: Repository, n_backups: int) -> tuple[str, ...]:
    """Delete all but the newest. Returns the ids of those that are gone.

    Their contents stay as long as somebody else writes a backup, which may count on them, and go the next
    time. Raises HashMismatch, and deletes no content, if a backup that stays cannot be read.
    """
    gone = repository.ids()[n_backups:]
    for backup_id in gone:
        repository.delete(f"backups/{backup_id}")
    repository.look()
    used = {
        repository.object_name(entry)
        for backup_id in repository.ids()
        for _, entry in repository.load(backup_id)[1].entries()
    }
    unused = repository.objects() - used
    if unused and repository.others_write():
        _log.warning("another backup is being written: what nobody needs any more is deleted the next time")
        return gone
    in_parallel(_JOBS, repository.delete, sorted(unused))
    return gone
