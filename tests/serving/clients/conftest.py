"""Servers that clients are pointed at, and what they are asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from tests.serving.conftest import Listen

USER = [{"role": "user", "content": "some code"}]


class Unit(Enum):
    KG = "kg"
    PIECES = "pieces"


class Item(BaseModel):
    name: str
    amount: float
    unit: Unit
    part_of: Item | None = None


class Card(BaseModel):
    kind: Literal["card"]
    number: str = Field(pattern=r"^\d{4}$")


class Transfer(BaseModel):
    kind: Literal["transfer"]


class Order(BaseModel):
    """What people who write such models write: nested, recursive, enumerated, optional, united, described."""

    number: int = Field(description="of the order")
    items: list[Item]
    paid_by: Transfer | Card
    note: str | None = None
    express: bool = False


def tool(name: str, **arguments: str) -> dict[str, object]:
    """A function as OpenAI declares it; arguments with their types, all required."""
    properties = {argument: {"type": kind} for argument, kind in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {
        "type": "function",
        "function": {"name": name, "description": f"{name}, please", "parameters": parameters},
    }


ADD, PING = tool("add", a="integer", b="integer"), tool("ping")


@pytest.fixture
async def url(listen: Listen) -> AsyncIterator[str]:
    """Base URL of a server without authentication, for `base_url` and the like."""
    async with listen(api={"max_body_bytes": 200_000}) as port:
        yield f"http://127.0.0.1:{port}/v1"
