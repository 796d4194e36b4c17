"""The committed artefacts: small enough, whole, and what their manifests say."""

from __future__ import annotations

import json
import math

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from adaptive_lora.adapters.base import describe_base
from adaptive_lora.adapters.manifest import base_fingerprint, read_manifest
from adaptive_lora.adapters.verify import verify_adapter
from demo.evaluate import BASE_MODEL_NAME, FLEET
from demo.tasks.example import DOMAINS

pytestmark = pytest.mark.skipif(not (FLEET / "base").exists(), reason="no fleet: make demo-fleet builds it")


def test_the_fleet_is_small() -> None:
    assert sum(p.stat().st_size for p in FLEET.rglob("*") if p.is_file()) <= 48_000_000
    with safe_open(FLEET / "base" / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        n_parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    assert 1_000_000 < n_parameters <= 16_000_000


def test_the_base_is_a_plain_llama() -> None:
    config = json.loads((FLEET / "base" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 1024
    assert not [p for p in FLEET.rglob("*") if p.suffix in (".bin", ".pt", ".py", ".pkl")]


@pytest.mark.parametrize("name", DOMAINS)
def test_every_adapter_is_what_its_manifest_says(name: str) -> None:
    folder = FLEET / "adapters" / name
    manifest = read_manifest(folder)
    assert manifest.name == name
    assert manifest.base_fingerprint == base_fingerprint(FLEET / "base")
    assert 60 <= len(manifest.examples) <= 100
    version = verify_adapter(folder, base=describe_base(BASE_MODEL_NAME, FLEET / "base"), max_rank=16)
    assert 8 <= version.rank <= 16
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE_MODEL_NAME


def test_the_tokenizer_takes_any_text_and_one_digit_a_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FLEET / "base")
    for text in (
        "naïve 日本 🙂\t x\n\n  y",
        "def f(x):\n    return x % 2 == 0",
        "Order #4417, 'silver'!",
        "\x00\u2028",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.tokenize("4417") == list("4417")


def test_the_template_continues_a_plain_prompt() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FLEET / "base")
    turns = [{"role": "user", "content": "What is 2 plus 2?"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<bos>What is 2 plus 2?\n"
    plain = tokenizer("What is 2 plus 2?\n")["input_ids"]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == plain
    talk = [
        {"role": "system", "content": "Be brief."},
        *turns,
        {"role": "assistant", "content": "2+2=4"},
        *turns,
    ]
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    assert text == "<bos>Be brief.<eos><bos>What is 2 plus 2?\n2+2=4<eos><bos>What is 2 plus 2?\n"
