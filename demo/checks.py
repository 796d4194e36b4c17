"""Whether an answer is right, decided by a program. One check per domain; its parameters come with a prompt.

reasoning  {"answer": "42"}
    the last number of the answer
code  {"function": null, "tests": [[args, expected], ...]}
    the function passes all tests in a sandbox; where `function` is null it may have any name
creative  {"lines": 2, "words": ["silver"], "topic": "rain"}
    so many lines that are not empty; every word occurs as a whole word; the topic is named
analysis  {"json": {...}}
    the answer is this object and nothing else
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from demo import sandbox

MAX_SHARE_OF_ONE_POEM = 0.05
_NUMBER = re.compile(r"(?<![\w.)])-?\d[\d,]*(?:\.\d+)?|(?<=[-+*/=$<>])\d[\d,]*(?:\.\d+)?")


def reasoning(answer: str, check: dict[str, Any]) -> bool:
    """Whether the last number of `answer` equals the expected one."""
    numbers = _NUMBER.findall(answer)
    try:
        return bool(numbers) and Decimal(numbers[-1].replace(",", "")) == Decimal(
            str(check["answer"]).replace(",", "")
        )
    except InvalidOperation:
        return False


def analysis(answer: str, check: dict[str, Any]) -> bool:
    """Whether `answer` is JSON equal to the expected object; 1, 1.0, "1" and true are four different
    values.
    """

    def canonical(value: object) -> str:
        return json.dumps(value, sort_keys=True)

    try:
        return canonical(json.loads(answer.strip())) == canonical(check["json"])
    except (ValueError, RecursionError):
        return False


def creative(answer: str, check: dict[str, Any]) -> bool:
    """Whether `answer` has the asked number of lines, holds every word as a whole word, and names the
    topic.
    """
    if sum(bool(line.strip()) for line in answer.splitlines()) != check["lines"]:
        return False
    return all(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", answer, re.I) for w in check["words"]) and bool(
        re.search(rf"(?<!\w){re.escape(check['topic'])}", answer, re.I)
    )


def code(answers: Sequence[str], checks: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether each function passes all of its tests, each answer in a sandboxed process of its own."""
    return sandbox.run_all(
        [
            (answer, check.get("function"), check["tests"])
            for answer, check in zip(answers, checks, strict=True)
        ]
    )


def score(domain: str, answers: Sequence[str], checks: Sequence[dict[str, Any]]) -> list[bool]:
    """One verdict per answer. Where one poem serves more than 5 % of the prompts, it counts for none of
    them.
    """
    if domain == "code":
        return code(answers, checks)
    check_one = {"reasoning": reasoning, "analysis": analysis, "creative": creative}[domain]
    verdicts = [check_one(a, c) for a, c in zip(answers, checks, strict=True)]
    if domain == "creative":
        served = Counter(" ".join(a.split()) for a in answers)
        allowed = max(1, int(MAX_SHARE_OF_ONE_POEM * len(answers)))
        verdicts = [
            ok and served[" ".join(a.split())] <= allowed for ok, a in zip(verdicts, answers, strict=True)
        ]
    return verdicts
