"""What a caller may say of its time."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from adaptive_lora.errors import InvalidRequest
from adaptive_lora.serving.admission.timeout import HEADER, timeout_of


def headers(*values: str) -> Headers:
    return Headers(raw=[(HEADER.encode(), value.encode()) for value in values])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1", 1.0), ("2.5", 2.5), ("0.001", 0.001), ("007", 7.0), ("999999999", 999_999_999.0)],
)
def test_a_number_of_seconds(value: str, seconds: float) -> None:
    assert timeout_of(headers(value)) == seconds


def test_none() -> None:
    assert timeout_of(headers()) is None


@pytest.mark.parametrize(
    "value",
    [
        *("", "0", "0.000", "-1", "+1", "1e3", "inf", "nan", "1s", "1,5", "0x10", " ", "1 ", "1.", ".5"),
        *("1_000", "\u0661", "1" * 10, "1.0123456789", "1;2", "1\n"),
    ],
)
def test_anything_else_is_refused(value: str) -> None:
    raw = [(HEADER.encode(), value.encode("utf-8"))]
    with pytest.raises(InvalidRequest, match=HEADER):
        timeout_of(Headers(raw=raw))


def test_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        timeout_of(headers("1", "1"))
