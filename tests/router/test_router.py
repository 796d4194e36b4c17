from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from adaptive_lora.errors import InvalidRequest, NoCandidates, UnknownAdapter
from adaptive_lora.router.encoder import OnnxEncoder
from adaptive_lora.router.router import Router
from adaptive_lora.types import Standing

Fleet = dict[str, list[str]]


def test_routes_unseen_phrasings(router: Router, unseen: Fleet) -> None:
    for agent, prompts in unseen.items():
        for prompt in prompts:
            best = router.route(prompt, explain=True).explanation["best"]
            assert best == agent, prompt


def test_what_no_agent_is_for_is_less_familiar_than_what_one_is(
    router: Router, unseen: Fleet, far: tuple[str, ...]
) -> None:
    kept = router.score([prompt for prompts in unseen.values() for prompt in prompts]).familiarity
    away = router.score(far).familiarity
    assert away.max() < kept.min()


def test_sends_what_no_agent_is_for_to_the_base(router: Router, unseen: Fleet, far: tuple[str, ...]) -> None:
    away = [router.route(prompt) for prompt in far]
    # N-grams alone know no meaning: they turn away only what has hardly a word in common.
    least = len(far) / 2 if router.report.uses_encoder else 3
    assert sum(decision.agent == "base" for decision in away) >= least
    assert {decision.reason for decision in away if decision.agent == "base"} == {"abstained"}
    assert all(router.route(prompt).agent != "base" for prompts in unseen.values() for prompt in prompts)


def test_case_and_typos_do_not_move_a_prompt(router: Router) -> None:
    for prompt in (
        "PLAY SOME JAZZ BY THAT TRIO",
        "play some jaz by taht trio",
        " play  some jazz\nby that trio",
    ):
        assert router.route(prompt).agent == "music"


def test_scores_are_probabilities_of_the_candidates(router: Router, unseen: Fleet) -> None:
    prompts = [prompt for prompts in unseen.values() for prompt in prompts]
    scores = router.score(prompts, ["music", "banking", "cooking"])
    assert scores.candidates == ("music", "banking", "cooking")
    assert scores.probabilities.shape == (len(prompts), 3)
    assert scores.familiarity.shape == (len(prompts),)
    assert scores.probabilities.dtype == np.float32
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_scoring_many_prompts_is_scoring_each(router: Router, unseen: Fleet) -> None:
    prompts = [prompt for prompts in unseen.values() for prompt in prompts]
    together = router.score(prompts)
    for row, prompt in enumerate(prompts):
        np.testing.assert_allclose(
            router.score([prompt]).probabilities[0], together.probabilities[row], rtol=1e-4
        )


def test_only_candidates_are_considered(router: Router) -> None:
    prompt = "play some jazz by that trio"
    decision = router.route(prompt, ["weather", "cooking"])
    assert set(decision.scores) == {"weather", "cooking"}
    assert decision.agent == "base"
    assert router.route(prompt, ["cooking", "music", "music"]).agent == "music"


def test_the_order_of_the_candidates_does_not_matter(router: Router, unseen: Fleet) -> None:
    backwards = router.agents[::-1]
    for prompts in unseen.values():
        for prompt in prompts:
            one, other = router.route(prompt, router.agents), router.route(prompt, backwards)
            assert (one.agent, one.doubt, one.candidates) == (other.agent, other.doubt, other.candidates)
            assert one.scores == pytest.approx(dict(other.scores), abs=1e-6)


def test_a_single_candidate_still_has_to_fit(router: Router) -> None:
    assert router.route("play some jazz by that trio", ["music"]).agent == "music"
    assert router.route("asdf qwerty zxcv", ["music"]).agent == "base"


@pytest.mark.parametrize("candidates", [[], ["unknown"], ["base"]])
def test_no_candidates(router: Router, candidates: list[str]) -> None:
    decision = router.route("anything", candidates)
    assert (decision.agent, decision.reason, decision.scores) == ("base", "no_candidates", {})
    with pytest.raises(NoCandidates):
        router.score(["anything"], candidates)


