"""The shippers' files beside what the gateway logs. Neither program is here: they are parsed, and what they
name is looked up in real lines."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime
from typing import Any

from adaptive_lora.telemetry.logging import JsonFormatter
from tests.deploy.monitoring_files import MONITORING, yaml_of

FLUENT_BIT = MONITORING / "logging/fluent-bit.yaml"
VECTOR = MONITORING / "logging/vector.yaml"


def line() -> dict[str, Any]:
    record = logging.LogRecord("adaptive_lora.access", logging.INFO, __file__, 1, "GET /live 200", (), None)
    parsed: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return parsed


def test_fluent_bit_reads_our_time_and_names_keys_that_there_are() -> None:
    config = yaml_of(FLUENT_BIT)
    (parser,) = config["parsers"]
    assert parser["format"] == "json"
    written = line()[parser["time_key"]]
    assert datetime.strptime(written, parser["time_format"].replace("%L", "%f")).tzinfo is not None
    commented = re.findall(r"severity_key: (\w+)", FLUENT_BIT.read_text())
    assert commented == ["level"]
    assert "level" in line()


def test_fluent_bits_pipeline_is_connected() -> None:
    config = yaml_of(FLUENT_BIT)
    pipeline = config["pipeline"]
    (source,) = pipeline["inputs"]
    assert all(part["match"] == source["tag"] for part in pipeline["filters"] + pipeline["outputs"])
    (parsing, _) = pipeline["filters"]
    assert parsing["parser"] == config["parsers"][0]["name"]
    assert source["storage.type"] == "filesystem", "lines would be lost while the place is away"


def test_vectors_parts_are_connected_and_its_labels_are_few() -> None:
    config = yaml_of(VECTOR)
    parts = config["sources"].keys() | config["transforms"].keys()
    for part in (*config["transforms"].values(), *config["sinks"].values()):
        assert set(part["inputs"]) <= parts
    labels = config["sinks"]["loki"]["labels"]
    assert labels.keys() == {"service", "level"}
    assert "level" in line()
    assert config["sinks"]["loki"]["buffer"]["type"] == "disk"
