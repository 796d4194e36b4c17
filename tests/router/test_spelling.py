from __future__ import annotations

import pytest

from adaptive_lora.router.router import Router
from adaptive_lora.router.spelling import tidy, undo_look_alikes, undo_swaps

WORDS = frozenset({"transfer", "money", "account", "from", "form", "savings", "password"})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trasnfer mnoey", "transfer money"),
        ("rtansfre money", "transfer money"),
        ("Trasnfer", "transfer"),
        ("from form", "from form"),
        ("acocunt-savigns!", "account-savings!"),
        ("paswrod pwdssaor", "paswrod pwdssaor"),
        ("form_1 x = fmro", "form_1 x = fmro"),
    ],
)
def test_swapped_neighbours_in_unknown_words_are_put_back(typed: str, meant: str) -> None:
    assert undo_swaps(typed, WORDS) == meant


@pytest.mark.parametrize("text", ["", "a", "\ud800", "x" * 10_000, "\u00df\u0130 caf\u00e9", "1234 += ;"])
def test_what_is_no_such_word_is_left_alone(text: str) -> None:
    assert undo_swaps(text, WORDS) == text


def test_typing_errors_cost_a_router_little(router: Router) -> None:
    for typed in ("paly smoe jazz by taht trio", "how long do I biol potaotes", "pay my elcetricity blil"):
        meant = {"paly": "music", "how": "cooking", "pay": "banking"}[typed.split()[0]]
        assert router.route(typed, explain=True).explanation["best"] == meant


def test_letters_that_look_latin_are_made_latin_in_latin_text() -> None:
    assert undo_look_alikes("tr\u0430nsfer m\u043en\u0435y from \u0441\u0430sh") == "transfer money from cash"
    russian = "\u043f\u0440\u0438\u0432\u0435\u0442 world"
    assert undo_look_alikes(russian) == russian


def test_tidied_text_is_short_visible_and_spelt() -> None:
    assert tidy("\uff54rasnfer m\u200bon\u00adey", WORDS) == "transfer money"
    assert len(tidy("x" * 32_000, WORDS)) < 5_000


def test_words_of_the_examples_come_first_and_known_words_stay() -> None:
    assert undo_swaps("tarin", {"train"}, {"atrin"}) == "train"
    assert undo_swaps("trial", {"trail"}, {"trial"}) == "trial"
