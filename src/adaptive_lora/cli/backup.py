"""adaptive-lora backup | backups | verify | restore"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.table import Table

from adaptive_lora.cli.client import actor
from adaptive_lora.cli.common import AsJson, Config, console, output, print_json
from adaptive_lora.errors import AdaptiveLoraError, HashMismatch, InvalidRequest
from adaptive_lora.settings import Settings
from adaptive_lora.settings_loading import load_settings, secret_keys

if TYPE_CHECKING:
    from adaptive_lora.access.records import AuditAction
    from adaptive_lora.backup.records import Backup
    from adaptive_lora.backup.site import Site

URL_VARIABLE = "ADAPTIVE_LORA_BACKUP_URL"
KEY_FILE_VARIABLE = "ADAPTIVE_LORA_BACKUP_KEY_FILE"
TENANT = "default"
"""Whose administrators find backups in the audit log."""

Url = Annotated[
    str,
    typer.Argument(
        help="s3://bucket/path, gs://bucket/path, az://container/path, file:///path or an absolute path.",
        envvar=URL_VARIABLE,
    ),
]
BackupId = Annotated[str | None, typer.Option("--id", help="Which backup; default: the newest.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        help="File with 64 hexadecimal digits: backups are encrypted with AES-256-GCM.",
        envvar=KEY_FILE_VARIABLE,
    ),
]


def register(app: typer.Typer) -> None:
    app.command("backup")(backup)
    app.command("backups")(backups)
    app.command("verify")(verify)
    app.command("restore")(restore)


def backup(
    url: Url,
    key_file: KeyFile = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Delete older ones than the newest N; default: none.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on without files that are gone or damaged.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Back up database, adapters, callers' files, router bundles and settings, while servers run."""
    from adaptive_lora.backup.make import make
    from adaptive_lora.backup.repository import Repository
    from adaptive_lora.backup.retention import keep_newest

    began = time.monotonic()
    settings = load_settings(config)
    site = _site(settings)
    with _telling() as tell:
        tell("looking at the backups that there are")
        repository = Repository.open(_address(url), key_file, create=True)
        plain, secrets = _without_secrets(settings)
        made = make(
            site, repository, settings=plain, secrets=secrets, allow_missing=allow_missing, progress=tell
        )
        _note(site, "backup.make", made.backup_id, {"url": str(repository.folder.location)})
        deleted = () if keep is None else keep_newest(repository, keep)
    answer = {
        **_fields(made.backup_id, made.backup),
        "new_bytes": made.n_new_bytes,
        "deleted": list(deleted),
        "seconds": round(time.monotonic() - began, 2),
    }
    if as_json:
        print_json(answer)
        return
    output().print(made.backup_id)
    console().print(
        f"{answer['files']} files, {_mb(made.backup.n_bytes)}; {_mb(made.n_new_bytes)} went over in "
        f"{answer['seconds']:.1f} s; {len(deleted)} older backups deleted",
        style="dim",
    )
    for what in made.backup.missing:
        console().print(f"missing: {what}", style="yellow", markup=False)


