"""Parity with PEFT: what is right passes, and a scaling that is wrong by a tenth does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from adaptive_lora.adapters.compose import compose
from adaptive_lora.adapters.manifest import write_manifest
from adaptive_lora.engine.base import Engine
from adaptive_lora.engine.factory import build_engine
from adaptive_lora.engine.random_models import make_adapters, make_model
from adaptive_lora.errors import InvalidRequest, PromptTooLong, Unsupported
from adaptive_lora.settings import Settings
from adaptive_lora.training.parity import PeftReference, check_parity, dtype_of, run_parity, texts_of
from adaptive_lora.types import AdapterVersion, Probe
from tests.adapter_folders import verified

EXAMPLES = tuple(f"Example {i}: what is {i} times {i + 1}?" for i in range(12))
PROBES = tuple(Probe(f"What is {i} plus 1?", f"It is {i + 1}.") for i in range(12))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterVersion]:
    """Two, with rsLoRA and patterns of ranks and alphas in the second."""
    folder = tmp_path_factory.mktemp("adapters")
    made = make_adapters(folder, 2, 8, base=base, strength=0.5)
    changes = [{"lora_alpha": 12}, {"use_rslora": True, "lora_alpha": 3, "alpha_pattern": {"up_proj": 7}}]
    for path, change in zip(made, changes, strict=True):
        config = json.loads((path / "adapter_config.json").read_text()) | change
        (path / "adapter_config.json").write_text(json.dumps(config))
        write_manifest(
            path,
            name=path.name,
            description="random",
            examples=EXAMPLES,
            probes=PROBES,
            base_model="demo",
        )
    return [verified(path) for path in made]


def with_alpha(adapter: AdapterVersion, folder: Path, factor: float) -> AdapterVersion:
    """The same version, whose files say another alpha: what PEFT reads, and the engine did not."""
    shutil.copytree(adapter.path, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["lora_alpha"] *= factor
    config["alpha_pattern"] = {key: alpha * factor for key, alpha in config.get("alpha_pattern", {}).items()}
    path.write_text(json.dumps(config))
    return replace(adapter, path=folder)


async def test_peft_equals_itself_and_its_report_says_what_was_compared(
    base: Path, adapters: list[AdapterVersion]
) -> None:
    reference = PeftReference.load(str(base), adapters[0])
    report = await check_parity(base, adapters[0], reference, engine_dtype="float32")
    assert report.passed
    assert report.mean_difference == report.max_difference == report.base_max_difference == 0
    assert report.effect > 0.1
    assert report.wrong_scaling_difference > 10 * 1e-3
    texts = texts_of(adapters[0])
    assert report.n_texts == len(texts) == 16
    assert report.n_tokens == sum(len(text.answer.encode()) for text in texts)  # a byte is a token here
    assert json.loads(json.dumps(report.as_dict()))["versions"]["peft"] == report.versions["peft"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
@pytest.mark.parametrize("factor", [2.0, 1.1, 0.9])
async def test_a_wrong_scaling_fails_whatever_the_type(
    base: Path, adapters: list[AdapterVersion], tmp_path: Path, factor: float, dtype: str | None
) -> None:
    """Although the tolerance of bfloat16 is wide."""
    wrong = PeftReference.load(str(base), with_alpha(adapters[0], tmp_path / "wrong", factor))
    report = await check_parity(base, adapters[0], wrong, engine_dtype=dtype)
    assert not report.passed
    assert report.mean_difference > report.mean_tolerance
    assert report.base_max_difference == 0


async def test_rounding_to_bfloat16_passes_as_that_only(base: Path, adapters: list[AdapterVersion]) -> None:
    """A reference in bfloat16 plays the engine."""
    rounded = PeftReference.load(str(base), adapters[0])
    rounded._model.to(torch.bfloat16)
    assert (await check_parity(base, adapters[0], rounded, engine_dtype="bfloat16")).passed
    assert not (await check_parity(base, adapters[0], rounded, engine_dtype="float32")).passed


async def test_what_does_not_fit_is_left_out(base: Path, adapters: list[AdapterVersion]) -> None:
    class Short:
        """An engine with a context for answers of ten tokens."""

        def __init__(self, reference: PeftReference) -> None:
            self._reference = reference

        async def answer_logprobs(self, prompt, answer, adapter_id=None):  # type: ignore[no-untyped-def]
            if len(answer) > 10:
                raise PromptTooLong("too long")
            return await self._reference.answer_logprobs(prompt, answer, adapter_id)

    short = Short(PeftReference.load(str(base), adapters[0]))
    report = await check_parity(base, adapters[0], short, engine_dtype="float32")
    assert 0 < report.n_texts < 16
    mute = replace(adapters[0], probes=(), examples=())
    with pytest.raises(InvalidRequest, match="nothing can be compared"):
        await check_parity(base, mute, short)


async def test_another_tokenizer_is_noticed(base: Path, adapters: list[AdapterVersion]) -> None:
    class Split:
        """An engine whose answers have fewer tokens."""

        async def answer_logprobs(self, prompt, answer, adapter_id=None):  # type: ignore[no-untyped-def]
            return (-1.0,) * (len(answer) // 2)

    with pytest.raises(Unsupported, match="different tokens"):
        await check_parity(base, adapters[0], Split())


def test_what_cannot_equal_peft_is_not_started(
    base: Path, adapters: list[AdapterVersion], tmp_path: Path
) -> None:
    fake = Settings.model_validate({"model": {"base_model": str(base), "engine": "fake"}})
    with pytest.raises(Unsupported, match="fake engine"):
        run_parity(fake, adapters[0])
    (tmp_path / "config.json").write_text('{"quantization_config": {}}')
    quantised = Settings.model_validate({"model": {"base_model": str(tmp_path)}})
    with pytest.raises(Unsupported, match="quantised"):
        run_parity(quantised, adapters[0])


def settings_for(base: Path) -> Settings:
    return Settings.model_validate(
        {
            "model": {"base_model": str(base), "dtype": "float32", "kv_cache_bytes": 64 << 20},
            "adapters": {"max_loras": 2, "max_lora_rank": 16},
        }
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(base: Path) -> AsyncIterator[Engine]:
    settings = settings_for(base)
    engine = build_engine(settings.model, settings.adapters, settings.inference)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.mark.vllm
@pytest.mark.asyncio(loop_scope="module")
class TestOnVLLM:
    async def test_the_engine_equals_peft(
        self, engine: Engine, base: Path, adapters: list[AdapterVersion], tmp_path: Path
    ) -> None:
        for adapter in adapters:
            await engine.load(adapter)
            report = await check_parity(base, adapter, engine, engine_dtype=dtype_of(engine))
            assert report.engine_dtype == "float32"
            assert report.passed, report
            assert report.max_difference < 1e-3
            wrong = with_alpha(adapter, tmp_path / f"wrong-{adapter.name}", 1.1)
            assert not (await check_parity(base, wrong, engine, engine_dtype=dtype_of(engine))).passed

    async def test_a_composition_equals_peft(
        self, engine: Engine, base: Path, adapters: list[AdapterVersion], tmp_path: Path
    ) -> None:
        """Loaded by vLLM as any other adapter; the report is on the same files under PEFT, which
        test_compose_peft compares with PEFT's own sum."""
        parts = [(adapters[0], 0.7), (adapters[1], 0.4)]
        for rank in (16, 6):
            composed = compose(parts, tmp_path / f"rank-{rank}", max_rank=rank)
            await engine.load(composed.version)
            texts = texts_of(adapters[0])
            report = await check_parity(
                base, composed.version, engine, engine_dtype=dtype_of(engine), texts=texts
            )
            assert report.passed, report
            assert report.max_difference < 1e-3


@pytest.mark.vllm
@pytest.mark.acceptance
def test_the_job_starts_and_stops_an_engine_of_its_own(base: Path, adapters: list[AdapterVersion]) -> None:
    report = run_parity(settings_for(base), adapters[1])
    assert report.passed, report
    assert (report.adapter, report.engine_dtype) == (adapters[1].id, "float32")
