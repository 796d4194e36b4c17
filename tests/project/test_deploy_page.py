"""docs/how-to/deploy.md: what it claims is there, and what it says to be missing is not."""

from __future__ import annotations

import re
from secrets import token_urlsafe
from typing import Any

import pytest
import yaml

from adaptive_lora.settings_loading import load_settings
from scripts.rollout import Rollout, Target
from tests.project.doc_blocks import ROOT, block_with
from tests.project.test_rollout import Cluster

PAGE = "docs/how-to/deploy.md"
TEXT = (ROOT / PAGE).read_text()
TABLE = TEXT.partition("\n## The guide says, we have\n")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in row.split("|")]
    for row in re.findall(r"^\| (?!the guide|-)(.*)\|$", TABLE, re.MULTILINE)
]
CHECKS = re.findall(r"^- \[ \] (.+)$", TEXT, re.MULTILINE)
SECTIONS = [
    *("Prerequisites", "Infrastructure", "Deployment options", "Step by step", "Monitoring", "Scaling"),
    *("Security", "Cost", "CI/CD", "Troubleshooting"),
    *("Quick-start check-list", "The guide says, we have", "Support"),
]


def named_tests(text: str) -> list[str]:
    return re.findall(r"`(tests/[\w/.]+(?:::\w+)?)`", text)


def check_exists(named: str) -> None:
    path, _, test = named.partition("::")
    assert (ROOT / path).exists(), named
    assert not test or re.search(rf"def {test}\(", (ROOT / path).read_text()), named


def test_the_guides_sections_in_their_order() -> None:
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_has_a_proof_or_says_that_there_is_none(row: list[str]) -> None:
    _, ours, proof = row
    missing = re.findall(r"not there yet: `([^`]+)`", ours)
    for path in missing:
        assert not (ROOT / path).exists(), f"{path} is there: say so, and name its proof"
    assert missing or named_tests(proof) or proof.startswith("not proven: "), row
    for named in named_tests(proof):
        check_exists(named)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check[:30])
def test_a_box_has_its_command_and_its_evidence(check: str) -> None:
    assert "`" in check.partition(": ")[2]
    evidence = check.partition("Evidence: ")[2]
    found = re.findall(r"`((?:tests|monitoring)/[\w/.-]+)`", evidence)
    assert found, check
    for named in found:
        check_exists(named)


def test_the_table_is_read() -> None:
    assert len(ROWS) > 35
    assert {len(row) for row in ROWS} == {3}


def test_the_guides_ten_boxes_are_there() -> None:
    assert len(CHECKS) == 10


def test_workflows_are_those_that_there_are() -> None:
    told = re.findall(r"^\| `(\w+\.yml)` \|", TEXT, re.MULTILINE)
    assert sorted(told) == sorted(path.name for path in (ROOT / ".github/workflows").iterdir())


def test_the_guides_resources() -> None:
    manifests = yaml.safe_load_all((ROOT / "k8s/deployment.yaml").read_text())
    (pod,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    resources = pod["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == ("64Gi", "128Gi")
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"


def test_the_guides_spot_nodes() -> None:
    patch = yaml.safe_load((ROOT / "k8s/overlays/spot/spot.yaml").read_text())["spec"]["template"]["spec"]
    assert patch["nodeSelector"] == {"node.kubernetes.io/lifecycle": "spot"}
    assert {"key": "spot", "operator": "Equal", "value": "true"} in patch["tolerations"]


def test_the_guides_variables() -> None:
    secret = token_urlsafe(48)
    given = {"BASE_MODEL": "org/model", "JWT_SECRET": secret, "HF_TOKEN": "hf_x", "OPENAI_API_KEY": "sk-x"}
    settings = load_settings(ROOT / "configs/serving/production.yaml", environ=given)
    assert settings.model.base_model == "org/model"
    assert settings.auth.jwt_secret is not None
    assert settings.auth.jwt_secret.get_secret_value() == secret


VERBS = {
    "get deployment": {"get"},
    "get replicasets": {"list"},
    "set image": {"get", "patch"},
    "rollout pause": {"get", "patch"},
    "rollout resume": {"get", "patch"},
    "rollout status": {"get", "list", "watch"},
}
"""What kubectl asks of the API server for each of the script's commands."""


def test_a_rollout_may_do_what_it_does_and_no_more() -> None:
    ours, prometheus = yaml.safe_load_all(block_with(PAGE, "kind: Role").text)
    needed: dict[str, set[str]] = {"deployments": set(), "replicasets": set()}
    asked: set[str] = set()

    class Watched(Cluster):
        def kubectl(self, arguments: Any) -> str:
            if arguments[1] == "--raw":
                asked.add(re.sub(r"\?.*", "", arguments[2]))
            else:
                verb = f"{arguments[0]} {arguments[1].partition('/')[0]}"
                needed["replicasets" if "replicasets" in verb else "deployments"].update(VERBS[verb])
            return super().kubectl(arguments)

    target = Target(
        "ml-inference", "adaptive-lora-api", "monitoring/prometheus-kube-prometheus-prometheus:9090"
    )
    rollout = Rollout(target, Watched().kubectl, lambda seconds: None, look_every_s=15)
    rollout.to("registry.example/engine@sha256:new", watch_s=15, ready_s=60)
    given = {rule["resources"][0]: rule for rule in ours["rules"]}
    assert given["deployments"]["resourceNames"] == ["adaptive-lora-api"]
    assert set(given["deployments"]["verbs"]) == needed["deployments"]
    assert set(given["replicasets"]["verbs"]) == needed["replicasets"]
    (rule,) = prometheus["rules"]
    (service,) = rule["resourceNames"]
    assert asked == {
        f"/api/v1/namespaces/{prometheus['metadata']['namespace']}/services/{service}/proxy/api/v1/query"
    }
