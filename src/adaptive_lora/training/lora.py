"""Fine-tune a LoRA adapter (Hu et al. 2021) on prompt/completion pairs with PEFT, on a CPU or a GPU."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptive_lora.training.data import IGNORED, EncodedExample, batch_indices, encode, read_examples

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraSettings:
    """How an adapter is trained. The rate rises over `warmup_steps` and then falls to zero as a cosine."""

    rank: int = 16
    alpha: int = 32
    target_modules: tuple[str, ...] = ALL_LINEAR
    learning_rate: float = 2e-3
    batch_size: int = 32
    epochs: float = 1.0
    warmup_steps: int = 20
    max_length: int = 512
    seed: int = 0


@dataclass(frozen=True)
class LoraReport:
    """What a run did. `first_loss` and `last_loss` are means over a tenth of the steps (at least one)."""

    n_examples: int
    n_tokens: int
    n_steps: int
    seconds: float
    first_loss: float
    last_loss: float


def train_lora(
    base: Path | str,
    data: Path,
    output: Path,
    settings: LoraSettings,
    *,
    base_model_name: str | None = None,
    start: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> LoraReport:
    """Train an adapter of `base` on the JSON Lines file `data` and save it to the folder `output` as
    PEFT does.

    `output` then holds adapter_config.json and adapter_model.safetensors. `base_model_name` is what the
    config names as base model instead of `base`, so that no machine's path travels with the adapter. `start`
    is an adapter to go on from, whose rank, alpha and modules stay; without it a new one begins. The same
    arguments on the same machine give the same adapter. Raises ValueError for data that cannot be used.
    """
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [encode(example, tokenizer, settings.max_length) for example in read_examples(data)]
    encoded = [row for row in rows if row is not None]
    if not encoded:
        raise ValueError(f"{data}: every example is longer than {settings.max_length} tokens")
    if dropped := len(rows) - len(encoded):
        progress(f"{dropped} examples longer than {settings.max_length} tokens left out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device)
    if start is not None:
        model = PeftModel.from_pretrained(model, start, is_trainable=True)
    else:
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=list(settings.target_modules),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    lengths = [len(row.input_ids) for row in encoded]
    batches: list[list[int]] = []
    for _ in range(math.ceil(settings.epochs)):
        batches += batch_indices(lengths, settings.batch_size, rng)
    batches = batches[: max(1, round(len(batches) * settings.epochs / math.ceil(settings.epochs)))]
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    losses: list[float] = []
    n_tokens, began = 0, time.monotonic()
    model.train()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, len(batches), settings.warmup_steps)
        inputs = {k: v.to(device) for k, v in _collate([encoded[i] for i in batch], pad_id).items()}
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        n_tokens += int(inputs["attention_mask"].sum())
        if step % 50 == 0 or step == len(batches) - 1:
            rate = n_tokens / (time.monotonic() - began)
            progress(f"step {step + 1}/{len(batches)} loss {losses[-1]:.4f} {rate:.0f} tokens/s")
    seconds = time.monotonic() - began
    if base_model_name is not None:
        model.peft_config["default"].base_model_name_or_path = base_model_name
    output.mkdir(parents=True, exist_ok=True)
    # no embeddings are trained; PEFT's "auto" would look the base model up on the Hub to find that out
    model.save_pretrained(output, safe_serialization=True, save_embedding_layers=False)
    (output / "README.md").unlink(missing_ok=True)  # PEFT's empty form for a model card
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return LoraReport(len(encoded), n_tokens, len(batches), seconds, first, last)


def _schedule(step: int, n_steps: int, warmup_steps: int) -> float:
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    return warmup * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def _collate(rows: Sequence[EncodedExample], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad to the longest row. Shape of each tensor: (rows, longest)."""
    longest = max(len(row.input_ids) for row in rows)

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (longest - len(values))

    return {
        "input_ids": torch.tensor([padded(row.input_ids, pad_id) for row in rows]),
        "labels": torch.tensor([padded(row.labels, IGNORED) for row in rows]),
        "attention_mask": torch.tensor([padded([1] * len(row.input_ids), 0) for row in rows]),
    }


def main() -> None:
    """`python -m adaptive_lora.training.lora BASE DATA OUTPUT`; the last line on stdout is the report as
    JSON.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--base-model-name")
    parser.add_argument("--start", type=Path, help="an adapter to go on from")
    defaults = LoraSettings()
    parser.add_argument("--rank", type=int, default=defaults.rank)
    parser.add_argument("--alpha", type=int, default=defaults.alpha)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--epochs", type=float, default=defaults.epochs)
    parser.add_argument("--max-length", type=int, default=defaults.max_length)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    a = parser.parse_args()
    settings = LoraSettings(
        rank=a.rank,
        alpha=a.alpha,
        learning_rate=a.learning_rate,
        batch_size=a.batch_size,
        epochs=a.epochs,
        max_length=a.max_length,
        seed=a.seed,
    )
    report = train_lora(
        a.base,
        a.data,
        a.output,
        settings,
        base_model_name=a.base_model_name,
        start=a.start,
        progress=lambda line: print(line, flush=True),
    )
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
