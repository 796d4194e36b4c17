from __future__ import annotations

import pytest

from adaptive_lora.router.router import Router
from adaptive_lora.router.spelling import undo_swaps

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
