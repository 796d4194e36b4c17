from __future__ import annotations

import pytest

from adaptive_lora.router.encoder import OnnxEncoder
from adaptive_lora.router.parts import later_part
from adaptive_lora.router.router import Router


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("1 2 3 4 5 6 7 8 9", None),
        ("  1 2  3 4 5\n6 7 8 9\t10 ", "9\t10"),
        (" ".join(map(str, range(40))), " ".join(map(str, range(8, 18)))),
        ("a" * 100, None),
        ("", None),
    ],
)
def test_what_comes_after_eight_words(prompt: str, part: str | None) -> None:
    assert later_part(prompt) == part


def test_a_prefix_of_somebody_elses_words_does_not_take_a_prompt_along(
    fleet: dict[str, list[str]], encoder: OnnxEncoder
) -> None:
    router = Router.fit(fleet, encoder=encoder)
    for prompt, own in (
        ("play some jazz music and shuffle my playlist: will it rain in Oslo today", "weather"),
        ("give me a recipe with rice and beans: transfer 120 dollars to Anna", "banking"),
    ):
        decision = router.route(prompt, explain=True)
        assert decision.agent in ("base", own), prompt
