from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adaptive_lora.errors import InvalidRequest, SettingsError
from adaptive_lora.router.bundle import BundleStore
from adaptive_lora.training.router import RouterTraining, load_config, read_examples, train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    path = tmp_path / "examples.jsonl"
    rows = [
        (f"play song number {word}", "music")
        for word in ["one", "two", "three", "four", "five", "six", "seven"]
    ]
    rows += [
        (f"will it rain on {day}", "weather")
        for day in ["Monday", "Tuesday", "Friday", "Sunday", "May", "June"]
    ]
    path.write_text("\n".join(json.dumps({"prompt": p, "label": label}) for p, label in rows))
    return path


def test_the_shipped_configuration_is_the_default() -> None:
    assert load_config(ROOT / "configs/router/training_config.yaml") == RouterTraining()


def test_a_fifth_is_held_out_measured_and_learnt_afterwards(examples: Path, tmp_path: Path) -> None:
    config = RouterTraining(examples=str(examples), use_encoder=False, output=tmp_path / "out")
    trained = train(config)
    assert (trained.figures["n_test"], trained.figures["n_train"]) == (2, 11)
    bundle = BundleStore(tmp_path / "out").load(encoder=None)
    assert bundle.version == trained.version
    assert dict(bundle.router.report.agents) == {"music": 7, "weather": 6}
    assert trained.report == tmp_path / "out/report.html"


def test_the_script_trains_as_the_file_says(examples: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"examples: {examples}\nuse_encoder: false\noutput: {tmp_path / 'out'}\n")
    command = [sys.executable, "experiments/train_router.py", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    version = json.loads(done.stdout.splitlines()[-1])["version"]
    assert BundleStore(tmp_path / "out").current() == version
    config.write_text("exmaples: demo\n")
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "exmaples" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_examples_of_adapters_bring_their_versions() -> None:
    demo = read_examples("demo")
    assert set(demo.prompts) == set(demo.adapters) == set(demo.descriptions) >= {"code", "creative"}
    assert all(len(version) == 12 for version in demo.adapters.values())


def test_what_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="neither 'demo'"):
        read_examples(str(tmp_path))
    (tmp_path / "one.jsonl").write_text('{"prompt": "x", "label": "a"}')
    with pytest.raises(InvalidRequest, match="too few examples"):
        train(RouterTraining(examples=str(tmp_path / "one.jsonl"), use_encoder=False, output=tmp_path))
    (tmp_path / "bad.yaml").write_text("max_error: 2\n")
    with pytest.raises(SettingsError, match="max_error"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")
