from __future__ import annotations

from adaptive_lora.router.examples import collect_examples


def test_repeated_examples_count_once() -> None:
    kept = collect_examples({"a": ["One thing", "one  THING", "two", "three", "four", "five"]})
    assert kept.texts == ("One thing", "two", "three", "four", "five")
    assert kept.warnings == ("a: 1 repeated examples ignored; replace them by new phrasings",)


def test_contested_examples_are_nobodys() -> None:
    kept = collect_examples({"b": ["shared", *"vwxyz"], "a": ["Shared ", *"mnopq"]})
    assert kept.agents == ("a", "b")
    assert "shared" not in {text.casefold().strip() for text in kept.texts}
    assert len(kept.warnings) == 2
    assert "b claims too" in kept.warnings[0]


def test_an_agent_that_is_left_without_examples_cannot_be_routed_to() -> None:
    kept = collect_examples({"a": ["same"], "b": ["same"], "c": [], "d": list("vwxyz")})
    assert kept.agents == ("d",)
    assert sum("no usable example" in warning for warning in kept.warnings) == 3


def test_few_examples_work_and_say_so() -> None:
    kept = collect_examples({"a": ["only", "three", "here"]})
    assert kept.agents == ("a",)
    assert "only 3 usable examples" in kept.warnings[0]


def test_labels_point_at_agents() -> None:
    kept = collect_examples({"b": list("vwxyz"), "a": list("mnopq")})
    assert [kept.agents[label] for label in kept.labels] == ["a"] * 5 + ["b"] * 5
