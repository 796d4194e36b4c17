from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptive_lora.cli.app import app
from adaptive_lora.errors import BundleError, InvalidRequest

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


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["router", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_life_of_a_bundle(files: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = files
    folder = tmp_path / "bundles"
    fitted = json.loads(run("fit", folder, "--train", train, "--test", test, "--no-encoder", "--json"))
    assert fitted["top1"] == 1
    page = Path(fitted["report"]).read_text()
    assert page.count("<svg") == 2
    assert "Confusion matrix" in page

    decision = json.loads(run("explain", folder, "play some jazz", "--json"))
    assert (decision["agent"], decision["candidates"]) == ("music", ["music"])
    assert "nearest example" in run("explain", folder, "play some jazz")

    calibrated = json.loads(run("calibrate", folder, "--calibrate", train, "--max-error", "0.3", "--json"))
    assert calibrated["n_held_out"] == 10
    (tmp_path / "cooking.jsonl").write_text('{"prompt": "boil an egg", "label": "cooking"}')
    added = run("add", folder, "cooking", "--examples", tmp_path / "cooking.jsonl").strip()
    egg = json.loads(run("explain", folder, "boil an egg please", "--json"))
    assert egg["agent"] == "base"
    removed = run("remove", folder, "cooking").strip()

    told = json.loads(run("history", folder, "--json"))
    versions = [entry["version"] for entry in told["history"]]
    assert versions == [fitted["version"], calibrated["version"], added, removed]
    assert run("rollback", folder).strip() == added
    assert run("rollback", folder, fitted["version"], "--why", "start").strip() == fitted["version"]
    assert fitted["version"] in run("history", folder)


def test_what_a_bundle_cannot_do(files: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = files
    with pytest.raises(BundleError, match="holds no router bundle"):
        run("explain", tmp_path / "none", "hello")
    folder = tmp_path / "bundles"
    run("fit", folder, "--train", train, "--test", test, "--no-encoder")
    with pytest.raises(InvalidRequest, match="no prompt with the label 'nobody'"):
        run("add", folder, "nobody", "--examples", train)
    (tmp_path / "other.jsonl").write_text('{"prompt": "x", "label": "other"}')
    with pytest.raises(InvalidRequest, match="no prompt of"):
        run("calibrate", folder, "--calibrate", tmp_path / "other.jsonl")
    with pytest.raises(BundleError, match="nothing to go back to"):
        run("rollback", folder)


def test_the_report_of_an_evaluation(files: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = files
    run("evaluate", "--train", train, "--test", test, "--no-encoder", "--report", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
