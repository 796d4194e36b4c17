"""What fits where, and the command that says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.testing import CliRunner

from adaptive_lora.cli import app
from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import AdaptersSettings
from adaptive_lora.settings_loading import load_settings
from adaptive_lora.sizing.instances import GPU_MIB, INSTANCES, Instance
from adaptive_lora.sizing.memory import GIB, Load, adapter_bytes, memory
from adaptive_lora.sizing.models import model_shape
from adaptive_lora.sizing.plan import HOST_BYTES, RANKS, check, fits, settings_for, smallest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sizing.md"
AN_8B = ["--model", "8b", "--quant", "nf4", "--adapters", "32", "--context", "4096", "--concurrency", "64"]


def names(found: dict[str, Any]) -> dict[str, str]:
    return {cloud: fit.instance.name for cloud, fit in found.items()}


def test_the_guides_machine_serves_an_8b_in_nf4() -> None:
    """g5.xlarge, one A10G: its "development" machine, for few callers."""
    found = fits(model_shape("8b"), Load("nf4", 8, 16, 8, 4096, 16), 0.85)
    assert found[0].instance.name == "g5.xlarge"
    assert found[0].missing is None
    assert smallest(found)["aws"] is found[0]


def test_a_70b_in_bf16_is_split_over_four_gpus_of_80_gb_as_the_guide_has_it() -> None:
    found = {fit.instance.name: fit for fit in fits(model_shape("70b"), Load(concurrency=32), 0.9)}
    assert found["NC96ads_A100_v4"].missing is None
    assert found["NC96ads_A100_v4"].tensor_parallel == 4
    assert found["NC48ads_A100_v4"].missing == "gpu"
    assert found["p5.48xlarge"].n_copies == 2


def test_a_machine_fits_if_and_only_if_its_memory_is_enough() -> None:
    shape, load = model_shape("8b"), Load("nf4", 4, 16, 4, 2048, 8)
    needed = memory(shape, load).total
    host_gib = -(-(HOST_BYTES + 4 * adapter_bytes(shape, 16)) // GIB)
    for utilization in (0.5, 0.9):
        for gpu, mib in GPU_MIB.items():
            machine = Instance("x", "x", gpu, 1, 1, host_gib)
            (fit,) = fits(shape, load, utilization, [machine])
            assert (fit.missing is None) == (needed <= mib * (1 << 20) * utilization)
            assert (fit.n_sequences >= load.concurrency) == (fit.missing is None)
    (fit,) = fits(shape, load, 0.9, [Instance("x", "x", "H100", 1, 1, host_gib - 1)])
    assert fit.missing == "host"


@pytest.mark.parametrize("name", ["8b", "70b", "32b"])
def test_the_fewest_gpus_are_used_and_heads_divide_by_them(name: str) -> None:
    shape, load = model_shape(name), check(Load("int8", 16, 16, 8, 8192, 32))
    for fit in fits(shape, load, 0.9):
        assert fit.tensor_parallel <= fit.instance.n_gpus
        assert shape.n_heads % fit.tensor_parallel == 0
        if fit.missing is None and fit.tensor_parallel > 1:
            fewer = memory(shape, load, fit.tensor_parallel // 2)
            assert fewer.total > fit.usable


def test_heads_that_do_not_divide_are_not_split() -> None:
    """24 heads divide by 2, 4 and 8; 3 KV heads do not."""
    shape = replace(model_shape("3b"), n_kv_heads=3)
    assert {fit.tensor_parallel for fit in fits(shape, Load(concurrency=4096), 0.9)} == {1}


def test_the_smallest_comes_first() -> None:
    found = fits(model_shape("8b"), Load(), 0.9)
    sizes = [fit.instance.gpu_bytes * fit.instance.n_gpus for fit in found]
    assert sizes == sorted(sizes)
    assert len(found) == len(INSTANCES)
    assert names(smallest(found)).keys() == {"aws", "gcp", "azure"}


def test_a_load_is_what_the_settings_can_say() -> None:
    assert check(Load(rank=9)).rank == 16
    assert check(Load(n_adapters=2, n_slots=8)).n_slots == 2
    assert check(Load(n_adapters=0, n_slots=8)).n_slots == 1
    with pytest.raises(SettingsError, match="at most 512"):
        check(Load(rank=513))


def test_ranks_are_those_of_the_settings() -> None:
    for rank in RANKS:
        load_settings(environ={"ADAPTIVE_LORA_ADAPTERS__MAX_LORA_RANK": str(rank)})
    assert get_args(AdaptersSettings.model_fields["max_lora_rank"].annotation) == RANKS


@pytest.mark.parametrize("quant", ["nf4", "fp8", "bf16", "int4"])
def test_the_settings_load_and_say_what_was_planned(tmp_path: Path, quant: str) -> None:
    shape, load = model_shape("8b"), check(Load(quant, 100, 20, 8, 4096, 64))
    fit = smallest(fits(shape, load, 0.85))["aws"]
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings_for(shape, load, fit, 0.85)))
    settings = load_settings(path, environ={})
    assert settings.model.base_model == "meta-llama/Meta-Llama-3-8B"
    assert settings.model.max_model_len == 4096
    assert settings.model.gpu_memory_utilization == 0.85
    assert settings.model.tensor_parallel_size == fit.tensor_parallel
    assert settings.model.quantization == {"nf4": "bitsandbytes", "fp8": "fp8"}.get(quant)
    assert settings.inference.max_batch_size == 64
    assert settings.adapters.max_loras == 8
    assert settings.adapters.max_cpu_loras == 100
    assert settings.adapters.max_lora_rank == 32


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *arguments])
    return result.exit_code, result.output


def test_the_command_prints_what_fits_where_and_settings_that_load(tmp_path: Path) -> None:
    code, text = invoke(*AN_8B)
    assert code == 0
    assert "131,072 bytes a token" in text
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith(("aws", "gcp", "azure"))}
    assert lines.keys() == {instance.name for instance in INSTANCES}
    assert lines["g5.xlarge"].endswith(" no")
    assert lines["p5.48xlarge"].endswith("fits 8 times")
    path = tmp_path / "settings.yaml"
    path.write_text(text[text.index("\nmodel:") :])
    assert load_settings(path, environ={}).model.quantization == "bitsandbytes"


def test_the_documents_figures_are_the_commands() -> None:
    _, text = invoke(*AN_8B)
    shown = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    for line in shown[1].splitlines():
        if line != "...":
            assert line in text.splitlines(), line


def test_the_documents_table_of_machines_is_the_codes() -> None:
    row = r"^\| (aws|gcp|azure) \| `(\S+)` \| (\d+) x (\S+) \| \S+ \| (\d+) \| (\d+) \|"
    rows = re.findall(row, PAGE.read_text(), re.MULTILINE)
    told = {(cloud, name, gpu, int(n), int(cpus), int(host)) for cloud, name, n, gpu, cpus, host in rows}
    assert told == {(i.cloud, i.name, i.gpu, i.n_gpus, i.n_vcpus, i.host_gib) for i in INSTANCES}


def test_the_documents_smallest_machines_are_the_codes() -> None:
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\d+) x (\d+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 10
    for model, quant, concurrency, context, told in rows:
        load = check(Load(quant, 32, 16, 8, int(context), int(concurrency)))
        found = smallest(fits(model_shape(model), load, 0.9))
        cells = []
        for cloud in ("aws", "gcp", "azure"):
            split = found[cloud].tensor_parallel
            cells.append(f"`{found[cloud].instance.name}`" + (f" (split {split})" if split > 1 else ""))
        assert told == " | ".join(cells)


def test_the_command_for_programs() -> None:
    code, text = invoke(*AN_8B, "--json", "--cloud", "aws")
    found = json.loads(text)
    assert code == 0
    assert found["kv_bytes_per_token"] == 131_072
    assert {machine["cloud"] for machine in found["machines"]} == {"aws"}
    best = next(machine for machine in found["machines"] if machine["fits"])
    assert (found["smallest"], found["smallest_by_cloud"]) == (best["name"], {"aws": best["name"]})
    for each in found["machines"]:
        parts = each["weights"] + each["slots"] + each["kv_cache"] + each["overhead"]
        assert each["needed_per_gpu"] == parts
        assert each["fits"] == (each["missing"] is None)


def test_what_fits_nowhere_is_exit_code_1_and_says_what_would_help() -> None:
    code, text = invoke("--model", "405b", "--concurrency", "4096", "--context", "131072")
    assert code == 1
    assert "None of these machines holds it" in text
    code, text = invoke("--model", "405b", "--concurrency", "4096", "--context", "131072", "--json")
    assert (code, json.loads(text)["settings"]) == (1, None)


def test_a_context_that_the_model_was_not_made_for_is_told() -> None:
    told = "Meta-Llama-3-8B was made for 8192 tokens"
    assert told not in CliRunner().invoke(app, ["plan", "--model", "8b", "--context", "8192"]).stderr
    assert told in CliRunner().invoke(app, ["plan", "--model", "8b", "--context", "8193", "--json"]).stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--quant", "q4"), "--quant q4"),
        (("--cloud", "moon"), "choose one of aws, azure, gcp"),
        (("--model", "9b"), "presets are"),
    ],
)
def test_wrong_words_are_errors(arguments: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(result.exception, SettingsError)
    assert says in result.exception.message


def test_the_demo_fits_anywhere_with_room() -> None:
    folder = Path(__file__).parents[2] / "demo" / "fleet" / "base"
    code, text = invoke("--model", str(folder), "--json", "--context", "1024")
    assert code == 0
    assert json.loads(text)["parameters"] == 3_541_248
