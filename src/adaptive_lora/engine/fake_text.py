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


MAX_PARTS = 100_000
"""Of a minimal JSON text; more than what the schemas without references that are accepted can have."""
_KNOWN = {
    "type", "properties", "required", "items", "minItems", "minLength", "enum", "const", "minimum", "maximum",
    "anyOf", "oneOf", "title", "description", "additionalProperties", "default", "examples", "$schema",
    "$ref", "$defs", "prefixItems", "maxItems", "maxLength", "discriminator",
}  # fmt: skip


def minimal_json(schema: Mapping[str, Any]) -> str:
    """A smallest JSON text that `schema` accepts: of a union the first option that does not refer to what it
    is part of. `{}` gives an object.

    Raises Unsupported for a keyword that this function does not know (an invalid answer would be a lie), and
    for a schema whose smallest answer is endless, or very large.
    """
    return json.dumps(_Smallest(schema).instance(schema) if schema else {})


class _Smallest:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._n_parts = 0

    def instance(self, schema: Mapping[str, Any], within: tuple[str, ...] = ()) -> Any:
        """`within`: the references that led here."""
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise Unsupported(f"the smallest answer to this JSON schema has more than {MAX_PARTS} parts")
        unknown = sorted(schema.keys() - _KNOWN)
        if unknown:
            raise Unsupported(f"the fake engine does not know the JSON schema keyword {unknown[0]!r}")
        if "$ref" in schema:
            reference = schema["$ref"]
            if reference in within:
                raise Unsupported("the JSON schema refers to itself without end")
            return self.instance(self._resolve(reference), (*within, reference))
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        for union in ("anyOf", "oneOf"):
            if union in schema:
                options = schema[union]
                chosen = next((each for each in options if each.get("$ref") not in within), options[0])
                return self.instance(chosen, within)
        kind = schema.get("type", "object")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object":
            properties = schema.get("properties", {})
            return {
                name: self.instance(properties.get(name, {}), within) for name in schema.get("required", ())
            }
        if kind == "array":
            first = schema.get("prefixItems", [])
            more = max(schema.get("minItems", 0) - len(first), 0)
            return [self.instance(item, within) for item in [*first, *[schema.get("items", {})] * more]]
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

    def _resolve(self, reference: str) -> Any:
        """What `#/a/b` stands for."""
        found: Any = self._root
        for step in reference.split("/")[1:]:
            if not isinstance(found, Mapping) or step not in found:
                raise Unsupported(f"the JSON schema has nothing at {reference!r}")
            found = found[step]
        if not isinstance(found, Mapping):
            raise Unsupported(f"what the JSON schema has at {reference!r} is no schema")
        return found
