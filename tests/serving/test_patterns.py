"""What patterns and lengths of strings cost in JSON Schemas: people's own pass, those that hold the engine's
compiler do not."""

import pytest

from adaptive_lora.serving.schemas.json_schema import check_json_schema
from adaptive_lora.serving.schemas.patterns import pattern_cost


@pytest.mark.parametrize(
    ("pattern", "cost"),
    [
        ("", 0),
        ("^abc$", 5),
        (r"\d{4}-\d{2}", 7),
        ("[^]a-z]{3,5}x*", 6),
        ("(?:ab|c){5}", 15),
        ("(?P<x>ab)?", 2),
        ("[a-z]{2,}", 2),
        ("(a{10}){10}", 100),
        ("(a{1,10}){10}", 400),
        ("((a?){2}){3}", 48),
        ("a{b", 3),
        ("(a{9}", 9),
        ("a)){2}", 2),
    ],
)
def test_the_cost(pattern: str, cost: int) -> None:
    assert pattern_cost(pattern) == cost


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?$",
        r"^[a-z0-9._%+-]{1,64}@[a-z0-9.-]{1,128}\.[a-z]{2,10}$",
        r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
        r"^((25[0-5]|(2[0-4]|1\d|[1-9]|)\d)\.?\b){4}$",
        r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$",
        r"^(\+?\d{1,3}[ -]?)?(\(?\d{3}\)?[ -]?){2}\d{4}$",
        r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
        r"^([a-z0-9-]+\.){1,8}[a-z]{2,}$",
        r"^.{1,128}$",
    ],
)
def test_what_people_write_passes(pattern: str) -> None:
    check_json_schema({"properties": {name: {"type": "string", "pattern": pattern} for name in "abc"}})


@pytest.mark.parametrize(
    "pattern",
    [
        "([a-z]{0,16}){0,16}",
        "([a-z]{0,64}){0,64}",
        "([a-z]{1,50}){50}",
        "(([a-z]?){0,20}){0,20}",
        "[a-z]{0,90}" * 9,
    ],
)
def test_what_takes_the_compiler_seconds_is_refused(pattern: str) -> None:
    for schema in ({"pattern": pattern}, {"patternProperties": {pattern: {}}}, {"not": {"pattern": pattern}}):
        with pytest.raises(ValueError, match="places, more than 512"):
            check_json_schema({"items": schema})


@pytest.mark.parametrize(
    "pattern", ["a{129}", "a{0,129}", "a{129,}", "(ab){1,255}", "[a-z]{1,40000}", "a{99999999999999999999}"]
)
def test_bounds_that_the_grammar_does_not_have_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"at most \{128\}"):
        check_json_schema({"type": "string", "pattern": pattern})


def test_many_patterns_count_together() -> None:
    fields = {
        f"p{i}": {"type": "string", "pattern": "[a-z]{1,100}[0-9]{1,100}[a-z]{1,100}[0-9]{1,100}"}
        for i in range(6)
    }
    with pytest.raises(ValueError, match="2400 places, more than 2048"):
        check_json_schema({"properties": fields})


def test_a_pattern_that_is_repeated_counts_once() -> None:
    check_json_schema({"type": "array", "maxItems": 1000, "items": {"pattern": "[a-z]{1,100}"}})


def strings(*lengths: dict[str, int]) -> dict[str, object]:
    return {"properties": {f"f{i}": {"type": "string", **each} for i, each in enumerate(lengths)}}


def test_different_lengths_count_together() -> None:
    check_json_schema(strings(*({"maxLength": 100 * i} for i in range(1, 9))))
    check_json_schema(strings(*({"minLength": 1, "maxLength": i} for i in range(1, 45))))
    with pytest.raises(ValueError, match=r"9 different pairs .*, which cost 1152, more than 1024"):
        check_json_schema(strings(*({"maxLength": 128 + i} for i in range(9))))
    with pytest.raises(ValueError, match="16 different pairs"):
        check_json_schema(strings(*({"minLength": i, "maxLength": 100} for i in range(16))))


def test_a_length_that_many_fields_share_counts_once() -> None:
    check_json_schema(strings(*({"maxLength": 500} for _ in range(100)), {"minLength": 1}))