def backups(
    url: Url,
    backup_id: BackupId = None,
    key_file: KeyFile = None,
    show_settings: Annotated[
        bool, typer.Option("--settings", help="Print the settings that it holds, as YAML; without secrets.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List backups, newest first. Exit code 1 if one cannot be read, after all others."""
    from adaptive_lora.backup.repository import Repository

    repository = Repository.open(_address(url), key_file)
    if show_settings:
        _, found = repository.load(backup_id)
        for key in found.secrets:
            console().print(f"set, but kept elsewhere: {key}", style="yellow")
        typer.echo(yaml.safe_dump(found.settings, sort_keys=False), nl=False)
        return
    ids = repository.ids() if backup_id is None else (backup_id,)
    rows, damaged = [], []
    for each in ids:
        try:
            rows.append(_fields(*repository.load(each)))
        except HashMismatch as error:
            damaged.append(error.message)
    _list(rows, as_json=as_json)
    for line in damaged:
        console().print(line, style="red", markup=False)
    if damaged:
        raise typer.Exit(1)


def _list(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    table = Table("backup", "made (UTC)", "files", "size", "database", "missing", box=None)
    table.columns[0].no_wrap = True
    for row in rows:
        moment = row["created_at"][:19].replace("T", " ")
        revision = f"revision {row['registry_revision']}"
        table.add_row(
            row["id"], moment, str(row["files"]), _mb(row["bytes"]), revision, str(len(row["missing"]))
        )
    output().print(table)


def verify(
    url: Url,
    backup_id: BackupId = None,
    key_file: KeyFile = None,
    every: Annotated[bool, typer.Option("--all", help="All backups, not one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a backup back and compare everything with its hashes. Exit code 1 if something is damaged."""
    from adaptive_lora.backup.repository import Repository
    from adaptive_lora.backup.verify import verify as read_back

    repository = Repository.open(_address(url), key_file)
    rows: list[dict[str, Any]] = []
    for each in repository.ids() if every else (backup_id,):
        with _telling() as tell:
            tell(f"reading {each or 'the newest backup'}")
            try:
                found_id, found = repository.load(each)
            except HashMismatch as error:
                if each is None:
                    raise
                rows.append({"id": each, "files": 0, "bytes": 0, "damaged": [error.message]})
                continue
            result = read_back(repository, found)
        damaged = list(result.damaged)
        rows.append({"id": found_id, "files": result.n_files, "bytes": result.n_bytes, "damaged": damaged})
    if as_json:
        print_json(rows)
    for row in rows if not as_json else ():
        state = f"{len(row['damaged'])} damaged" if row["damaged"] else "whole"
        output().print(f"{row['id']}: {row['files']} files, {_mb(row['bytes'])}, {state}")
        for line in row["damaged"]:
            console().print(line, style="red", markup=False)
    if any(row["damaged"] for row in rows):
        raise typer.Exit(1)


def restore(
    url: Url,
    backup_id: BackupId = None,
    key_file: KeyFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget what database and folders hold now, if it differs.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup back where the settings say, into an empty database of either kind. Stop servers first."""
    from adaptive_lora.backup.repository import Repository
    from adaptive_lora.backup.restore import restore as put_back

    began = time.monotonic()
    site = _site(load_settings(config))
    with _telling() as tell:
        repository = Repository.open(_address(url), key_file)
        found_id, found = repository.load(backup_id)
        restored = put_back(site, repository, found, replace=replace, progress=tell)
        _note(site, "backup.restore", found_id, {"url": str(repository.folder.location)})
    answer = {
        **_fields(found_id, found),
        "restored_files": restored.n_files,
        "restored_bytes": restored.n_bytes,
        "seconds": round(time.monotonic() - began, 2),
    }
    if as_json:
        print_json(answer)
        return
    output().print(found_id)
    console().print(
        f"as of {found.created_at:%Y-%m-%d %H:%M:%S} UTC; {restored.n_files} files, {_mb(restored.n_bytes)}, "
        f"written in {answer['seconds']:.1f} s",
        style="dim",
    )
    for what in found.missing:
        console().print(f"not in the backup: {what}", style="yellow", markup=False)


def _address(url: str) -> str:
    """A path may be relative to where the command is typed. Raises InvalidRequest for the home of nobody."""
    if "://" in url:
        return url
    try:
        return str(Path(url).expanduser().resolve())
    except RuntimeError:
        raise InvalidRequest(f"{url}: there is no such user here") from None


def _site(settings: Settings) -> Site:
    from adaptive_lora.adapters.state import state_folder
    from adaptive_lora.backup.site import Site
    from adaptive_lora.serving.loading import registry_url

    folders = {
        "bundles": settings.router.bundle_path,
        "learning": settings.router.learning_path,
        "folder": settings.adapters.path,
    }
    return Site(
        registry_url(settings),
        state_folder(settings),
        settings.storage.url,
        {place: path.expanduser().absolute() for place, path in folders.items() if path is not None},  # type: ignore[misc]
    )


def _without_secrets(settings: Settings) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What differs from the defaults, by section; and the keys of secrets, which are left out of it."""
    secrets = []
    plain: dict[str, Any] = {}
    for section, keys in settings.model_dump(mode="json", exclude_defaults=True).items():
        for key, value in keys.items():
            if f"{section}.{key}" in secret_keys():
                secrets.append(f"{section}.{key}")
            else:
                plain.setdefault(section, {})[key] = value
    return plain, tuple(secrets)


def _note(site: Site, action: AuditAction, backup_id: str, detail: dict[str, str]) -> None:
    """In the audit log; what has been done stays done if that does not answer."""
    from adaptive_lora.access.store import AccessStore

    try:
        store = AccessStore.open(site.database_url)
        try:
            store.note(action, TENANT, backup_id, detail, who=actor())
        finally:
            store.close()
    except AdaptiveLoraError as error:
        console().print(f"not in the audit log: {error.message}", style="yellow", markup=False)


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    with console().status("") as status:
        yield status.update


def _fields(backup_id: str, backup: Backup) -> dict[str, Any]:
    return {
        "id": backup_id,
        "created_at": backup.created_at.isoformat(),
        "release": backup.release,
        "registry_revision": backup.database.registry_revision,
        "files": sum(1 for _ in backup.entries()),
        "bytes": backup.n_bytes,
        "missing": list(backup.missing),
    }


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
