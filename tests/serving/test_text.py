"""Which text is taken: all that people write, in one normal form; and nothing is rewritten."""

from __future__ import annotations

import unicodedata
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.common import check_text

KEPT = "\t\n\r"


def is_noncharacter(character: str) -> bool:
    """Unicode 16, section 23.7."""
    point = ord(character)
    return 0xFDD0 <= point <= 0xFDEF or point & 0xFFFE == 0xFFFE


def test_each_code_point_alone() -> None:
    """All 1,114,112 of them, against Unicode's own table."""
    for point in range(0x110000):
        character = chr(point)
        is_text = character in KEPT or not (
            unicodedata.category(character) in ("Cc", "Cs") or is_noncharacter(character)
        )
        if is_text and unicodedata.is_normalized("NFC", character):
            assert check_text(character) == character
        else:
            with pytest.raises(ValueError):
                check_text(character)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_is_taken_as_it_is_or_not_at_all(text: str) -> None:
    try:
        assert check_text(text) == text
    except ValueError:
        assert unicodedata.normalize("NFC", text) != text or any(map(is_noncharacter, text))


@pytest.mark.parametrize(
    "text",
    [
        "two\r\nlines of Windows", "a\ttab", "\ufeffa mark of byte order", "Grüße, Ελληνικά, 日本語, 한국어",
        "👩🏽\u200d💻 and 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\u2067\u05e9\u05dc\u2069, \u202b\u0639\u202c", "क\u094d\u200dष", "line\u2028separator",
        "\ue000 private",
        "<script>'; DROP TABLE keys; --", "{{7*7}} ${jndi:ldap://x} %s %n",
    ],
)  # fmt: skip
async def test_what_people_write_is_served(client: httpx.AsyncClient, text: str) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/generate", {"prompt": text}),
        ("/v1/completions", {"model": "base", "prompt": text}),
        ("/v1/chat/completions", {"model": "base", "messages": [{"role": "user", "content": text}]}),
    ]
    for path, body in bodies:
        response = await client.post(path, json=body | {"max_tokens": 1})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "text", ["a\x00b", "a\x1b[31m", "a\x7f", "a\x85b", "Cafe\u0301", "a\uffff", "a\ufdd0", "a\U0010ffff"]
)
async def test_what_is_no_text_is_refused_wherever_text_stands(client: httpx.AsyncClient, text: str) -> None:
    chat = {"role": "user", "content": "x"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/generate", {"prompt": text}),
        ("/generate", {"prompt": "x", "stop": text}),
        ("/generate", {"prompt": "x", "adapter": text}),
        ("/generate/batch", {"prompts": ["x", text]}),
        ("/route", {"prompt": text}),
        ("/v1/completions", {"prompt": [text]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
        ),
        ("/v1/chat/completions", {"messages": [chat], "model": text}),
        ("/v1/chat/completions", {"messages": [chat], "stop": [text]}),
    ]
    for path, body in bodies:
        response = await client.post(path, json=body)
        assert response.status_code in (400, 422), (path, body)
        assert response.json()["error"]["code"] == "invalid_request"
        assert text not in response.text, "what is refused is not echoed"


@pytest.mark.parametrize("text", [b'"a\\ud800b"', b'"\\udc00"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"'])
async def test_what_is_no_unicode_is_refused(client: httpx.AsyncClient, text: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/generate", content=b'{"prompt": %s}' % text, headers=headers)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["code"] == "invalid_request"


async def test_characters_are_counted_not_bytes(client: httpx.AsyncClient) -> None:
    """Beyond the context that is another error than beyond the schema."""
    for character in ("x", "語", "👩"):
        longest = {"prompt": character * limits.MAX_PROMPT_CHARS, "max_tokens": 1}
        accepted = await client.post("/route", json={"prompt": longest["prompt"]})
        assert accepted.status_code == 200
        refused = await client.post("/route", json={"prompt": character * (limits.MAX_PROMPT_CHARS + 1)})
        assert refused.status_code == 422
    assert (await client.post("/route", json={"prompt": ""})).status_code == 422
