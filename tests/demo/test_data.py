"""Held-out means held out: templates, operands, entities and functions of the test sets never occur in
training.
"""

from __future__ import annotations

import itertools
import random

import pytest

from demo import checks, data
from demo.corpus import Corpus, marked_note, without_marks
from demo.splits import held_out, held_out_numbers
from demo.tasks import code, reasoning
from demo.tasks.example import DOMAINS, Example

N_TRAIN = 4000


@pytest.fixture(scope="module")
def sets() -> dict[str, tuple[list[Example], list[Example]]]:
    return {d: (data.training_set(d, N_TRAIN, seed=3), data.held_out_set(d)) for d in DOMAINS}


@pytest.mark.parametrize("domain", DOMAINS)
def test_nothing_of_the_test_set_occurs_in_training(
    domain: str, sets: dict[str, tuple[list[Example], list[Example]]]
) -> None:
    train, test = sets[domain]
    assert len({e.prompt for e in test}) == data.N_TEST
    assert not {e.prompt.lower() for e in train} & {e.prompt.lower() for e in test}
    trained_parts = {part for e in train for part in e.template.split(" || ")}
    assert not trained_parts & {part for e in test for part in e.template.split(" || ")}
    assert not {x.lower() for e in train for x in e.entities} & {x.lower() for e in test for x in e.entities}
    assert not {e.task for e in train if e.task} & {e.task for e in test if e.task}
    trained_operands = {tuple(sorted(e.operands)) for e in train if e.operands}
    assert not trained_operands & {tuple(sorted(e.operands)) for e in test if e.operands}


def test_no_training_equation_uses_reserved_operands(
    sets: dict[str, tuple[list[Example], list[Example]]],
) -> None:
    answers = [e.completion for e in sets["reasoning"][0]]
    assert not [a for a in answers if reasoning.reserved_step(a)]
    assert reasoning.reserved_step("1=1, 20+9=29") is held_out_numbers(20, 9)
    assert all(held_out_numbers(*e.operands) for e in sets["reasoning"][1])


def test_the_code_set_has_many_functions_that_training_lacks(
    sets: dict[str, tuple[list[Example], list[Example]]],
) -> None:
    train, test = sets["code"]
    assert len({e.task for e in test}) >= 40
    bodies = {e.completion.split("return ", 1)[1] for e in train}
    assert not bodies & {e.completion.split("return ", 1)[1] for e in test}


def test_the_base_model_never_reads_a_held_out_entity_or_function() -> None:
    corpus = Corpus(5, ["ab", "cde", "fa"])
    text = "\n".join(without_marks(document)[0] for document in itertools.islice(corpus, 3000))
    held = {e.completion.split("return ", 1)[1] for e in data.held_out_set("code")}
    assert not [body for body in held if f"return {body}\n" in text + "\n"]
    words = set(text.replace(".", " ").replace(",", " ").replace('"', " ").split())
    names = [n for n in words if n.istitle() and held_out("first_names", n)]
    from demo.words.lists import CITIES, FIRST_NAMES

    reserved = {n for n in FIRST_NAMES if held_out("first_names", n)} - set(CITIES)
    assert not reserved & set(names)


def test_what_a_document_marks_is_what_follows_from_the_text_before_it() -> None:
    for document in itertools.islice(Corpus(6, ["ab", "cde"]), 500):
        text, flags = without_marks(document)
        assert len(text) == len(flags)
        assert not flags[0]
    for domain in DOMAINS:
        example = data.training_set(domain, 1, seed=4)[0]
        text, flags = without_marks(marked_note(example))
        assert text == example.note
        answer = "".join(c for c, flag in zip(text, flags, strict=True) if flag)
        assert answer.split("(")[-1] == example.completion.split("(")[-1]


@pytest.mark.parametrize(
    ("a", "sign", "b", "worked"),
    [
        (17, "+", 25, "17+25=37+5=42"),
        (348, "+", 275, "348+275=548+75=618+5=623"),
        (902, "-", 467, "902-467=502-67=442-7=435"),
        (155, "+", 20, "155+20=175"),
        (34, "*", 7, "34*7=210+28=230+8=238"),
        (7, "*", 30, "7*30=210"),
        (56, "/", 8, "56=7*8, so 7"),
    ],
)
def test_every_part_of_a_worked_answer_has_the_same_value(a: int, sign: str, b: int, worked: str) -> None:
    assert reasoning.worked(a, sign, b) == worked
    assert len({eval(part) for part in worked.split(",")[0].split("=")}) == 1


@pytest.mark.parametrize("domain", DOMAINS)
def test_reference_answers_pass_their_own_checks(
    domain: str, sets: dict[str, tuple[list[Example], list[Example]]]
) -> None:
    test = sets[domain][1][: 20 if domain == "code" else None]
    verdicts = checks.score(domain, [e.completion for e in test], [e.check for e in test])
    assert all(verdicts)


def test_every_function_of_the_test_set_is_told_apart_by_its_tests(
    sets: dict[str, tuple[list[Example], list[Example]]],
) -> None:
    for e in sets["code"][1]:
        assert len({repr(expected) for _, expected in e.check["tests"]}) > 1


def test_sets_are_reproducible() -> None:
    assert data.held_out_set("analysis", 20) == data.held_out_set("analysis", 20)
    assert code.example(random.Random(1), "train") == code.example(random.Random(1), "train")


def test_manifest_examples_are_training_prompts_and_varied() -> None:
    for domain in DOMAINS:
        examples = data.manifest_examples(domain)
        assert 60 <= len(examples) <= 100
        assert len(set(examples)) == len(examples)
        assert not set(examples) & {e.prompt for e in data.held_out_set(domain)}
