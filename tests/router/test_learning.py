from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptive_lora.errors import RouterError
from adaptive_lora.router import learning
from adaptive_lora.router.learning import LearningRouter
from adaptive_lora.router.outcomes import OutcomeLog
from adaptive_lora.router.router import Router
from adaptive_lora.telemetry.logging import request_id_var

Fleet = dict[str, list[str]]
PROMPT = "play some jazz by that trio"


@pytest.fixture(scope="module")
def plain(fleet: Fleet) -> Router:
    return Router.fit(fleet)


def ask(router: LearningRouter, request_id: str, prompt: str = PROMPT) -> str:
    token = request_id_var.set(request_id)
    try:
        return router.route(prompt).agent
    finally:
        request_id_var.reset(token)


def test_outcomes_teach_it_that_the_base_is_better(plain: Router, tmp_path: Path) -> None:
    router, log = LearningRouter(plain, tmp_path), OutcomeLog(tmp_path)
    agents = [ask(router, f"r{i}") for i in range(60)]
    assert agents.count("music") > 40
    for i, agent in enumerate(agents):
        log.write_reward(f"r{i}", 0.0 if agent == "music" else 1.0)
    taught = LearningRouter(plain, tmp_path)
    decision = taught.route(PROMPT, explain=True)
    told = decision.explanation["learning"]
    assert told["expected_reward"]["base"] > told["expected_reward"]["music"]
    if decision.agent == "base":
        assert (decision.reason, decision.doubt) == ("learned", None)
    later = [ask(taught, f"s{i}") for i in range(40)]
    assert later.count("base") > agents.count("base") * 40 / 60


def test_rewards_are_taken_in_while_it_runs(
    plain: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "LOOK_EVERY_S", 0.0)
    router, log = LearningRouter(plain, tmp_path), OutcomeLog(tmp_path)
    first = router.route(PROMPT, explain=True).explanation["learning"]["expected_reward"]
    agent = ask(router, "r1")
    log.write_reward("r1", 0.0)
    then = router.route(PROMPT, explain=True).explanation["learning"]["expected_reward"]
    assert then[agent] < first[agent]


def test_nothing_is_tried_with_what_no_agent_is_for(plain: Router, tmp_path: Path) -> None:
    router = LearningRouter(plain, tmp_path)
    decisions = [router.route("asdf qwerty zxcv") for _ in range(20)]
    assert {(d.agent, d.doubt) for d in decisions} == {("base", "unfamiliar")}
    assert not (tmp_path / "choices.jsonl").exists()
    assert router.route("anything", []).reason == "no_candidates"


def test_every_choice_is_logged_once_with_its_propensities_and_without_the_prompt(
    plain: Router, tmp_path: Path
) -> None:
    router = LearningRouter(plain, tmp_path)
    agents = [ask(router, f"r{i}") for i in range(5)]
    text = (tmp_path / "choices.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["request_id"], line["arm"]) for line in lines] == [
        (f"r{i}", a) for i, a in enumerate(agents)
    ]
    assert all(sum(line["propensities"].values()) == pytest.approx(1) for line in lines)
    assert "jazz" not in text


def test_lines_that_make_no_sense_are_left_out(
    plain: Router, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask(LearningRouter(plain, tmp_path), "r1")
    with (tmp_path / "rewards.jsonl").open("a") as file:
        file.write('{"request_id": "r1", "reward": 7}\nnonsense\n{"request_id": "unknown", "reward": 1}\n')
        file.write('{"request_id": "r1", "reward": 0.5}\n{"request_id": "r1", "reward": 0.9}\n{"request_id"')
    (outcome,) = OutcomeLog(tmp_path).new_outcomes()
    assert outcome.reward == 0.5
    assert caplog.text.count("a line is left out") == 2


def test_a_half_written_line_is_read_when_it_is_whole(plain: Router, tmp_path: Path) -> None:
    ask(LearningRouter(plain, tmp_path), "r1")
    log = OutcomeLog(tmp_path)
    rewards = tmp_path / "rewards.jsonl"
    rewards.write_text('{"request_id": "r1", "rew')
    assert list(log.new_outcomes()) == []
    rewards.write_text('{"request_id": "r1", "reward": 1}\n')
    assert [outcome.reward for outcome in log.new_outcomes()] == [1]


def test_a_folder_that_cannot_be_made(plain: Router, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RouterError, match=r"router\.learning_path"):
        LearningRouter(plain, tmp_path / "file")


def test_a_log_that_cannot_be_written_costs_no_answer(
    plain: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not logged teaches nothing, so nothing is tried: the router's own decision stands."""
    router = LearningRouter(plain, tmp_path)
    (tmp_path / "choices.jsonl").mkdir()
    monkeypatch.setattr(learning, "LOOK_EVERY_S", 0.0)
    caplog.set_level("INFO", logger=learning.__name__)
    caplog.clear()
    assert {ask(router, f"r{i}") for i in range(30)} == {plain.route(PROMPT).agent}
    (tmp_path / "choices.jsonl").rmdir()
    ask(router, "logged")
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert json.loads((tmp_path / "choices.jsonl").read_text())["request_id"] == "logged"
