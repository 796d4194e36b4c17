import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.agents.names import Agent, Auto, Base, Composition, Team, parse_name
from adaptive_lora.errors import InvalidName

WORD = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True).filter(
    lambda word: word not in ("auto", "base")
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("auto", Auto()),
        ("base", Base()),
        ("code", Agent("code")),
        ("code@3f9c2a", Agent("code", "3f9c2a")),
        ("code@canary", Agent("code", "canary")),
        ("code:0.7+reasoning:0.3", Composition(((Agent("code"), 0.7), (Agent("reasoning"), 0.3)))),
        ("code@3f9c2a:1", Composition(((Agent("code", "3f9c2a"), 1.0),))),
        ("team/review", Team("review")),
    ],
)
def test_every_form_parses_and_prints_back(text: str, name: object) -> None:
    assert parse_name(text) == name
    assert str(parse_name(text)) == text


def test_version_prefixes_and_aliases_are_told_apart() -> None:
    assert [Agent("code", ref).is_version for ref in ("3f9c2a", "canary", "abc", None)] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "", " code", "Code", "code ", "code\n", "../code", "code/../x", "team/", "team/a/b", "auto@3f9c",
        "base:1", "code@", "@canary", "code:", "code:0", "code:-1", "code:5", "code:nan", "code:1e3",
        "code:0.5+", "code+code", "code:0.5+code:0.5", "code:1:2", "meta-llama/Llama", "x" * 64, "x" * 600,
        "código", "code\x00", "+".join(f"a{i}:1" for i in range(9)),
    ],
)  # fmt: skip
def test_everything_else_is_refused_and_told_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidName) as caught:
        parse_name(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600


@given(
    st.lists(
        st.tuples(WORD, st.sampled_from([0.25, 0.5, 1.0, 3.75])),
        min_size=1,
        max_size=8,
        unique_by=lambda p: p[0],
    )
)
def test_compositions_survive_a_round_trip(parts: list[tuple[str, float]]) -> None:
    name = Composition(tuple((Agent(word), weight) for word, weight in parts))
    assert parse_name(str(name)) == name


@given(st.text(max_size=40))
def test_arbitrary_text_parses_or_is_an_invalid_name(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidName:
        return
    assert parse_name(str(name)) == name
