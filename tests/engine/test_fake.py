"""FakeEngine conforms, and does what only a fake can do."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from adaptive_lora.engine import fake_text
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.errors import EngineDead, Unsupported
from adaptive_lora.types import AdapterVersion

from .conformance import BOOLEAN, PROMPT, EngineConformance, complete, request


def adapter(name: str, rank: int = 8) -> AdapterVersion:
    return AdapterVersion(name, "0123456789ab", Path("/nowhere"), rank, "", (), 0)


@pytest.fixture
def adapters():
    return [adapter("code"), adapter("reasoning"), adapter("writing")]


@pytest.fixture
def spare():
    return adapter("spare")


@pytest.fixture
def too_large():
    return adapter("large", rank=512)


@pytest.fixture
def unstarted():
    return FakeEngine()


@pytest.fixture
async def engine(adapters):
    engine = FakeEngine(max_model_len=256, max_loras=2, delay_s=0.001)
    await engine.start()
    for one in adapters:
        await engine.load(one)
    yield engine
    await engine.stop()


class TestFakeEngine(EngineConformance):
    async def test_a_queue_forms_beyond_max_num_seqs(self):
        engine = FakeEngine(max_num_seqs=1)
        await engine.start()
        first, second = engine.generate(request()), engine.generate(request())
        await anext(first)
        import asyncio

        waiting = asyncio.ensure_future(anext(second))
        await asyncio.sleep(0)
        stats = await engine.stats()
        assert (stats.running, stats.waiting) == (1, 1)
        async for _ in first:
            pass
        assert (await waiting).n_tokens == 1
        async for _ in second:
            pass

    async def test_its_death(self, engine):
        stream = engine.generate(request())
        await anext(stream)
        engine.die()
        with pytest.raises(EngineDead):
            async for _ in stream:
                pass
        for call in (complete(engine), engine.list(), engine.stats(), engine.count_tokens(PROMPT)):
            with pytest.raises(EngineDead):
                await call

    async def test_stop_ends_what_runs(self, engine):
        stream = engine.generate(request())
        await anext(stream)
        await engine.stop()
        assert [chunk.finish_reason async for chunk in stream][-1] == "abort"


@pytest.mark.parametrize(
    "schema",
    [
        BOOLEAN,
        {},
        {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2},
        {"enum": ["a", "b"]},
        {"type": ["string", "null"], "minLength": 4},
        {"anyOf": [{"type": "number", "maximum": -2}, {"type": "null"}]},
        {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"]},
    ],
    ids=str,
)
def test_minimal_json_is_valid(schema):
    jsonschema.validate(json.loads(fake_text.minimal_json(schema)), schema)


@pytest.mark.parametrize("schema", [{"pattern": "x"}, {"$ref": "#/x"}, {"type": "string", "format": "date"}])
def test_unknown_schemas_are_refused_rather_than_guessed(schema):
    with pytest.raises(Unsupported):
        fake_text.minimal_json(schema)


def test_needs_neither_torch_nor_vllm():
    code = "import sys, adaptive_lora.engine.factory, adaptive_lora.engine.fake\n"
    code += "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_choices_differ_only_when_sampled():
    engine = FakeEngine()
    await engine.start()
    greedy = [c async for c in engine.generate(request(n=2))]
    texts = ["".join(c.text for c in greedy if c.index == i) for i in range(2)]
    assert texts[0] == texts[1]
    await engine.stop()
    assert replace(request(), request_id="x").request_id == "x"


class Wheel(BaseModel):
    size: Literal[10, 12]


class Car(BaseModel):
    wheels: tuple[Wheel, Wheel]
    towed_by: Car | None
    owner: str = Field(max_length=5)


def test_the_smallest_answer_follows_references() -> None:
    schema = Car.model_json_schema() | {"additionalProperties": False}
    assert json.loads(fake_text.minimal_json(schema)) == {
        "wheels": [{"size": 10}, {"size": 10}],
        "towed_by": None,
        "owner": "",
    }


@pytest.mark.parametrize(
    ("schema", "tells"),
    [
        ({"$ref": "#"}, "without end"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"required": ["x"], "properties": {"x": {"$ref": "#"}}}}},
            "without end",
        ),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "nothing at"),
        ({"$ref": "#/required", "required": []}, "no schema"),
        (
            {"$ref": "#/$defs/0", "$defs": {
                str(i): {"type": "array", "minItems": 10, "items": {"$ref": f"#/$defs/{i + 1}"}}
                for i in range(9)
            } | {"9": {}}},
            "more than 100000 parts",
        ),
    ],
)  # fmt: skip
def test_an_answer_that_would_be_endless_or_a_lie_is_refused(schema: dict[str, Any], tells: str) -> None:
    with pytest.raises(Unsupported, match=tells):
        fake_text.minimal_json(schema)
