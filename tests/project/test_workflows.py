"""What .github says is true of the project, and gives nobody more than it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.rollout import main as rollout_main

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # `on` is a word, not true
    return found


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(path)["jobs"]
    return found


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(path).values():
        yield from job.get("steps", ())


def test_the_workflows_that_are_promised_are_there() -> None:
    assert {path.stem for path in WORKFLOWS} == {"ci", "images", "release", "rollout", "security"}


@every_workflow
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    for use in used:
        assert re.match(r"\./|[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", use), use


def test_an_action_has_one_pin() -> None:
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    pins = set(re.findall(r"uses: ([\w-]+/[\w-]+)@(\S+ # \S+)", text))
    assert len(pins) == len({name for name, _ in pins}) > 5


@every_workflow
def test_rights_are_given_job_by_job(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    assert "pull_request_target" not in workflow["on"]
    assert "workflow_run" not in workflow["on"]
    for name, job in jobs(path).items():
        assert job["permissions"].get("contents") in ("read", "write"), name
        is_writing = [right for right, how in job["permissions"].items() if how == "write"]
        assert not is_writing or path.stem == "release", name
        assert "uses" in job or "timeout-minutes" in job, name


@every_workflow
def test_no_credential_stays_in_a_checkout(path: Path) -> None:
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


@every_workflow
def test_secrets_are_behind_an_environment(path: Path) -> None:
    for name, job in jobs(path).items():
        if "secrets." in str(job) or "secrets" in job:
            assert job["environment"] in ("staging", "production"), name
    if {"pull_request", "schedule"} & set(read(path)["on"]):
        assert "secrets." not in path.read_text()


@every_workflow
def test_what_a_person_types_is_no_script(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", ""), step


@every_workflow
def test_commands_name_what_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(path):
        run = step.get("run", "")
        assert set(re.findall(r"^ *make ([a-z-]+)", run, re.MULTILINE)) <= targets
        for named in re.findall(r"\b(?:scripts|requirements|src)/[\w/.-]+", run):
            assert (ROOT / named).exists(), named


def test_every_python_is_tested() -> None:
    (matrix,) = (
        job["strategy"]["matrix"]["python"]
        for job in jobs(GITHUB / "workflows/ci.yml").values()
        if "strategy" in job
    )
    told = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert matrix == told


def test_what_the_tests_need_of_debian_is_installed() -> None:
    needed = set(re.findall(r"missing\+=\(([\w-]+)\)", (ROOT / ".ci/run").read_text()))
    assert len(needed) > 5
    of_the_runner = {"make", "python3", "python3-venv"}
    assert needed - of_the_runner <= set((GITHUB / "workflows/ci.yml").read_text().split())


def test_production_comes_after_staging_and_both_after_the_images_origin() -> None:
    rollout = jobs(GITHUB / "workflows/rollout.yml")
    assert rollout["staging"]["needs"] == "verify"
    assert rollout["production"]["needs"] == "staging"
    assert "gh attestation verify" in rollout["verify"]["steps"][-1]["run"]


def test_the_rollouts_command_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        rollout_main(["--help"])
    offered = capsys.readouterr().out
    runs = [
        step["run"]
        for step in steps(GITHUB / "workflows/rollout.yml")
        if "scripts/rollout.py" in step.get("run", "")
    ]
    assert len(runs) == 2
    for run in runs:
        for option in re.findall(r"--[a-z-]+", run):
            assert option in offered


def test_a_bug_report_has_the_guides_four_fields() -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE/bug.yml")["body"]
    fields = [field for field in form if field["type"] != "markdown"]
    assert [field["id"] for field in fields] == ["environment", "logs", "steps", "behaviour"]
    assert all(field["validations"]["required"] == "true" for field in fields)


def test_dependabot_looks_where_there_is_something() -> None:
    for update in read(GITHUB / "dependabot.yml")["updates"]:
        assert (ROOT / update["directory"].lstrip("/")).is_dir()
    assert "pip" not in {u["package-ecosystem"] for u in read(GITHUB / "dependabot.yml")["updates"]}
