"""What is typed, piped and printed, where it is not the UTF-8 that one would wish for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptive_lora.cli import app
from adaptive_lora.errors import InvalidRequest, SettingsError
from adaptive_lora.settings_loading import load_settings

NOBODY = "http://127.0.0.1:9"
ROOT = Path(__file__).parents[2]


def run(*arguments: str | bytes, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "adaptive_lora", *arguments],
        input=stdin,
        env=os.environ | environ,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("key", ["alk_secret\n", "alk_secret x", "alk_sécret"])
@pytest.mark.parametrize("command", [("adapters", "status", "--server"), ("generate", "hi", "--url")])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(command: tuple[str, ...], key: str) -> None:
    result = CliRunner().invoke(app, [*command, NOBODY], env={"ADAPTIVE_LORA_API_KEY": key})
    assert isinstance(result.exception, InvalidRequest)
    assert "ADAPTIVE_LORA_API_KEY" in result.exception.message
    assert "cret" not in result.exception.message


@pytest.mark.parametrize("coding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_a_character_is_no_failure(tmp_path: Path, coding: str) -> None:
    folder = tmp_path / "Grüße ψ"
    folder.mkdir()
    shutil.copy(ROOT / "demo" / "fleet" / "base" / "config.json", folder)
    command = ("plan", "--model", str(folder), "--context", "256")
    for_people = run(*command, PYTHONIOENCODING=coding)
    assert (for_people.returncode, for_people.stderr) == (0, b"")
    assert "Grüße ψ".encode(coding, "backslashreplace") in for_people.stdout
    for_programs = run(*command, "--json", PYTHONIOENCODING=coding)
    assert json.loads(for_programs.stdout.decode(coding))["model"] == str(folder), for_programs.stderr


@pytest.mark.parametrize("coding", ["utf-8:strict", "utf-8:surrogateescape"])
def test_a_prompt_that_is_no_text_is_refused(coding: str) -> None:
    for arguments, stdin in ((("-",), b"\xff\xfe"), ((b"\xff\xfe",), b"")):
        refused = run("generate", *arguments, "--url", NOBODY, stdin=stdin, PYTHONIOENCODING=coding)
        assert (refused.returncode, refused.stderr) == (1, b"error: the prompt is not UTF-8 text\n")


def test_the_settings_file_may_be_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.yaml").write_text("api: {port: 9001}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(Path("~/settings.yaml"), environ={}).api.port == 9001
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(Path("~nobody-of-this-name/settings.yaml"), environ={})
