"""Databases as each release left them, for the tests of migrations: released/<schema>.<database>.sql, and
what was in them: .json.

With each new migration, and never again for an old one:

    python -m tests.adapters.registry_releases

writes those of the newest schema.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory

from adaptive_lora.access.records import NewKey
from adaptive_lora.access.store import AccessStore
from adaptive_lora.adapters.registry import Registry
from adaptive_lora.adapters.registry_database import sqlite_url
from adaptive_lora.adapters.registry_schema import MIGRATIONS
from adaptive_lora.batches.batch_store import BatchStore
from adaptive_lora.batches.file_store import FileStore
from adaptive_lora.batches.records import NewBatch, Result, StoredFile
from adaptive_lora.batches.run_store import RunStore
from tests.postgres import PostgresServer, find_programs

from .registry_state import BY, A, B, C, D, add, new_version

NOW = datetime.now(UTC)
FOLDER = Path(__file__).parent / "released"


def schemas() -> list[str]:
    """Every revision of the schema, newest first."""
    return [migration.revision for migration in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]


def fill(registry: Registry) -> None:
    """Something of everything."""
    registry.add(replace(new_version(A), origin="folder", source="code"), who="server", why="found")
    registry.add(new_version(B, refusal="no effect"), **BY)
    add(registry, C, D)
    add(registry, A, name="maths")
    registry.report("code", A, "effect", {"difference": 0.25, "texts": ["ü", None]}, who="ann")
    registry.report("code", A, "parity", {"max_error": 1e-6}, who="ann")
    registry.declare("code", A, loaded=True, pinned=True, **BY)
    registry.declare("code", B, loaded=True, **BY)
    registry.point("code", "prod", A, **BY)
    registry.point("code", "canary", B, share=0.2, **BY)
    registry.promote("code", **BY)
    registry.rollback("code", **BY)
    registry.point("code", "beta", B, share=0.125, **BY)
    registry.point("code", "old", B, **BY)
    registry.drop("code", "old", **BY)
    registry.retire("code", C, **BY)
    registry.retire("code", D, **BY)
    registry.delete("code", D, **BY)
    registry.evaluate_composition(
        "code:0.7+maths:0.3", ("code", "maths"), {"won": 9}, approved=True, who="ann"
    )
    access = AccessStore(registry._database)
    in_a_century = datetime.now(UTC) + timedelta(days=36_500)
    scopes = frozenset({"generate", "adapters:read"})
    minted = access.mint(
        NewKey("ci", "acme", scopes, frozenset({"code"}), expires_at=in_a_century), who="ann"
    )
    access.mint(NewKey("ops", "default", frozenset({"admin"})), who="ann")
    access.used({minted.key.id: in_a_century})
    access.revoke(access.mint(NewKey("old", "acme", scopes), who="ann").key.id, who="ann")
    access.revoke_token("acme", "token-1", who="ann")
    fill_batches(FileStore(registry._database), BatchStore(registry._database), RunStore(registry._database))


def fill_batches(files: FileStore, batches: BatchStore, runs: RunStore) -> None:
    """A batch that runs, and one that was cancelled."""
    in_a_century = NOW + timedelta(days=36_500)
    file = StoredFile("file-" + "a" * 32, "acme", "batch", "in.jsonl", 20, NOW, in_a_century)
    files.draft(file)
    files.publish(file)
    new = NewBatch("acme", {"subject": "ci"}, "/v1/completions", file.id, in_a_century, labels={"job": "ü"})
    for holder in (None, "gateway"):
        batch = batches.add(new, now=NOW, max_unfinished=2)
        if holder is None:
            batches.cancel("acme", batch.id, now=NOW)
        else:
            runs.claim(batch.id, holder, now=NOW, until=in_a_century)
            runs.advance(batch.id, holder, "validating", "in_progress", now=NOW, n_requests=2)
            runs.record(batch.id, holder, [Result(0, '{"custom_id": "a"}')])


def content(registry: Registry) -> dict[str, Any]:
    """Everything, as JSON values."""
    found = {
        "snapshot": asdict(registry.snapshot()),
        "history": [asdict(entry) for entry in registry.history(limit=1_000)],
    }
    access = AccessStore(registry._database)
    found |= {
        "keys": [asdict(key) for key in access.list_keys()],
        "revoked_tokens": access.listing().revoked_tokens,
        "audit": [asdict(entry) for entry in access.audit(limit=1_000)],
    }
    files, batches = FileStore(registry._database), BatchStore(registry._database)
    jobs = batches.list("acme", limit=100).items
    found |= {
        "files": [asdict(file) for file in files.list("acme", now=NOW, limit=100).items],
        "batches": [asdict(job) | {"done": RunStore(registry._database).done(job.id)} for job in jobs],
    }
    values: dict[str, Any] = json.loads(json.dumps(found, default=_plain))
    return values


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def write_newest() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.db"
        _write_content("sqlite", sqlite_url(path))
        with closing(sqlite3.connect(path)) as connection:
            _write("sqlite.sql", "".join(f"{line}\n" for line in connection.iterdump()))
    server = PostgresServer(_programs())
    try:
        url = server.url(server.new_database())
        _write_content("postgresql", url)
        command = [str(_programs() / "pg_dump"), "--inserts", "--no-owner", "--no-privileges", url]
        dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # Without commands of psql, which newer versions write: it is not psql that reads it here.
        lines = dump.splitlines(keepends=True)
        _write("postgresql.sql", "".join(line for line in lines if not line.startswith("\\")))
    finally:
        server.close()


def _write_content(kind: str, url: str) -> None:
    registry = Registry.open(url)
    fill(registry)
    _write(f"{kind}.json", json.dumps(content(registry), indent=1, ensure_ascii=False) + "\n")
    registry.close()


def _write(name: str, text: str) -> None:
    (FOLDER / f"{schemas()[0]}.{name}").write_text(text, encoding="utf-8")


def _programs() -> Path:
    programs = find_programs()
    assert programs is not None, "PostgreSQL is not installed"
    return programs


if __name__ == "__main__":
    write_newest()
