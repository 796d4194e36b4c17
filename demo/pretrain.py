"""Pre-train the base from scratch on a CPU: Muon for the hidden matrices, AdamW for the rest, one pass, no
repeats.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.corpus import Corpus, without_marks
from demo.muon import Muon

BLOCK = 256
BATCH = 16
PART = 8  # rows of a batch that are computed together: what fits a CPU's caches
UNKNOWN_WEIGHT = 0.03  # the loss's weight of a token that nothing before it tells


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The base's shape: 3.5 million parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids of documents `<bos>text<eos>`, packed without gaps, and the loss's weight of each token.

    Shape of both: (BATCH, BLOCK).
    """
    pieces = sorted(t for t in tokenizer.get_vocab() if t.isascii() and t.isalpha() and len(t) > 1)
    stream = iter(Corpus(seed, pieces))
    ids: list[int] = []
    weights: list[float] = []
    n = BATCH * BLOCK
    while True:
        while len(ids) < n:
            documents = [without_marks(next(stream)) for _ in range(128)]
            encoded = tokenizer([text for text, _ in documents], return_offsets_mapping=True)
            for (_, flags), tokens, offsets in zip(
                documents, encoded["input_ids"], encoded["offset_mapping"], strict=True
            ):
                ids += [*tokens, tokenizer.eos_token_id]
                weights.append(0.0)  # <bos>
                weights += [1.0 if flags[end - 1] else UNKNOWN_WEIGHT for _, end in offsets[1:]]
                weights.append(1.0 if flags[-1] else UNKNOWN_WEIGHT)
        yield torch.tensor(ids[:n]).view(BATCH, BLOCK), torch.tensor(weights[:n]).view(BATCH, BLOCK)
        del ids[:n], weights[:n]


def document_mask(ids: torch.Tensor, bos_token_id: int) -> torch.Tensor:
    """Which earlier token of its own document each token sees. Shape: bool(rows, 1, BLOCK, BLOCK).

    Packed documents are much alike: a small model that sees its neighbours copies their names and numbers.
    """
    document = (ids == bos_token_id).cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones(ids.size(1), ids.size(1), dtype=torch.bool).tril())[:, None]


def backward(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> float:
    """Accumulate the gradients of the weighted mean loss over a batch; returns that loss."""
    mask = document_mask(ids, model.config.bos_token_id)
    targets, target_weights = ids.roll(-1, 1), weights.roll(-1, 1)
    target_weights[:, -1] = 0
    target_weights /= target_weights.sum()
    total = 0.0
    for rows in range(0, BATCH, PART):
        part = slice(rows, rows + PART)
        output = model.model(input_ids=ids[part], attention_mask=mask[part], use_cache=False)
        hidden = output.last_hidden_state.flatten(0, 1)
        losses = functional.cross_entropy(model.lm_head(hidden), targets[part].flatten(), reduction="none")
        loss = losses @ target_weights[part].flatten()
        loss.backward()
        total += loss.item()
    return total


def learning_rate(step: int, steps: int, decay: float) -> float:
    """Warm-up, plateau, then a straight line to zero over the last share `decay`."""
    left = (steps - step) / max(1, steps * decay)
    return min(1.0, (step + 1) / 60, max(0.0, left))


def pretrain(
    folder: Path,
    *,
    steps: int,
    seed: int,
    decay: float = 0.65,
    resume: Path | None = None,
    more: bool = False,
) -> None:
    """Train for `steps` steps and write config and weights (bfloat16) beside the tokenizer in `folder`.

    `resume` is a checkpoint of an interrupted run; `more` starts another run from the weights in `folder`.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM(model_config(tokenizer))
    if more:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    hidden = [
        p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        Muon(hidden, lr=0.02),
        torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    start, checkpoint = 0, folder.parent / "pretrain.pt"
    if resume:
        state = torch.load(resume, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"base: {n_parameters:,} parameters, {steps} steps of {BATCH * BLOCK} tokens", flush=True)
    began, seen = time.monotonic(), 0
    for step, (ids, weights) in enumerate(batches(tokenizer, seed + start), start):
        if step == steps:
            break
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(step, steps, decay)
        loss = backward(model, ids, weights)
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        if step % 20 == 0:
            rate = seen / (time.monotonic() - began)
            left = (steps - step) * BATCH * BLOCK / rate / 60
            print(f"step {step} loss {loss:.3f} {rate:.0f} tokens/s, {left:.0f} min left", flush=True)
        if step % 200 == 199:
            state = {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
            }
            torch.save(state, checkpoint)
    model.to(torch.bfloat16).save_pretrained(folder)
    checkpoint.unlink(missing_ok=True)
    seconds = time.monotonic() - began
    print(json.dumps({"parameters": n_parameters, "tokens": seen, "seconds": round(seconds)}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decay", type=float, default=0.65)
    parser.add_argument("--resume", type=Path, help="checkpoint of an interrupted run")
    parser.add_argument("--more", action="store_true", help="start from the weights in the folder")
    arguments = parser.parse_args()
    pretrain(
        arguments.folder,
        steps=arguments.steps,
        seed=arguments.seed,
        decay=arguments.decay,
        resume=arguments.resume,
        more=arguments.more,
    )
