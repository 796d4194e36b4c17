"""What FakeEngine says: words, tokens, log-probabilities, minimal JSON; pure functions of their input."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from adaptive_lora.errors import Unsupported
from adaptive_lora.types import Prompt

_WORDS = """
    amber birch cedar delta ember fjord grove harbor island juniper kettle lantern meadow north
    orchard pebble quartz river silver timber umber valley willow yarrow zephyr
""".split()  # noqa: SIM905
_TOKEN = re.compile(r"\s*\S+|\s+\Z")


def digest(*parts: object) -> bytes:
    """SHA-256 over `parts`, each with its length, so that no two lists of parts collide."""
    h = hashlib.sha256()
    for part in parts:
        data = str(part).encode()
        h.update(len(data).to_bytes(8, "big") + data)
    return h.digest()


def render(prompt: Prompt) -> str:
    """A conversation as plain lines, the fake's "chat template"; a raw prompt as it is."""
    if isinstance(prompt, str):
        return prompt
    return "".join(f"{m.role}: {m.content}\n" for m in prompt) + "assistant:"


def tokenize(text: str) -> list[str]:
    """Words with the white space before them. Joining gives the text back."""
    return _TOKEN.findall(text)


def words(*key: object) -> Iterator[str]:
    """An endless stream of tokens that depends on `key` alone."""
    i = 0
    while True:
        for byte in digest(*key, i):
            yield " " + _WORDS[byte % len(_WORDS)]
        i += 1


def logprob(*key: object) -> float:
    """A log-probability in (-1, 0] that depends on `key` alone."""
    return -digest("logprob", *key)[0] / 256


_KNOWN = {
    "type", "properties", "required", "items", "minItems", "minLength", "enum", "const", "minimum", "maximum",
    "anyOf", "oneOf", "title", "description", "additionalProperties", "default", "examples", "$schema",
}  # fmt: skip


def minimal_json(schema: Mapping[str, Any]) -> str:
    """The smallest JSON text that `schema` accepts. `{}` gives an object.

    Raises Unsupported for a keyword that this function does not know: an invalid answer would be a lie.
    """
    return json.dumps(_instance(schema) if schema else {})


def _instance(schema: Mapping[str, Any]) -> Any:
    unknown = sorted(schema.keys() - _KNOWN)
    if unknown:
        raise Unsupported(f"the fake engine does not know the JSON schema keyword {unknown[0]!r}")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _instance(schema[union][0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _instance(properties.get(name, {})) for name in schema.get("required", ())}
    if kind == "array":
        return [_instance(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        return "x" * schema.get("minLength", 0)
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 0)
        return low if low > 0 else min(0, high)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    raise Unsupported(f"the fake engine does not know the JSON schema type {kind!r}")
