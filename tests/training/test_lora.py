"""LoRA training on a model small enough for a test: the loss falls, and what is saved is what PEFT loads."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adaptive_lora.training.data import IGNORED, TrainingExample, batch_indices, encode, read_examples
from adaptive_lora.training.lora import ALL_LINEAR, LoraSettings, train_lora

TEMPLATE = "{% for m in messages %}<bos>{{ m['content'] }}\n{% endfor %}"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they bring on a model of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama over bytes."""
    folder = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.3,  # the frozen output layer must be able to tell tokens apart
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"say {c}", "completion": c * 3}) + "\n" for c in "abcd" * 40)
    )
    return path


SETTINGS = LoraSettings(rank=4, alpha=8, batch_size=8, epochs=3, learning_rate=1e-2, warmup_steps=2, seed=3)


def test_the_loss_falls_and_peft_loads_the_result(base: Path, rows: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    report = train_lora(
        base, rows, tmp_path / "out", SETTINGS, base_model_name="some/base", progress=lines.append
    )
    assert report.n_steps == 60
    assert report.last_loss < 0.7 * report.first_loss
    assert lines
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/base"
    assert (config["r"], config["lora_alpha"], set(config["target_modules"])) == (4, 8, set(ALL_LINEAR))
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 2
    assert all(torch.isfinite(w).all() for w in weights.values())

    plain = AutoModelForCausalLM.from_pretrained(base)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        assert not torch.allclose(plain(ids).logits, tuned(ids).logits, atol=1e-3)


def test_the_same_seed_gives_the_same_adapter(base: Path, rows: Path, tmp_path: Path) -> None:
    settings = LoraSettings(rank=2, alpha=4, batch_size=16, epochs=0.5, seed=5)
    for name in ("one", "two"):
        train_lora(base, rows, tmp_path / name, settings)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_training_goes_on_from_an_adapter(base: Path, rows: Path, tmp_path: Path) -> None:
    first = train_lora(base, rows, tmp_path / "out", SETTINGS)
    other = LoraSettings(rank=8, batch_size=8, epochs=1, learning_rate=1e-3)
    again = train_lora(base, rows, tmp_path / "out", other, start=tmp_path / "out")
    assert again.first_loss < 0.8 * first.first_loss
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == SETTINGS.rank


def test_only_the_answer_is_learnt(base: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    row = encode(TrainingExample("ab", "cd"), tokenizer, 100)
    assert row is not None
    assert tokenizer.decode(row.input_ids) == "<bos>ab\ncd<eos>"
    assert row.labels[:4] == [IGNORED] * 4
    assert row.labels[4:] == row.input_ids[4:]
    assert encode(TrainingExample("ab", "cd"), tokenizer, 6) is None


def test_a_plain_example_is_not_wrapped(base: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    row = encode(TrainingExample("ab", "\ncd", plain=True), tokenizer, 100)
    assert row is not None
    assert tokenizer.decode(row.input_ids) == "ab\ncd<eos>"
    assert row.labels[:2] == [IGNORED] * 2


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"prompt": "a"}', '{"prompt": "a", "completion": ""}', '{"prompt": 1, "completion": "b"}'],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl:2"):
        read_examples(path)


def test_no_examples_is_an_error(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="no examples"):
        read_examples(path)
    path.write_text(json.dumps({"prompt": "a" * 600, "completion": "b"}))
    with pytest.raises(ValueError, match="longer than"):
        train_lora(base, path, tmp_path / "out", LoraSettings())


def test_batches_hold_every_example_once() -> None:
    lengths = [random.Random(1).randint(1, 50) for _ in range(101)]
    batches = list(batch_indices(lengths, 8, random.Random(2)))
    assert sorted(i for batch in batches for i in batch) == list(range(101))
    assert max(map(len, batches)) == 8
