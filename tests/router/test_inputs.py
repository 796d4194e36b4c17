"""What people send besides one English sentence: code, long texts, other languages, look-alikes."""

from __future__ import annotations

import pytest

from adaptive_lora.router.encoder import OnnxEncoder
from adaptive_lora.router.router import Router

Fleet = dict[str, list[str]]

GERMAN = {
    "wetter": [
        "regnet es heute in Oslo",
        "wie kalt wird es am Sonntag",
        "brauche ich morgen einen Regenschirm",
        "wie wird das Wetter am Wochenende",
        "schneit es heute Nacht in Berlin",
        "ist es draussen windig",
        "wann kommt der Sturm",
        "wie warm ist es gerade in Rom",
    ],
    "musik": [
        "spiele etwas Jazz",
        "naechstes Lied bitte",
        "mach die Musik lauter",
        "wer singt dieses Lied",
        "starte meine Playlist zum Laufen",
        "spiele das letzte Lied noch einmal",
        "halte die Musik an",
        "suche ein ruhiges Klavierstueck",
    ],
}
CHINESE = {
    "tianqi": [
        "\u4eca\u5929\u4f1a\u4e0b\u96e8\u5417",
        "\u660e\u5929\u5929\u6c14\u600e\u4e48\u6837",
        "\u5317\u4eac\u73b0\u5728\u6c14\u6e29\u591a\u5c11",
        "\u5468\u672b\u4f1a\u4e0b\u96ea\u5417",
        "\u5916\u9762\u98ce\u5927\u5417",
        "\u660e\u5929\u9700\u8981\u5e26\u4f1e\u5417",
    ],
    "yinyue": [
        "\u64ad\u653e\u4e00\u9996\u7235\u58eb\u4e50",
        "\u4e0b\u4e00\u9996\u6b4c",
        "\u628a\u97f3\u4e50\u5f00\u5927\u58f0\u4e00\u70b9",
        "\u8fd9\u9996\u6b4c\u662f\u8c01\u5531\u7684",
        "\u505c\u6b62\u64ad\u653e\u97f3\u4e50",
        "\u64ad\u653e\u6211\u7684\u6b4c\u5355",
    ],
}


@pytest.mark.parametrize("with_encoder", [False, True])
@pytest.mark.parametrize(
    ("examples", "prompt", "agent"),
    [
        (GERMAN, "regnet es morgen in Hamburg", "wetter"),
        (GERMAN, "spiele bitte ein Lied von den Beatles", "musik"),
        (CHINESE, "\u4e0a\u6d77\u4eca\u5929\u4f1a\u4e0b\u96e8\u5417", "tianqi"),
        (CHINESE, "\u64ad\u653e\u4e00\u9996\u6b4c", "yinyue"),
    ],
    ids=["de-1", "de-2", "zh-1", "zh-2"],
)
def test_other_languages_by_examples_in_them(
    examples: Fleet, prompt: str, agent: str, with_encoder: bool, encoder: OnnxEncoder
) -> None:
    router = Router.fit(examples, encoder=encoder if with_encoder else None)
    assert router.route(prompt, explain=True).explanation["best"] == agent


@pytest.mark.parametrize("filler", ["lorem ipsum dolor sit amet ", "x = [1, 2, 3]\n", "\u4f60\u597d "])
def test_of_a_long_prompt_the_beginning_counts(fleet: Fleet, encoder: OnnxEncoder, filler: str) -> None:
    router = Router.fit(fleet, encoder=encoder)
    long = (filler * 32_000)[:31_900]
    asked_first = router.route(f"play some jazz by that trio: {long}", explain=True)
    assert asked_first.explanation["best"] == "music"
    assert 0 <= asked_first.confidence <= 1


def test_code_is_read_as_text(encoder: OnnxEncoder) -> None:
    examples = {
        "python": [
            "def add(a, b):\n    return a + b\n# write a test",
            "fix this: `for i in range(10) print(i)`",
            "what does `lambda x: x * 2` do",
            "```python\nimport os\nos.getcwd()\n```\nexplain",
            "refactor this class: class A: pass",
            "why does `[1, 2][5]` raise IndexError",
        ],
        "sql": [
            "SELECT name FROM users WHERE age > 30; make it faster",
            "write a query that joins orders and customers",
            "```sql\nDELETE FROM logs\n```\nis this safe",
            "add an index on users(email)",
            "what does GROUP BY do",
            "count the rows of table orders",
        ],
    }
    router = Router.fit(examples, encoder=encoder)
    for prompt, agent in (
        ("```python\nfor x in items:\n    print(x)\n```\nwhat is wrong here", "python"),
        ("SELECT city, COUNT(*) FROM orders GROUP BY city; explain it", "sql"),
    ):
        assert router.route(prompt, explain=True).explanation["best"] == agent


def test_unicode_look_alikes_and_invisible_characters_change_little(router: Router) -> None:
    wide = "\uff50\uff4c\uff41\uff59 some \uff4a\uff41\uff5a\uff5a by that trio"
    hidden = "pl\u200bay some ja\u00adzz by that tr\u2060io"
    for prompt in (wide, hidden):
        assert router.route(prompt, explain=True).explanation["best"] == "music"
