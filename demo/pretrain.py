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
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.corpus import Corpus
from demo.muon import Muon
from demo.workers import Workers

BLOCK = 256
BATCH = 16
N_THREADS = 2


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The base's shape: about four million parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Documents as `<bos>text<eos>`, packed without gaps. Shape: (BATCH, BLOCK)."""
    pieces = sorted(t for t in tokenizer.get_vocab() if t.isascii() and t.isalpha() and len(t) > 1)
    stream = iter(Corpus(seed, pieces))
    tokens: list[int] = []
    while True:
        while len(tokens) < BATCH * BLOCK:
            documents = [f"{next(stream)}<eos>" for _ in range(128)]
            for ids in tokenizer(documents)["input_ids"]:
                tokens.extend(ids)
        yield torch.tensor(tokens[: BATCH * BLOCK]).view(BATCH, BLOCK)
        del tokens[: BATCH * BLOCK]


def learning_rate(step: int, steps: int, decay: float) -> float:
    """Warm-up, plateau, then a straight line to zero over the last share `decay`."""
    left = (steps - step) / max(1, steps * decay)
    return min(1.0, (step + 1) / 60, max(0.0, left))


def pretrain(
    folder: Path, *, steps: int, seed: int, decay: float = 0.4, resume: Path | None = None, more: bool = False
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
    workers = Workers(model, N_THREADS)
    began, seen = time.monotonic(), 0
    for step, batch in enumerate(batches(tokenizer, seed + start), start):
        if step == steps:
            break
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(step, steps, decay)
        loss = workers.backward(batch, BATCH // 2)
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen += batch.numel()
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
    parser.add_argument("--decay", type=float, default=0.4)
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
