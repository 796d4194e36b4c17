"""The base model's tokenizer: digits one by one, common words whole, names in small pieces, any Unicode
by its bytes.

It learns from the phrasing alone: words of the entity lists are left out, so that a name seen in
training and a name
never seen fall apart in the same way. A leading blank joins a word only after all other merges, so that
a word has
the same pieces at the start of a line, behind a quote and behind a blank: copying then needs no translation.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from demo.tasks import analysis, code, creative, reasoning
from demo.words import lists

SPECIAL = ("<pad>", "<bos>", "<eos>")
MAX_LENGTH = 1024
_CHUNK = r"\p{N}| ?\p{L}+|\n *| ?[^\s\p{L}\p{N}]|\s"
# One turn is `<bos>request\n` + `answer<eos>`: a plain completion of the request alone continues in the
# same way.
CHAT_TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'assistant' -%}{{ m['content'] + '<eos>' }}"
    "{%- elif m['role'] == 'system' -%}{{ '<bos>' + m['content'] + '<eos>' }}"
    "{%- else -%}{{ '<bos>' + m['content'] + '\n' }}"
    "{%- endif -%}{%- endfor -%}"
)


def _entity_words() -> set[str]:
    listed = [*lists.FIRST_NAMES, *lists.LAST_NAMES, *lists.CITIES, *lists.COMPANIES, *lists.PRODUCTS]
    listed += [*lists.POEM_WORDS, *(t.split()[-1] for t in lists.TOPICS)]
    return {w.lower() for w in listed} - {
        "home",
        "time",
        "night",
        "day",
        "number",
        "word",
        "light",
        "heart",
        "way",
    }


def phrasing(seed: int, n: int = 24_000) -> Counter[str]:
    """Counts of the words that the training requests and notes consist of, entities and rare words left
    out.
    """
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(n):
        for module in (reasoning, code, creative, analysis):
            made = module.example(rng, "train")
            counts.update(re.findall(r"[^\W\d_]+", f"{made.prompt} {made.note} {made.completion}"))
    banned = _entity_words()
    return Counter({w: c for w, c in counts.items() if c >= 40 and w.lower() not in banned})


def train(seed: int, vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which the whole words of `phrasing` also exist with a leading blank."""
    counts = phrasing(seed)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    n_blank = 640
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - n_blank,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # square roots: a word that is ten times as common shall not own ten times as many merges
    backend.train_from_iterator((w for w, c in counts.items() for _ in range(int(c**0.5))), trainer)
    learned = json.loads(backend.to_str())["model"]
    vocab: dict[str, int] = learned["vocab"]
    merges = [tuple(m) for m in learned["merges"]]
    for left, right in (("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("Ċ", "ĠĠĠĠ")):
        merges.append((left, right))
        vocab.setdefault(left + right, len(vocab))
    for blanked in [*(w for w, _ in counts.most_common()), *"=+-*%><('{[\"|/"]:
        if (
            len(vocab) < vocab_size
            and blanked in vocab
            and (len(blanked) > 1 or blanked in "aIxcwn=+-*%><('{[\"|/")
        ):
            merges.append(("Ġ", blanked))
            vocab["Ġ" + blanked] = len(vocab)
    full = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    full.add_special_tokens(list(SPECIAL))
    full.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CHUNK), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    full.decoder = decoders.ByteLevel()
    full.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=full,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, the chat template inside the latter."""
    tokenizer.save_pretrained(folder, save_jinja_files=False)
