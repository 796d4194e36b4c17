"""The comparison of two engines, on fake ones: what is asked, what is compared, and what the command says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptive_lora.cli import app
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import InvalidRequest, SettingsError
from adaptive_lora.serving import loading
from adaptive_lora.training.quantise_check import Reading, compare, questions_of, read, read_original
from adaptive_lora.types import AdapterVersion, ChatMessage, Probe, Prompt
from tests.adapter_folders import write_adapter

LOST = 0.25


def agent(name: str, *examples: str, probes: tuple[Probe, ...] = ()) -> AdapterVersion:
    return AdapterVersion(name, "0" * 12, Path(name), 8, name, examples, 1, probes)


SUMS = agent("sums", *(f"What is {n} plus 1?" for n in range(10)), probes=(Probe("What is 3 plus 1?", "4"),))
POEMS = agent("poems", *(f"Write about {n}" for n in range(10)))


class Quantised(FakeEngine):
    """Finds every token of an agent's answers less likely than FakeEngine does, and says something else."""

    async def answer_logprobs(
        self, prompt: Prompt, answer: str, adapter_id: str | None = None
    ) -> tuple[float, ...]:
        exact = await super().answer_logprobs(prompt, answer, adapter_id)
        return exact if adapter_id is None else tuple(value - LOST for value in exact)


async def started(engine: FakeEngine) -> FakeEngine:
    await engine.start()
    for version in (SUMS, POEMS):
        await engine.load(version)
    return engine


def test_probes_come_first_then_examples_at_even_distances() -> None:
    questions = questions_of((SUMS, POEMS), 4)
    asked = {
        name: [q.prompt[0].content for q in questions if q.agent == name]
        for name in ("sums", "poems", "base")
    }
    assert asked["sums"] == [f"What is {n} plus 1?" for n in (3, 0, 4, 7)], "a probe is not asked twice"
    assert questions[0].answer == "4"
    assert asked["poems"] == [f"Write about {n}" for n in (0, 2, 5, 7)]
    assert [text.split()[0] for text in asked["base"]] == ["What", "What", "Write", "Write"]
    assert {q.adapter_id for q in questions if q.agent == "base"} == {None}


async def test_the_original_answers_what_has_no_answer_yet() -> None:
    engine = await started(FakeEngine())
    questions = questions_of((SUMS, POEMS), 2)
    answered, reading = await read_original(engine, questions, 8)
    assert answered[0].answer == "4"
    assert reading.answers[0] != "4", "its own answer is kept beside the probe's"
    assert [q.answer for q in answered[1:]] == list(reading.answers[1:])
    assert [len(values) for values in reading.logprobs] == [
        len(await engine.answer_logprobs(q.prompt, q.answer or "", q.adapter_id)) for q in answered
    ]


async def test_questions_that_do_not_fit_are_left_out() -> None:
    engine = await started(FakeEngine(max_model_len=64))
    long = agent("sums", "x " * 200, "short")
    answered, _ = await read_original(engine, questions_of((long,), 2), 8)
    assert {q.prompt for q in answered} == {(ChatMessage("user", "short"),)}
    with pytest.raises(InvalidRequest, match="examples"):
        await read_original(engine, [], 8)


async def test_each_agents_loss_is_its_own() -> None:
    questions = questions_of((SUMS, POEMS), 3)
    answered, original = await read_original(await started(FakeEngine()), questions, 8)
    quantised = await read(await started(Quantised()), answered, 8)
    rows = {row.agent: row for row in compare(answered, original, quantised)}
    assert list(rows) == ["sums", "poems", "base"]
    for name in ("sums", "poems"):
        assert rows[name].loss == pytest.approx(LOST)
        ratio = rows[name].quantised_perplexity / rows[name].perplexity
        assert ratio == pytest.approx(math.exp(LOST))
    assert rows["base"].loss == 0
    assert rows["base"].equal_answers == 1


def test_equal_answers_are_equal_to_the_letter() -> None:
    questions = questions_of((SUMS,), 2)[:2]
    ones = Reading(("4", "5"), ((-1.0,), (-1.0, -3.0)))
    (row,) = compare(questions, ones, Reading(("4", "5 "), ((-1.0,), (-1.0, -3.0))))
    assert (row.equal_answers, row.loss, row.n_tokens) == (0.5, 0, 3)
    assert row.perplexity == pytest.approx(math.exp(5 / 3))


@pytest.mark.parametrize(("max_loss", "status"), [("0.3", 0), ("0.2", 1)])
@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_fails_when_too_much_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_loss: str, status: int, as_json: bool
) -> None:
    monkeypatch.setenv("ADAPTIVE_LORA_MODEL__ENGINE", "fake")
    write_adapter(tmp_path / "sums", base_model="org/one", examples=SUMS.examples)
    engines = iter((FakeEngine(), Quantised()))
    monkeypatch.setattr(loading, "build_engine", lambda settings: next(engines))
    options = ["--base-model", "org/one", "--quantization", "bitsandbytes", "--adapters", str(tmp_path)]
    options += ["--max-loss", max_loss, "--questions", "3", "--max-tokens", "8"]
    ran = CliRunner().invoke(app, ["quantise", "check", *options, *(["--json"] if as_json else [])])
    assert ran.exit_code == status, ran.output
    if not as_json:
        assert "+0.2500" in ran.stdout
        assert ("more than 0.2" in ran.stderr) is (status == 1)
        return
    said = json.loads(ran.stdout)
    assert (said["original"], said["quantised"], said["quantization"]) == (
        "org/one",
        "org/one",
        "bitsandbytes",
    )
    assert (said["passed"], said["worst"], said["max_loss"]) == (status == 0, "sums", float(max_loss))
    assert [(row["agent"], row["n_questions"], row["loss"]) for row in said["agents"]] == [
        ("sums", 3, LOST),
        ("base", 3, 0.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("check",), "--quantised"),
        (("make", "no/such-model", "out"), "hf download"),
        (("make", "demo", "out", "--scheme", "w2a2"), "w8a8-int8, w4a16-int4"),
    ],
)
def test_what_the_command_cannot_do_is_said(arguments: tuple[str, ...], problem: str) -> None:
    ran = CliRunner().invoke(app, ["quantise", *arguments])
    assert isinstance(ran.exception, SettingsError)
    assert problem in ran.exception.message
