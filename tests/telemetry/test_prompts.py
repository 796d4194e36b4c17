"""Prompts in logs: whatever they hold, a line stays a line, and says no more than was asked for."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest

from adaptive_lora.telemetry.logging import configure_logging
from adaptive_lora.telemetry.prompts import MAX_SHOWN, MAX_SHOWN_CHARS, PromptLog
from adaptive_lora.types import ChatMessage, Prompt

SECRET = "0123456789abcdef" * 2
HOSTILE = (
    'a\r\n{"level":"CRITICAL","message":"forged"}',
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "\x1b[2J\x1b]0;title\x07 \x9b31m",
    "\x00" * 10,
    "\ud800 alone \udfff",
    "\u202eright to left",
    '"}\n{"',
    "%s %d %(message)s {0}",
    "x" * 1_000_000,
)


def logged(log: PromptLog, *prompts: Prompt) -> str:
    out = io.StringIO()
    configure_logging("INFO", stream=out, json=True)
    logging.getLogger("adaptive_lora.access").info("POST /generate 200", extra=log.fields(prompts))
    return out.getvalue()


@pytest.mark.parametrize("prompt", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("mode", ["none", "hash", "full"])
@pytest.mark.parametrize("is_chat", [False, True])
def test_a_hostile_prompt_forges_nothing(mode: str, prompt: str, is_chat: bool) -> None:
    asked: Prompt = (ChatMessage("user", prompt), ChatMessage("user", prompt)) if is_chat else prompt
    text = logged(PromptLog(mode, SECRET), asked)  # type: ignore[arg-type]
    assert len(text.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
    assert len(text) < 8 * MAX_SHOWN_CHARS
    line = json.loads(text)
    assert line["level"] == "INFO"
    assert (line.get("prompt_chars") is None) == (mode == "none")
    assert ("prompt" in line) == (mode == "full")
    if mode != "full":
        assert prompt[:20] not in str(line)
    elif not is_chat and len(prompt) < MAX_SHOWN_CHARS and "\ud800" not in prompt:
        assert line["prompt"] == prompt, "a reader of JSON gets it back"


def test_equal_prompts_have_equal_hashes_under_one_secret_alone() -> None:
    log, same, other = PromptLog("hash", SECRET), PromptLog("hash", SECRET), PromptLog("hash", SECRET[::-1])
    assert log.hash("hello") == same.hash("hello")
    assert log.hash("hello") != other.hash("hello")
    assert PromptLog("hash").hash("hello") != PromptLog("hash").hash("hello")


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("a", "b"),
        ("a", (ChatMessage("user", "a"),)),
        ((ChatMessage("user", "a"),), (ChatMessage("system", "a"),)),
        (
            (ChatMessage("user", "ab"), ChatMessage("user", "c")),
            (ChatMessage("user", "a"), ChatMessage("user", "bc")),
        ),
        ("\ud800", "\udfff"),
    ],
)  # fmt: skip
def test_different_prompts_have_different_hashes(one: Prompt, another: Prompt) -> None:
    log = PromptLog("hash", SECRET)
    assert log.hash(one) != log.hash(another)


def test_several_prompts_are_lists_of_bounded_length() -> None:
    fields = PromptLog("full", SECRET).fields([f"prompt {i}" for i in range(100)])
    assert fields["n_prompts"] == 100
    assert fields["prompt_chars"] == sum(len(f"prompt {i}") for i in range(100))
    for name in ("prompt_hash", "prompt"):
        column = fields[name]
        assert isinstance(column, list)
        assert len(column) == MAX_SHOWN


def test_a_long_text_is_shortened_and_says_so() -> None:
    shown = PromptLog("full", SECRET).fields(["x" * (MAX_SHOWN_CHARS + 7)])["prompt"]
    assert shown == "x" * MAX_SHOWN_CHARS + "... (7 more characters)"
