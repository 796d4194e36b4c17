"""Training data for adapters: JSON Lines in, token ids and labels out."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that the loss leaves out (PyTorch's cross entropy)."""


@dataclass(frozen=True)
class TrainingExample:
    """A request and the answer to learn; `plain` ones are taken as they are, without the chat template."""

    prompt: str
    completion: str
    plain: bool = False


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of prompt and completion; labels are IGNORED over the prompt. Both of the same length."""

    input_ids: list[int]
    labels: list[int]


def read_examples(path: Path) -> list[TrainingExample]:
    """Read `{"prompt": ..., "completion": ...}` lines, with `"plain": true` where no chat template is wanted.

    Other fields are left alone, empty lines skipped.

    Raises ValueError with file and line for what is not such an object, and for a file without examples.
    """
    examples = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                prompt, completion = row["prompt"], row["completion"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}:{number}: expected an object with prompt and completion ({error})"
                ) from error
            if not isinstance(prompt, str) or not isinstance(completion, str) or not completion:
                raise ValueError(
                    f"{path}:{number}: prompt and completion must be strings, completion not empty"
                )
            examples.append(TrainingExample(prompt, completion, row.get("plain") is True))
    if not examples:
        raise ValueError(f"{path}: no examples")
    return examples


def encode(
    example: TrainingExample, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> EncodedExample | None:
    """Tokenise one example: the chat template (where the tokenizer has one) around the prompt, then the
    completion and the end-of-text token. None if it is longer than `max_length` tokens: a cut answer
    would teach
    the model not to end.
    """
    if tokenizer.chat_template and not example.plain:
        turns = [{"role": "user", "content": example.prompt}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        prompt = tokenizer(example.prompt)["input_ids"]
    completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    completion = [*completion, tokenizer.eos_token_id]
    if len(prompt) + len(completion) > max_length:
        return None
    return EncodedExample([*prompt, *completion], [IGNORED] * len(prompt) + completion)


def batch_indices(lengths: Sequence[int], batch_size: int, rng: random.Random) -> Iterator[list[int]]:
    """One epoch in random order, in batches of examples of similar length, so that little is padded."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    pool = batch_size * 16
    batches = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda i: lengths[i])
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    rng.shuffle(batches)
    yield from batches
