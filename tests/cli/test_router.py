from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptive_lora.cli.app import app
from adaptive_lora.errors import InvalidRequest

PROMPTS = {
    "music": ["play some jazz", "skip this song", "queue three songs", "who sings this", "stop the music"],
    "weather": [
        "will it rain today",
        "is it windy",
        "how cold is it",
        "is snow expected",
        "do I need a coat",
    ],
}
TEST = [("play this song", "music"), ("will it snow today", "weather"), ("xyzzy 42", None)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rows = [(prompt, label) for label, prompts in PROMPTS.items() for prompt in prompts]
    paths = []
    for name, pairs in (("train", rows), ("test", TEST)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"prompt": p, "label": label}) for p, label in pairs))
        paths.append(path)
    return paths[0], paths[1]


def test_evaluate_prints_one_json_object(files: tuple[Path, Path]) -> None:
    train, test = files
    arguments = ["router", "evaluate", "--train", str(train), "--test", str(test), "--no-encoder", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["top1"] == figures["macro_f1"] == 1
    assert figures["oos_auroc"] == 1
    assert (figures["n_train"], figures["n_labels"], figures["n_test"], figures["n_oos"]) == (10, 2, 2, 1)
    assert set(figures) >= {
        *("ece", "coverage", "error", "oos_rejected", "latency_ms", "throughput_per_s"),
        *("fit_s", "add_label_s", "remove_label_s", "size_mb"),
    }
    assert figures["encoder"] is None


def test_evaluate_for_people(files: tuple[Path, Path]) -> None:
    train, test = files
    result = CliRunner().invoke(
        app,
        [
            "router",
            "evaluate",
            "--train",
            str(train),
            "--test",
            str(test),
            "--calibrate",
            str(test),
            "--no-encoder",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "oos_auroc" in result.output


def test_a_bad_file_is_an_error(files: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["router", "evaluate", "--train", str(tmp_path / "absent"), "--test", str(files[1])]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InvalidRequest)
