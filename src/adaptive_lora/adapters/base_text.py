"""What turns text into a base model's tokens, as one fingerprint: its tokenizer, its chat template, and the
tokens that end an answer. `base.base_fingerprint` is about the weights alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Those of transformers' and mistral-common's tokenizers."""


def text_fingerprint(folder: Path, chat_template: str | None = None) -> str | None:
    """SHA-256 (hex) over those of `FILES` that the folder holds, and over the files of `chat_templates/`;
    None if there are none.

    `chat_template` is one that replaces the model's own. Reads a few MB. Raises OSError for what cannot be
    read.
    """
    digest = hashlib.sha256()
    paths = [path for name in FILES if (path := folder / name).is_file()]
    paths += sorted((folder / "chat_templates").glob("*.jinja"))
    if not paths:
        return None
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        digest.update(content)
    if chat_template is not None:
        digest.update(b"\0template\0" + chat_template.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
