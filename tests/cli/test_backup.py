"""`backup`, `backups`, `verify` and `restore`, as operators type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from adaptive_lora.cli import app
from adaptive_lora.errors import InvalidRequest

SECRET = "0123456789abcdef0123456789abcdef"


def config_in(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "settings.yaml"
    path.write_text(
        f"model: {{engine: fake, base_model: fake}}\nstorage: {{path: {folder / 'state'}}}\n"
        f"auth: {{jwt_secret: {SECRET}}}\napi: {{port: 9000}}\n"
    )
    return str(path)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    key = tmp_path / "backup.key"
    key.write_text("ab" * 32)
    return {
        "ADAPTIVE_LORA_BACKUP_URL": str(tmp_path / "backups"),
        "ADAPTIVE_LORA_BACKUP_KEY_FILE": str(key),
    }


def invoke(environ: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environ)


def test_a_key_survives_its_database(tmp_path: Path, environ: dict[str, str]) -> None:
    config = config_in(tmp_path / "site")
    assert invoke(environ, "keys", "mint", "ci", "-c", config).exit_code == 0
    made = invoke(environ, "backup", "-c", config)
    assert made.exit_code == 0, made.output
    (listed,) = json.loads(invoke(environ, "backups", "--json").stdout)
    assert listed["id"] == made.stdout.strip()
    assert made.stdout.strip() in invoke(environ, "backups").stdout
    assert invoke(environ, "verify").exit_code == 0
    other = config_in(tmp_path / "other")
    assert invoke(environ, "restore", "-c", other).exit_code == 0
    keys = json.loads(invoke(environ, "keys", "list", "--json", "-c", other).stdout)
    assert [key["name"] for key in keys] == ["ci"]
    refused = invoke(environ, "restore", "-c", other)
    assert refused.exit_code == 1
    assert invoke(environ, "restore", "--replace", "-c", other).exit_code == 0


def test_settings_come_along_without_their_secrets(tmp_path: Path, environ: dict[str, str]) -> None:
    config = config_in(tmp_path / "site")
    invoke(environ, "keys", "mint", "ci", "-c", config)
    made = json.loads(invoke(environ, "backup", "-c", config, "--json").stdout)
    shown = invoke(environ, "backups", "--id", made["id"], "--settings")
    assert "set, but kept elsewhere: auth.jwt_secret" in shown.stderr
    settings = yaml.safe_load(shown.stdout)
    assert settings["api"] == {"port": 9000}
    assert "auth" not in settings
    assert SECRET not in shown.output


def test_old_backups_go(tmp_path: Path, environ: dict[str, str]) -> None:
    config = config_in(tmp_path / "site")
    for i in range(3):
        invoke(environ, "keys", "mint", f"key-{i}", "-c", config)
        made = json.loads(invoke(environ, "backup", "--keep", "2", "-c", config, "--json").stdout)
    listed = json.loads(invoke(environ, "backups", "--json").stdout)
    assert listed[0]["id"] == made["id"]
    assert len(listed) == 2
    assert len(made["deleted"]) == 1


def test_damage_is_exit_code_1(tmp_path: Path, environ: dict[str, str]) -> None:
    config = config_in(tmp_path / "site")
    invoke(environ, "keys", "mint", "ci", "-c", config)
    invoke(environ, "backup", "-c", config)
    path = max((tmp_path / "backups" / "objects").glob("*/*"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    found = invoke(environ, "verify", "--all", "--json")
    assert found.exit_code == 1
    assert len(json.loads(found.stdout)[0]["damaged"]) == 1
    assert "is damaged in the backups" in invoke(environ, "verify").stderr


def test_a_damaged_backup_hides_no_other(tmp_path: Path, environ: dict[str, str]) -> None:
    config = config_in(tmp_path / "site")
    made = []
    for name in ("first", "second"):
        invoke(environ, "keys", "mint", name, "-c", config)
        made.append(invoke(environ, "backup", "-c", config).stdout.strip())
    path = tmp_path / "backups" / "backups" / made[1]
    path.write_bytes(path.read_bytes()[:-1])
    listed = invoke(environ, "backups", "--json")
    assert listed.exit_code == 1
    assert [row["id"] for row in json.loads(listed.stdout)] == [made[0]]
    assert made[1] in listed.stderr
    found = json.loads(invoke(environ, "verify", "--all", "--json").stdout)
    assert [(row["id"], len(row["damaged"])) for row in found] == [(made[1], 1), (made[0], 0)]
    assert invoke(environ, "restore", "--id", made[0], "-c", config_in(tmp_path / "other")).exit_code == 0


def test_the_home_of_nobody_is_an_error(environ: dict[str, str]) -> None:
    result = invoke(environ, "backups", "~nobody-of-this-name/backups")
    assert isinstance(result.exception, InvalidRequest)


def test_what_was_made_is_in_the_audit_log(tmp_path: Path, environ: dict[str, str]) -> None:
    from adaptive_lora.cli.keys import opened

    config = config_in(tmp_path / "site")
    invoke(environ, "keys", "mint", "ci", "-c", config)
    backup_id = invoke(environ, "backup", "-c", config).stdout.strip()
    invoke(environ, "restore", "--replace", "-c", config)
    with opened(Path(config)) as store:
        entries = [(entry.action, entry.subject) for entry in store.audit()]
    assert entries == [("backup.restore", backup_id), ("key.mint", entries[1][1])]
