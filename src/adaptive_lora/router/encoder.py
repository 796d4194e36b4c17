"""The sentence encoder: all-MiniLM-L6-v2 as int8 ONNX (`models/encoder/`, built by `make encoder`), without
torch, in two halves of three layers each. Many prompts need the first half only.

The file is part of the checkout and of the container image, not of the wheel (23 MB). Without it the router
works on n-grams alone.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from adaptive_lora.errors import SettingsError
from adaptive_lora.router.features import excerpt

_log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

META_NAME = "encoder.json"
FILES = ("early.onnx", "late.onnx", "tokenizer.json")


class Reading(Protocol):
    """One prompt as the encoder understands it, as far as it has been asked to."""

    def early(self) -> FloatArray:
        """float32[n_dims] of length 1, after half of the layers, at half the cost."""
        ...

    def late(self) -> FloatArray:
        """float32[n_dims] of length 1, after all layers."""
        ...


class Encoder(Protocol):
    """Turns prompts into vectors whose cosine is their likeness. Safe to call from several threads."""

    n_dims: int
    version: str
    """Names the weights and how much of a prompt they read: vectors of different versions do not compare."""
    words: frozenset[str]
    """Lower-case words that it knows as a whole."""

    def read(self, prompt: str) -> Reading:
        """What is computed of it, is computed when asked for, once."""
        ...


class _Meta(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2]
    model: str
    licence: str
    source: str
    source_weights_sha256: str
    quantisation: str
    n_dims: Annotated[int, Field(ge=1)]
    early_layers: tuple[int, ...]
    late_layers: tuple[int, ...]
    max_tokens: Annotated[int, Field(ge=4, le=128)]
    tail_tokens: Annotated[int, Field(ge=0)]
    files: dict[Literal["early.onnx", "late.onnx", "tokenizer.json"], str]


def default_encoder_path() -> Path:
    """models/encoder of the checkout that this package runs from; absent where only the wheel is
    installed."""
    return Path(__file__).resolve().parents[3] / "models" / "encoder"


def load_encoder(
    path: Path | None = None, *, max_tokens: int | None = None, n_threads: int = 1
) -> OnnxEncoder | None:
    """Load the encoder in folder `path`, by default the checkout's. None if the default one is absent.

    `max_tokens` overrides how many tokens of a prompt are read (cost is proportional to it). Every file's
    SHA-256 is compared with encoder.json before it is parsed. Raises SettingsError if `path` is given and
    holds no encoder, or if the files are not what encoder.json says.
    """
    folder = path or default_encoder_path()
    if not (folder / META_NAME).is_file():
        if path is not None:
            raise SettingsError(
                f"router.encoder_path {str(path)!r} holds no {META_NAME}: point it at a folder that `make "
                "encoder` built, or leave it out"
            )
        _log.warning(
            "no sentence encoder: routing on n-grams alone, which is weaker at paraphrase (make encoder)"
        )
        return None
    try:
        meta = _Meta.model_validate_json((folder / META_NAME).read_bytes())
        contents = {name: (folder / name).read_bytes() for name in FILES}
    except (OSError, ValidationError) as error:
        raise SettingsError(
            f"the encoder in {str(folder)!r} cannot be read: {error}; run `make encoder`"
        ) from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != meta.files.get(name):  # type: ignore[call-overload]
            raise SettingsError(
                f"{name} of the encoder in {str(folder)!r} differs from its SHA-256 in {META_NAME}: "
                "restore it (a checkout without Git LFS or a cut download looks like this), or run `make "
                "encoder`"
            )
    return OnnxEncoder(contents, meta, max_tokens=max_tokens or meta.max_tokens, n_threads=n_threads)


class OnnxEncoder:
    """One prompt at a time: activations are quantised per call, so that a batch would mix its prompts'
    scales."""

    def __init__(self, contents: dict[str, bytes], meta: _Meta, *, max_tokens: int, n_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        self._early, self._late = (
            onnxruntime.InferenceSession(contents[name], options, providers=["CPUExecutionProvider"])
            for name in ("early.onnx", "late.onnx")
        )
        self._tokenizer = Tokenizer.from_str(contents["tokenizer.json"].decode())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.words = frozenset(word for word in self._tokenizer.get_vocab() if word.isalpha())
        self._max_tokens = max_tokens
        # [SEP] comes on top of the tail; a short window keeps at least half of it for the start.
        self._n_last = min(meta.tail_tokens, max_tokens // 2 - 1) + 1
        self.n_dims = meta.n_dims
        self.version = f"{meta.files['late.onnx'][:12]}-{max_tokens}"

    def read(self, prompt: str) -> Reading:
        return _OnnxReading(self._early, self._late, self._token_ids(prompt))

    def _token_ids(self, prompt: str) -> NDArray[np.int64]:
        """int64[1, at most max_tokens], [CLS] and [SEP] included: the prompt's start and its last few
        tokens."""
        # Lone surrogates are no text and have no UTF-8, which the tokenizer needs.
        ids = self._tokenizer.encode(excerpt(prompt).encode("utf-8", "replace").decode()).ids
        if len(ids) > self._max_tokens:
            ids = ids[: self._max_tokens - self._n_last] + ids[-self._n_last :]
        return np.array([ids], np.int64)


class _OnnxReading:
    def __init__(
        self, early: onnxruntime.InferenceSession, late: onnxruntime.InferenceSession, ids: NDArray[np.int64]
    ) -> None:
        hidden, vector = early.run(["hidden", "early"], {"ids": ids})
        self._early_vector: FloatArray = vector[0]
        self._hidden = hidden
        self._late_session = late
        self._late_vector: FloatArray | None = None

    def early(self) -> FloatArray:
        return self._early_vector

    def late(self) -> FloatArray:
        if self._late_vector is None:
            self._late_vector = self._late_session.run(["late"], {"hidden": self._hidden})[0][0]
        return self._late_vector
