import io
import json
import logging

import pytest

from adaptive_lora.telemetry.logging import configure_logging, one_line, request_id_var

GUIDE_KEYS = ["timestamp", "level", "message", "module", "request_id"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_lines_have_the_guides_keys_and_the_requests_id() -> None:
    out = io.StringIO()
    configure_logging("INFO", stream=out)
    token = request_id_var.set("req-1")
    logging.getLogger("adaptive_lora.test").info("served %s", "it", extra={"route": "/generate"})
    request_id_var.reset(token)
    line = json.loads(out.getvalue())
    assert list(line)[:5] == GUIDE_KEYS
    assert (line["level"], line["message"], line["module"]) == ("INFO", "served it", "test_logging")
    assert (line["request_id"], line["route"]) == ("req-1", "/generate")
    assert line["timestamp"].endswith("+00:00")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_message_can_forge_a_line(stream: type[io.StringIO]) -> None:
    out = stream()
    configure_logging("INFO", stream=out)
    logging.getLogger("adaptive_lora").info("a\r\nCRITICAL forged\u2028\x1b[31m \udc00")
    text = out.getvalue()
    assert text.count("\n") == 1
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


def test_exceptions_are_kept() -> None:
    out = io.StringIO()
    configure_logging("INFO", stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("adaptive_lora").exception("it failed")
    assert "ValueError: broken" in json.loads(out.getvalue())["exception"]


def test_levels_ours_as_told_third_parties_from_warning() -> None:
    out = io.StringIO()
    configure_logging("DEBUG", stream=out, json=True)
    logging.getLogger("adaptive_lora").debug("ours")
    logging.getLogger("somebody.else").info("theirs")
    logging.getLogger("uvicorn.error").warning("uvicorn's")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["ours", "uvicorn's"]


def test_configuring_twice_does_not_log_twice() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("INFO", stream=first)
    configure_logging("INFO", stream=second)
    logging.getLogger("adaptive_lora").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_one_line_escapes_and_leaves_the_rest() -> None:
    assert one_line("grün\nx\x00") == "grün\\nx\\x00"
