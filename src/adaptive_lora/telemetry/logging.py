"""Logs: one JSON object a line for machines, plain text on a terminal. No answer is ever logged; of prompts
what `prompts` says.

Whatever a message holds, it stays on one line: a log cannot be forged by what a client sent.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from adaptive_lora.telemetry import tracing

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that the current task serves."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_RECORD_KEYS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_THROUGH_ROOT = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def one_line(text: str) -> str:
    """The text with line breaks, control characters and lone surrogates written as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class RequestIdFilter(logging.Filter):
    """Gives each record the current request's id, unless it brings one, and the ids of its trace if it has
    one."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id_var.get()
        trace = tracing.current()
        if trace is not None:
            record.trace_id = trace.trace_id
            record.span_id = trace.span_id
        return True


class JsonFormatter(logging.Formatter):
    """The guide's keys first: timestamp, level, message, module, request_id; then `extra`, then the
    exception."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
            "module": record.module,
            "request_id": getattr(record, "request_id", None),
            "logger": record.name,
        }
        for key, value in record.__dict__.items():
            if key not in _RECORD_KEYS and key not in fields:
                fields[key] = value
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            line = msgspec.json.encode(fields, enc_hook=str).decode()
        except UnicodeEncodeError:  # lone surrogates, which UTF-8 cannot write
            readable = {key: one_line(v) if isinstance(v, str) else str(v) for key, v in fields.items()}
            line = msgspec.json.encode(readable).decode()
        # JSON lets line breaks beyond ASCII, and what terminals obey, stand as they are.
        return line if line.isascii() else _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


class TextFormatter(logging.Formatter):
    """For people: `12:00:01 INFO  message  key=value`, exceptions on lines of their own."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        request_id = getattr(record, "request_id", None)
        tail = f"  [{request_id}]" if request_id else ""
        line = f"{clock} {record.levelname:<8}{one_line(record.getMessage())}{tail}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            line = "\n".join([line, *map(one_line, trace)])
        return line


def configure_logging(level: str, *, stream: TextIO | None = None, json: bool | None = None) -> None:
    """Send every log of this process to `stream` (default: stderr); replaces what was configured before.

    `json` None means: text if the stream is a terminal, else JSON. Third parties are heard from WARNING on.
    """
    out = sys.stderr if stream is None else stream
    as_json = not out.isatty() if json is None else json
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(RequestIdFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("adaptive_lora").setLevel(level)
    logging.captureWarnings(True)
    for name in _THROUGH_ROOT:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING if level != "DEBUG" else logging.DEBUG)
