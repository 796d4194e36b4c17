"""JSON Schemas from callers: valid, and small enough to compile. Structured output has killed engines
before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.patterns import pattern_cost

_IN_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_CLOSING = ("additionalProperties", "unevaluatedProperties", "unevaluatedItems")
"""Where true or false may stand for a schema."""
_SINGLE = ("items", "not", "if", "then", "else", "contains", "propertyNames")
_REPEATS = (
    "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains",
    "maxContains",
)  # fmt: skip
_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


@dataclass
class _Strings:
    """What the engine's compiler writes out for the strings of a schema: once each, however often they
    repeat."""

    patterns: list[int] = field(default_factory=list)
    """What each costs."""
    lengths: set[tuple[int, int]] = field(default_factory=set)
    """Shortest and longest."""

    def check(self) -> None:
        places = sum(self.patterns)
        if places > limits.MAX_PATTERNS_COST:
            raise ValueError(
                f"the patterns of the JSON schema match up to {places} places, more than "
                f"{limits.MAX_PATTERNS_COST}: lower the bounds of repetitions like {{1,63}}, or write + or *"
            )
        written_out = sum(min(max(pair), limits.LENGTH_WRITTEN_OUT) for pair in self.lengths)
        if written_out > limits.MAX_LENGTHS_COST:
            raise ValueError(
                f"the JSON schema has {len(self.lengths)} different pairs of minLength and maxLength, which "
                f"cost {written_out}, more than {limits.MAX_LENGTHS_COST} (each its larger one, at most "
                f"{limits.LENGTH_WRITTEN_OUT}): give several fields the same pair, or leave some out"
            )


def check_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema as it is. Raises ValueError for one that is malformed, too large, too deep, or
    refers to anything outside itself; how a keyword is served is the engine's affair."""
    try:
        n_bytes = len(msgspec.json.encode(schema))
    except (RecursionError, UnicodeEncodeError, OverflowError) as error:
        raise ValueError("the JSON schema cannot be read") from error
    if n_bytes > limits.MAX_SCHEMA_BYTES:
        raise ValueError(f"the JSON schema is larger than {limits.MAX_SCHEMA_BYTES} bytes")
    strings = _Strings()
    cost = _cost(schema, strings, depth=1)
    if cost > limits.MAX_SCHEMA_COST:
        raise ValueError(
            f"the JSON schema describes up to {cost} parts, more than {limits.MAX_SCHEMA_COST}: lower "
            "minItems, maxItems or the number of sub-schemas"
        )
    strings.check()
    return schema


def _cost(schema: object, strings: _Strings, *, depth: int) -> int:
    """Number of sub-schemas, repeated ones counted as often as they repeat. What is to know of their strings
    is added to `strings`."""
    if not isinstance(schema, dict):
        raise ValueError("a JSON schema is an object; for 'anything' write {}")
    if depth > limits.MAX_SCHEMA_DEPTH:
        raise ValueError(f"the JSON schema is nested deeper than {limits.MAX_SCHEMA_DEPTH}")
    _check_keywords(schema)
    strings.patterns += [_checked_pattern(pattern) for pattern in _patterns(schema)]
    if {"minLength", "maxLength"} & schema.keys():
        strings.lengths.add((schema.get("minLength", 0), schema.get("maxLength", 0)))
    cost = 1
    for keyword in _IN_MAPS:
        cost += sum(_cost(child, strings, depth=depth + 1) for child in _mapping(schema, keyword).values())
    for keyword in _IN_LISTS:
        cost += sum(_cost(child, strings, depth=depth + 1) for child in _list(schema, keyword))
    for keyword in _SINGLE:
        if keyword in schema:
            cost += _cost(schema[keyword], strings, depth=depth + 1)
    for keyword in _CLOSING:
        if not isinstance(schema.get(keyword, False), bool):
            cost += _cost(schema[keyword], strings, depth=depth + 1)
    return cost * _repeat(schema, ("minItems", "maxItems"))


def _repeat(schema: Mapping[str, Any], keywords: tuple[str, ...]) -> int:
    return max(1, *(int(schema.get(keyword, 1)) for keyword in keywords))


def _check_keywords(schema: Mapping[str, Any]) -> None:
    for keyword in _REPEATS:
        value = schema.get(keyword, 0)
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 <= value <= limits.MAX_SCHEMA_REPEAT
        ):
            raise ValueError(f"{keyword} is an integer from 0 to {limits.MAX_SCHEMA_REPEAT}")
    reference = schema.get("$ref", "#")
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise ValueError("$ref may point only into the schema itself ('#/$defs/...')")
    if {"$dynamicRef", "$recursiveRef", "$id"} & schema.keys():
        raise ValueError("$dynamicRef, $recursiveRef and $id are not served")
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not all(isinstance(kind, str) and kind in _TYPES for kind in kinds):
        raise ValueError(f"type is one of {', '.join(sorted(_TYPES))}, or a list of them")
    if "type" in schema and not kinds:
        raise ValueError("type is an empty list")
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        value = schema.get(keyword, 0)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{keyword} is a number")
    if "enum" in schema and not _list(schema, "enum"):
        raise ValueError("enum is an empty list")
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema and not _list(schema, union):
            raise ValueError(f"{union} is an empty list")
    if not all(isinstance(name, str) for name in _list(schema, "required")):
        raise ValueError("required is a list of names")


def _patterns(schema: Mapping[str, Any]) -> list[Any]:
    own = [schema["pattern"]] if "pattern" in schema else []
    return [*own, *_mapping(schema, "patternProperties")]


def _checked_pattern(pattern: object) -> int:
    if not isinstance(pattern, str) or len(pattern) > limits.MAX_PATTERN_CHARS:
        raise ValueError(f"a pattern is a string of at most {limits.MAX_PATTERN_CHARS} characters")
    cost = pattern_cost(pattern)
    if cost > limits.MAX_PATTERN_COST:
        raise ValueError(
            f"a pattern matches up to {cost} places, more than {limits.MAX_PATTERN_COST}: lower the bounds "
            "of repetitions like {1,63}, above all inside each other, or write + or *"
        )
    return cost


def _mapping(schema: Mapping[str, Any], keyword: str) -> dict[str, Any]:
    value = schema.get(keyword, {})
    if not isinstance(value, dict):
        raise ValueError(f"{keyword} is an object")
    return value


def _list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword, [])
    if not isinstance(value, list):
        raise ValueError(f"{keyword} is a list")
    return value
