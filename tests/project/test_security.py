"""What the security page says is there; and rules that hold for all of the package."""

from __future__ import annotations

import ast
import re
import secrets
import subprocess
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from adaptive_lora.errors import SettingsError
from adaptive_lora.serving.auth.signing_secret import read_secrets
from adaptive_lora.settings_loading import load_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "security.md").read_text()
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_every_threat_is_met_by_a_test_that_exists() -> None:
    rows = re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        if "proven by" in row or set(row) <= set("|-"):
            continue
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, row
        for path, test in named:
            assert (ROOT / path).is_file(), path
            assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_no_check_of_the_package_is_an_assert() -> None:
    """`python -O` leaves them out."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__debug__")
    ]
    assert SOURCES
    assert found == []


FORBIDDEN = {
    "eval": "builtins",
    "exec": "builtins",
    "load": "pickle, torch, marshal, dill, joblib, shelve",
    "loads": "pickle, marshal, dill",
    "system": "os",
    "popen": "os",
    "mktemp": "tempfile",
}


def test_nothing_is_run_that_was_read() -> None:
    """Calls that run what they are given. `yaml.load` has a loader of plain values, which a test holds to."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            text = ast.unparse(node)
            module, _, name = ast.unparse(node.func).rpartition(".")
            if name in FORBIDDEN and (module or "builtins") in FORBIDDEN[name].split(", "):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
            for keyword in node.keywords:
                is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if is_true and keyword.arg in ("shell", "trust_remote_code", "allow_pickle"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert found == []


def test_settings_are_read_as_plain_values(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "settings.yaml"
    path.write_text(f"api: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(SettingsError, match="YAML"):
        load_settings(path, environ={})
    assert not mark.exists()


def test_a_secret_is_rotated_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "authentication.md").read_text()
    (script,) = re.findall(r"^```bash\n(umask.*?)^```", page, re.MULTILINE | re.DOTALL)
    first, then = script.split("# when the last token")
    path = tmp_path / "secret"
    path.write_text(secrets.token_urlsafe(48) + "\n")
    old = read_secrets(path)
    subprocess.run(["bash", "-ec", first], cwd=tmp_path, check=True)
    both = read_secrets(path)
    assert path.stat().st_mode & 0o077 == 0
    assert both[1:] == old
    subprocess.run(["bash", "-ec", "#" + then], cwd=tmp_path, check=True)
    assert read_secrets(path) == both[:1]


def test_the_server_installs_no_client_of_the_tests() -> None:
    for lock in ("gateway", "cpu", "gpu"):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        installed = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
        assert installed
        assert not installed & {"litellm", "langchain-openai", "schemathesis", "moto"}


def test_it_is_said_how_to_report() -> None:
    assert "Report a vulnerability" in (ROOT / "SECURITY.md").read_text()