def test_explanation(router: Router) -> None:
    decision = router.route("play some jazz by that trio", explain=True)
    told = json.loads(json.dumps(decision.explanation))
    assert told["best"] == "music"
    assert told["abstained_because"] is None
    assert told["nearest_examples"][0]["text"] == "play some jazz by that trio"
    assert told["nearest_examples"][0]["similarity"] == pytest.approx(1, abs=0.01)
    assert any("play" in entry["ngram"] and entry["weight"] > 0 for entry in told["ngrams"])
    assert router.route("play some jazz by that trio").explanation == {}


def test_explanation_of_an_abstention(router: Router) -> None:
    told = router.route("asdf qwerty zxcv", explain=True).explanation
    assert "unlike" in told["abstained_because"]
    assert told["familiarity"] < told["thresholds"]["familiarity"]


def test_explained_weights_are_the_scores(fleet: Fleet) -> None:
    """Without the encoder the n-grams' weights add up to the log-odds of the best over the runner-up."""
    pair = {agent: fleet[agent] for agent in ("music", "cooking")}
    router = Router.fit(pair)
    decision = router.route("jazz", explain=True)
    odds = np.log(decision.scores["music"] / decision.scores["cooking"])
    ngrams = decision.explanation["ngrams"]
    assert sum(entry["weight"] for entry in ngrams) == pytest.approx(odds, rel=0.5)
    assert odds > 0


@pytest.mark.parametrize("prompt", ["", " ", "\x00", "\ud800", "x" * 32_000, "\U0001f600", "\n"])
def test_any_prompt_gets_a_decision(router: Router, prompt: str) -> None:
    decision = router.route(prompt, explain=True)
    assert 0 <= decision.confidence <= 1


def test_an_empty_prompt_goes_to_the_base(router: Router) -> None:
    assert router.route("").agent == "base"


def test_without_agents_the_base_answers() -> None:
    router = Router.fit({})
    assert router.agents == ()
    assert router.route("hello").reason == "no_candidates"


def test_one_agent_alone(fleet: Fleet, encoder: OnnxEncoder) -> None:
    router = Router.fit({"music": fleet["music"]}, encoder=encoder)
    decision = router.route("put that rock song on", explain=True)
    assert (decision.agent, decision.confidence, decision.scores) == ("music", 1.0, {"music": 1.0})
    assert router.route("asdf qwerty zxcv", explain=True).agent == "base"


def test_an_agent_with_few_examples_is_provisional(caplog: pytest.LogCaptureFixture) -> None:
    router = Router.fit({"a": ["play a song", "play music"], "b": ["boil an egg"]})
    decision = router.route("play a song", explain=True)
    assert (decision.agent, decision.doubt, decision.candidates[0]) == ("base", "provisional", "a")
    assert decision.explanation["abstained_because"] == (
        "'a' is provisional: 2 usable examples, 5 are needed before prompts are routed to it, 60 advised"
    )
    assert router.report.n_held_out == 0
    assert "only 2 usable examples" in caplog.text
    assert (router.standing("a").routing, router.standing("c").routing) == ("provisional", "explicit_only")
    taught = router.with_agent("a", [f"play {word} music" for word in ("jazz", "folk", "rock", "pop", "old")])
    assert taught.standing("a") == Standing("routed")
    assert taught.route("play jazz music").agent == "a"


def test_an_agent_without_examples_is_never_routed_to(fleet: Fleet) -> None:
    router = Router.fit({**fleet, "silent": []})
    assert "silent" not in router.agents
    assert set(router.route("play some jazz by that trio", ["music", "silent"]).scores) == {"music"}


def test_min_confidence_replaces_the_calibrated_one(fleet: Fleet) -> None:
    strict = Router.fit(fleet, min_confidence=1.0)
    assert strict.route("play some jazz by that trio").agent == "base"
    assert strict.report.min_confidence == 1.0


