from typing import Any

import pytest

from adaptive_lora.serving.schemas.json_schema import check_json_schema


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"]},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "integer"}}},
        {"type": "array", "items": {"enum": [1, None, "x"]}, "minItems": 1, "maxItems": 100},
        {"type": "object", "additionalProperties": False, "required": []},
        nested(15),
    ],
)
def test_ordinary_schemas_pass_as_they_are(schema: dict[str, Any]) -> None:
    assert check_json_schema(schema) is schema


@pytest.mark.parametrize(
    ("schema", "tells"),
    [
        (nested(16), "deeper"),
        ({"properties": {f"p{i}": {"type": "string", "title": "x" * 100} for i in range(200)}}, "larger"),
        ({"items": {"items": {"items": {}, "minItems": 100}, "minItems": 100}, "minItems": 100}, "parts"),
        ({"$ref": "https://example.org/schema"}, "into the schema itself"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "into the schema itself"),
        ({"$dynamicRef": "#x"}, "not served"),
        ({"pattern": "(a+)+" * 100}, "pattern"),
        ({"patternProperties": {"x" * 300: {}}}, "pattern"),
        ({"maxLength": 10_000_000}, "maxLength"),
        ({"minItems": -1}, "minItems"),
        ({"minItems": True}, "minItems"),
        ({"type": "strng"}, "type"),
        ({"type": []}, "empty"),
        ({"enum": []}, "empty"),
        ({"anyOf": []}, "empty"),
        ({"properties": {"a": True}}, "object"),
        ({"properties": []}, "properties"),
        ({"required": [1]}, "required"),
        ({"minimum": "1"}, "minimum"),
    ],
)
def test_what_could_hurt_the_engine_is_refused(schema: dict[str, Any], tells: str) -> None:
    with pytest.raises(ValueError, match=tells):
        check_json_schema(schema)
