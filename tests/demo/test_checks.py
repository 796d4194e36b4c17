from __future__ import annotations

import pytest

from demo import checks


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("17+25=42", "42", True),
        ("17+25=42.", "42", True),
        ("5+7=12, 12-3=9", "9", True),
        ("54>45, so 54", "54", True),
        ("The answer is $1,250", "1250", True),
        ("3-8=-5", "-5", True),
        ("10-3=7", "-7", False),
        ("17+25=43", "42", False),
        ("42 is less than 43", "42", False),
        ("forty-two", "42", False),
        ("", "42", False),
        ("7/2=3.5", "3.5", True),
    ],
)
def test_reasoning_takes_the_last_number(answer: str, expected: str, right: bool) -> None:
    assert checks.reasoning(answer, {"answer": expected}) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"order": "4417", "city": "Lisbon"}', True),
        (' {"city":"Lisbon","order":"4417"}\n', True),
        ('{"order": 4417, "city": "Lisbon"}', False),
        ('{"order": "4417.0", "city": "Lisbon"}', False),
        ('{"order": "4417"}', False),
        ('{"order": "4417", "city": "Lisbon", "day": "Friday"}', False),
        ('Here: {"order": "4417", "city": "Lisbon"}', False),
        ("{" * 5000, False),
        ("", False),
    ],
)
def test_analysis_wants_the_very_object(answer: str, right: bool) -> None:
    assert checks.analysis(answer, {"json": {"order": "4417", "city": "Lisbon"}}) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The rain is cold,\na Silver thread.", True),
        ("The rain is cold,\n\na silver thread.", True),
        ("The rain is cold, a silver thread.", False),
        ("The rain is cold,\na silvery thread.", False),
        ("The train is cold,\na silver thread.", False),
        ("The rain,\nis silver,\nis cold.", False),
    ],
)
def test_creative_counts_lines_words_and_topic(answer: str, right: bool) -> None:
    assert checks.creative(answer, {"lines": 2, "words": ["silver"], "topic": "rain"}) is right


def test_one_poem_for_everybody_counts_for_nobody() -> None:
    check = {"lines": 1, "words": [], "topic": "rain"}
    same = ["Rain."] * 6 + [f"Rain {i}." for i in range(94)]
    assert sum(checks.score("creative", same, [check] * 100)) == 94
    varied = ["Rain."] * 5 + [f"Rain {i}." for i in range(95)]
    assert sum(checks.score("creative", varied, [check] * 100)) == 100


def test_code_is_run_against_its_tests() -> None:
    check = {"function": None, "tests": [[[[3, 1, 2]], 3], [[[-1]], -1]]}
    named = {"function": "largest", "tests": check["tests"]}
    answers = [
        "def f(x):\n    return max(x)",
        "def f(x):\n    return 3",
        "def largest(x):\n    return max(x)",
        "def f(x",
    ]
    assert checks.score("code", answers, [check, check, named, check]) == [True, False, True, False]
    assert checks.score("code", answers[:1], [named]) == [False]
