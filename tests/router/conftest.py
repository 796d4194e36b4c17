"""Four made-up agents with 16 examples each, other prompts for them, and prompts for none of them."""

from __future__ import annotations

import pytest

from adaptive_lora.router.encoder import OnnxEncoder, load_encoder
from adaptive_lora.router.router import Router

FLEET = {
    "weather": [
        "will it rain in Oslo today",
        "is snow expected in Madrid tonight",
        "how hot does it get tomorrow",
        "do I need an umbrella this afternoon",
        "what is the forecast for the weekend",
        "is it windy outside",
        "when does the storm arrive in Boston",
        "tell me the temperature in Rome",
        "any chance of fog in the morning",
        "how cold will it be on Sunday",
        "is it sunny in Lisbon right now",
        "will the rain stop before noon",
        "give me the weather report for Tokyo",
        "should I wear a coat tomorrow",
        "what is the humidity today",
        "does it snow in Denver in May",
    ],
    "music": [
        "play some jazz by that trio",
        "put on the new rock album",
        "skip this song",
        "I want to hear folk music",
        "queue three songs by this singer",
        "turn up the volume of the music",
        "shuffle my running playlist",
        "play the last track again",
        "who sings this song",
        "find me a classical piano piece",
        "add this song to my favourites",
        "stop the music",
        "play something relaxing",
        "start my party playlist",
        "what album is this track from",
        "play blues from the fifties",
    ],
    "banking": [
        "move 50 euros to my savings account",
        "what is the balance of my account",
        "pay my electricity bill",
        "transfer 120 dollars to Anna",
        "when is my credit card payment due",
        "block my lost debit card",
        "show the transactions of last week",
        "send 9 pounds from the joint account",
        "open a new savings account",
        "did my salary arrive",
        "what is the interest rate of my loan",
        "increase my card limit to 2000",
        "I do not recognise this charge on my card",
        "how much did I spend in March",
        "withdraw 40 euros",
        "set up a standing order of 300 for rent",
    ],
    "cooking": [
        "how long do I boil potatoes",
        "a recipe with rice and beans",
        "can I roast carrots with garlic",
        "what to cook from eggs and spinach",
        "how much salt goes into bread dough",
        "substitute for butter in a cake",
        "at what temperature do I bake salmon",
        "how do I make tomato soup",
        "give me a vegetarian stew recipe",
        "how to cut an onion",
        "what goes well with grilled chicken",
        "how long does pizza dough rest",
        "make a shopping list for lasagne",
        "how to thicken a sauce",
        "can I freeze cooked pasta",
        "what spices are in curry",
    ],
}

FAR = (
    "Who wrote Hamlet?",
    "hello",
    "Tell me a joke",
    "SELECT name FROM users;",
    "Explain how vaccines work",
    "asdf qwerty zxcv",
    "Is seven a prime number?",
    "What does this error message mean?",
)


@pytest.fixture(scope="session")
def fleet() -> dict[str, list[str]]:
    return FLEET


@pytest.fixture(scope="session")
def unseen() -> dict[str, list[str]]:
    return {
        "weather": ["is it going to rain this weekend in Paris", "any chance of snow tomorrow"],
        "music": ["please play me some blues by that singer", "put that rock song on"],
        "banking": [
            "send 75 dollars from my savings account",
            "could you transfer 300 euros to the joint account",
        ],
        "cooking": ["how long should I boil eggs", "a recipe with rice and tomatoes"],
    }


@pytest.fixture(scope="session")
def far() -> tuple[str, ...]:
    """Prompts that none of the agents is for."""
    return FAR


@pytest.fixture(scope="session")
def encoder() -> OnnxEncoder:
    loaded = load_encoder()
    if loaded is None:
        pytest.skip("models/encoder is not in this checkout; run `make encoder`")
    return loaded


@pytest.fixture(scope="session", params=["ngrams", "ngrams+encoder"])
def router(request: pytest.FixtureRequest, fleet: dict[str, list[str]]) -> Router:
    """Fitted on the fleet, with and without the encoder."""
    encoder = request.getfixturevalue("encoder") if request.param == "ngrams+encoder" else None
    return Router.fit(fleet, encoder=encoder)
