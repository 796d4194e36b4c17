"""Field types and models that several endpoints share."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from adaptive_lora.agents.names import MAX_NAME_CHARS
from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.json_schema import check_json_schema

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_BEYOND = re.compile("[\U0001fffe-\U0010ffff]")
"""Where the noncharacters of the other planes are, the last two of each: one range, which is found fast."""


def check_text(text: str) -> str:
    """Reject, never rewrite: control characters other than newline, carriage return (lines of Windows end so)
    and tab; lone surrogates; noncharacters (Unicode 16, section 23.7); text that is not in Unicode normal
    form C. Raises ValueError.

    Invisible and bidirectional characters are text in some script or emoji: what shows it has to care.
    """
    found = _NO_TEXT.search(text)
    if found is None and not text.isascii():
        beyond = _BEYOND.finditer(text)
        found = next((each for each in beyond if ord(each[0]) & 0xFFFE == 0xFFFE), None)
    if found:
        kind = "noncharacter" if found[0] > "\ue000" else "control character"
        if "\ud800" <= found[0] <= "\udfff":
            kind = "lone surrogate"
        raise ValueError(f"contains the {kind} U+{ord(found[0]):04X} at position {found.start()}")
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError("is not in Unicode normal form C (NFC): normalize it before sending")
    return text


Text = Annotated[str, AfterValidator(check_text)]
PromptText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=limits.MAX_PROMPT_CHARS),
    AfterValidator(check_text),
]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_NAME_CHARS),
    AfterValidator(check_text),
    Field(
        description="Who answers: `auto` (the router decides), `base`, an agent (`code`) or one version of "
        "it (`code@3f9c2a`)."
    ),
]
StopText = Annotated[
    str, StringConstraints(min_length=1, max_length=limits.MAX_STOP_CHARS), AfterValidator(check_text)
]
Stop = StopText | Annotated[list[StopText], Field(max_length=limits.MAX_STOPS)] | None
JsonSchema = Annotated[dict[str, Any], AfterValidator(check_json_schema)]


class Strict(BaseModel):
    """A request: unknown fields and values of another type are errors, never guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Sampling(Strict):
    """How to sample. Without a temperature the answer is greedy, so the same request gets the same answer."""

    temperature: float | None = Field(
        None, ge=0, le=2, description="0 is greedy; default: 0, or 1 when n > 1"
    )
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=limits.MAX_TOP_K, description="0 is off")
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0, le=limits.MAX_SEED)
    stop: Stop = Field(None, description="where to stop; the answer does not contain it")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    min_tokens: int | None = Field(None, ge=0, le=limits.MAX_TOKENS)
    ignore_eos: bool | None = Field(None, description="go on past the end of the answer, for benchmarks")


class ErrorDetail(BaseModel):
    code: str = Field(description="stable and machine-readable")
    message: str = Field(description="what is wrong and what to do")
    request_id: str
    type: str = Field(description="`invalid_request_error` or `server_error`")
    param: str | None = Field(description="the field that is wrong, if one is")


class ErrorBody(BaseModel):
    """Every error of this API."""

    error: ErrorDetail


class UsageBody(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