def test_fitting_again_gives_the_same_router(fleet: Fleet, unseen: Fleet) -> None:
    prompts = [prompt for prompts in unseen.values() for prompt in prompts]
    first, again = Router.fit(fleet, seed=3), Router.fit(dict(reversed(fleet.items())), seed=3)
    np.testing.assert_array_equal(first.score(prompts).probabilities, again.score(prompts).probabilities)
    assert first.report == again.report


def test_an_agent_joins_and_leaves(router: Router, fleet: Fleet, unseen: Fleet) -> None:
    smaller = router.without_agent("music")
    assert smaller.agents == ("banking", "cooking", "weather")
    assert "music" not in smaller.route("put that rock song on").scores
    again = smaller.with_agent("music", fleet["music"])
    assert again.agents == ("banking", "cooking", "weather", "music")
    assert again.report.agents == router.report.agents
    for agent, prompts in unseen.items():
        for prompt in prompts:
            here, there = (r.route(prompt, explain=True) for r in (router, again))
            assert here.explanation["best"] == there.explanation["best"] == agent
            assert there.scores == pytest.approx(here.scores, abs=0.1)


def test_an_agents_examples_are_replaced(router: Router, fleet: Fleet) -> None:
    changed = router.with_agent(
        "music", ["paint the wall green", "which brush for oil colours", "mix a warm grey"]
    )
    assert changed.report.agents["music"] == 3
    assert changed.route("which brush do I take for the wall", explain=True).explanation["best"] == "music"
    assert router.report.agents["music"] == 16


def test_who_cannot_join_or_leave(router: Router, fleet: Fleet) -> None:
    with pytest.raises(InvalidRequest, match="thief has no example of its own"):
        router.with_agent("thief", fleet["music"])
    with pytest.raises(UnknownAdapter, match="knows no agent 'nobody'"):
        router.without_agent("nobody")


def test_the_first_agent_joins_an_empty_router(fleet: Fleet, encoder: OnnxEncoder) -> None:
    for maybe in (None, encoder):
        router = Router.fit({}, encoder=maybe).with_agent("music", fleet["music"])
        assert router.route("play some jazz by that trio").agent == "music"


def test_what_an_agent_is_called_counts(encoder: OnnxEncoder) -> None:
    examples = {"a": ["zig", "zag"], "b": ["ding", "dong"]}
    router = Router.fit(
        examples, encoder=encoder, descriptions={"a": "recipes for soup", "b": "train tickets"}
    )
    assert router.route("a recipe for tomato soup", explain=True).explanation["best"] == "a"
    assert router.route("two train tickets please", explain=True).explanation["best"] == "b"


def test_calibrated_on_other_prompts(fleet: Fleet, unseen: Fleet) -> None:
    held_out = [(prompt, agent) for agent, prompts in unseen.items() for prompt in prompts]
    router = Router.fit(fleet, held_out=[*held_out, ("anything", "an agent that is not there")])
    assert router.report.n_held_out == len(held_out)


def test_a_bound_that_cannot_be_kept_sends_everything_to_the_base(fleet: Fleet) -> None:
    assert Router.fit(fleet, max_error=0.01).route("play some jazz by that trio").agent == "base"
    assert Router.fit(fleet, max_error=0.3).route("play some jazz by that trio").agent == "music"


def test_report(router: Router) -> None:
    assert router.report.agents == dict.fromkeys(("banking", "cooking", "music", "weather"), 16)
    assert router.report.warnings == ()
    assert router.report.held_out_accuracy > 0.7


@pytest.mark.parametrize("room", ["router.router", "adapters.catalog"])
def test_the_gateway_needs_no_torch(room: str) -> None:
    code = (
        f"import sys, adaptive_lora.{room}; "
        "print([m for m in ('torch', 'transformers', 'vllm', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
